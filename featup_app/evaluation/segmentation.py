"""Linear-probe segmentation: the class of every pixel, predicted from the features of a field.

Two protocols. *Transfer*: the probe is fitted on the backbone's own grid, with the labels averaged over each cell, and applied
unchanged to every method; this measures whether upsampling keeps the features' meaning. *Trained*: each method has its own
probe, fitted on its upsampled features at half the labels' resolution (all pixels, by least squares); this measures the
information in the upsampled features.

Probes are fitted on all training pictures, and again for each fold without the fold's pictures. Folds are runs of neighbouring
pictures, because frames of a film resemble their neighbours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from featup_app.base.files import partial_name
from featup_app.base.progress import Progress, part_of, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import Dataset, Item
from featup_app.evaluation.footprints import label_shares
from featup_app.evaluation.plan import FOLDS
from featup_app.evaluation.probes import LinearProbe, TrainingFolds, fit_logistic_folds, fit_ridge_folds
from featup_app.evaluation.statistics import Counts, Floats
from featup_app.features import FeatureMap, Geometry, Region, Size

if TYPE_CHECKING:
    from featup_app.backbones import Backbone
    from featup_app.fields import FeatureField

FieldFactory = Callable[[FeatureMap], "FeatureField"]

_SCORES_BUDGET = 192 * 2**20


@dataclass(frozen=True)
class Frame:
    """A labelled picture with its low-resolution features.

    Attributes:
        name: name of the picture.
        features: (C, h, w) and geometry.
        labels: (H, W) int16 of the picture's size; negative where pixels do not count.
    """

    name: str
    features: FeatureMap
    labels: Tensor


@dataclass(frozen=True)
class ProbeSet:
    """Probes of one kind: the first is fitted on all training pictures, the others each without one fold.

    Attributes:
        probes: the probes.
        classes: number K of classes.
        trained_on: description of the features that they were fitted on.
    """

    probes: tuple[LinearProbe, ...]
    classes: int
    trained_on: str


@dataclass(frozen=True)
class SegmentationScore:
    """Predictions of P probes on N labelled pictures.

    Attributes:
        confusions: (N, P, K, K) number of pixels by label and by prediction.
    """

    confusions: Counts

    @property
    def miou(self) -> float:
        """Mean intersection over union of the probe of all training pictures."""
        return float(statistics.mean_iou(self.confusions[:, 0].sum(0)))

    @property
    def accuracy(self) -> float:
        """Share of labelled pixels that this probe predicts correctly."""
        return float(statistics.pixel_accuracy(self.confusions[:, 0].sum(0)))

    @property
    def class_iou(self) -> Floats:
        """(K) intersection over union of this probe; NaN for classes that no pixel has."""
        return statistics.class_iou(self.confusions[:, 0].sum(0))

    @property
    def fold_miou(self) -> Floats:
        """(P - 1) mean intersection over union of the probes without one fold."""
        return statistics.mean_iou(self.confusions[:, 1:].sum(0))

    def bootstrapped_miou(self, *, seed: int) -> Floats:
        """Mean intersection over union of resampled sets of pictures, the same sets for the same seed and number of pictures."""
        counts = statistics.resample_counts(len(self.confusions), seed=seed)
        matrices = self.confusions[:, 0]
        sums = (counts @ matrices.reshape(len(matrices), -1)).reshape(-1, *matrices.shape[1:])
        return statistics.mean_iou(sums)


def load_frame(item: Item, backbone: Backbone, *, size: str | Size | None, layer: str | None) -> Frame:
    """Decode a picture and its labels and run the backbone.

    Raises:
        FeatUpError: if a file is missing or damaged, or the labels have another size than the picture.
    """
    labels, image = torch.from_numpy(item.labels()), item.image()
    item.check_size("labels", tuple(labels.shape), image.size_hw)
    return Frame(item.name, backbone.extract(image, size=size, layer=layer), labels)


def load_frames(
    dataset: Dataset,
    backbone: Backbone,
    *,
    size: str | Size | None = None,
    layer: str | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
) -> list[Frame]:
    """Load all frames of a data set into memory, for experiments that score many upsamplers.

    Args:
        dataset: a data set with labels.
        size, layer: of the features, as in ``backbone.extract``.
        cache: file (.npz) for the features. It is read if it holds the features of the same pictures, weights, layer and size,
            and else written.
        progress: called for each picture; may cancel.

    Raises:
        FeatUpError: for the first picture that cannot be used.
    """
    images = [item.image() for item in dataset.items]
    found = backbone.layer(layer)
    facts = [backbone.provenance["weights_sha256"], backbone.name, found.name, size, [image.sha256 for image in images]]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    known = _read_cache(cache, key)
    maps: list[FeatureMap] = []
    for index, (item, image) in enumerate(zip(dataset.items, images, strict=True)):
        progress(f"features of {item.name}", index, len(images))
        if known is None:
            maps.append(backbone.extract(image, size=size, layer=layer))
            continue
        data = torch.from_numpy(known[str(index)]).to(backbone.device)
        grid = int(data.shape[1]), int(data.shape[2])
        geometry = Geometry(image.size_hw, backbone.input_size(image.size_hw, size), grid)
        maps.append(FeatureMap(data, geometry, found.name, image, backbone, backbone.provenance))
    if cache is not None and known is None:
        _write_cache(cache, key, maps)
    frames = []
    for item, features in zip(dataset.items, maps, strict=True):
        labels = torch.from_numpy(item.labels())
        item.check_size("labels", tuple(labels.shape), features.image.size_hw)
        frames.append(Frame(item.name, features, labels))
    return frames


def fit_lowres_probes(
    frames: Iterable[Frame],
    *,
    count: int,
    classes: int,
    folds: int = FOLDS,
    seed: int = 0,
    kind: str = "ridge",
    progress: Progress = silent,
) -> ProbeSet:
    """Fit probes for the transfer protocol on the backbone's cells, each weighted by the labelled share of its area.

    Args:
        frames: the training pictures, one after the other; only sums and some samples are kept in memory.
        count: number of training pictures.
        classes: number of classes.
        folds: number of folds, at least two.
        seed: seed of the samples of large pictures.
        kind: ``ridge`` (squared error to the shares of the classes, strength chosen on the folds) or ``logistic``
            (cross-entropy of the kept samples).
        progress: called for each frame; may cancel.

    Raises:
        EvaluationError: if there are fewer frames than folds, or no labelled pixels.
    """
    members = TrainingFolds(count, folds, classes, seed)
    for index, frame in enumerate(frames):
        progress(f"learning from {frame.name}", index, count)
        data = frame.features.data.flatten(1).T
        shares, labelled = label_shares(frame.labels, frame.features.geometry.grid_hw, classes)
        members.of(index, data.shape[1]).add(data.double(), shares, labelled)
    fitted = fit_ridge_folds(members.all()) if kind == "ridge" else fit_logistic_folds(members.all(), progress=progress)
    return ProbeSet(tuple(fitted), classes, f"low-res features, {kind}")


def fit_upsampled_probes(
    factory: FieldFactory,
    frames: Iterable[Frame],
    *,
    count: int,
    classes: int,
    folds: int = FOLDS,
    seed: int = 0,
    progress: Progress = silent,
) -> ProbeSet:
    """Fit ridges for the trained protocol on a method's own features at half the labels' resolution, on every pixel.

    Args:
        factory: function from a feature map to the method's field.
        frames, count, classes, folds, seed, progress: as in :func:`fit_lowres_probes`.

    Raises:
        EvaluationError: if there are fewer frames than folds, or no labelled pixels.
    """
    members = TrainingFolds(count, folds, classes, seed)
    for index, frame in enumerate(frames):
        progress(f"learning from {frame.name}", index, count)
        height, width = frame.labels.shape
        size = max(1, height // 2), max(1, width // 2)
        shares, labelled = label_shares(frame.labels, size, classes)
        field = factory(frame.features)
        fold = members.of(index, field.channels)
        for pixels, samples, part in pixel_samples(field, size, in_frame(progress, frame.name, index, count)):
            fold.add(samples, shares[pixels], labelled[pixels], part=part)
    return ProbeSet(tuple(fit_ridge_folds(members.all())), classes, "upsampled features, ridge")


def pixel_samples(field: FeatureField, size: Size, progress: Progress) -> Iterator[tuple[Tensor, Tensor, float]]:
    """The features of a field at every pixel of a size, tile by tile.

    Yields:
        (N) indices of pixels, row by row over the whole size; (N, C) their features; the tile's share of all pixels.
    """
    numbers = torch.arange(size[0] * size[1]).view(size)
    for region, features in field.tiles(size=size, progress=progress):
        pixels = numbers[region.rows, region.columns].flatten()
        yield pixels, features.flatten(1).T, len(pixels) / numbers.numel()


def in_frame(progress: Progress, name: str, index: int, count: int) -> Progress:
    """The progress within picture number ``index`` of ``count``, with the picture's name."""
    return part_of(progress, index, count, words=lambda words: f"{words}, {name}")


def frame_confusions(field: FeatureField, probes: ProbeSet, labels: Tensor, *, progress: Progress = silent) -> Counts:
    """(P, K, K) number of pixels of one picture by label and prediction of each probe, at the size of the labels."""
    size = int(labels.shape[0]), int(labels.shape[1])
    rows = max(1, _SCORES_BUDGET // (4 * probes.classes * len(probes.probes) * size[1]))
    matrix = torch.cat([probe.weights for probe in probes.probes])
    bias = torch.cat([probe.bias for probe in probes.probes])
    truth = labels.numpy()
    result = np.zeros((len(probes.probes), probes.classes, probes.classes), dtype=np.int64)
    for region in Region.split(size, rows, size[1]):
        scores = field.project(matrix, bias, size=size, region=region, progress=progress)
        chosen = scores.view(len(probes.probes), probes.classes, region.height, region.width).argmax(1).cpu().numpy()
        for index, predicted in enumerate(chosen):
            result[index] += statistics.confusion_matrix(predicted, truth[region.rows], probes.classes)
    return result


def score_segmentation(
    factory: FieldFactory, frames: Sequence[Frame], probes: ProbeSet, *, progress: Progress = silent
) -> SegmentationScore:
    """Predict the labels of every frame with probes of a method's fields.

    Args:
        factory: function from a feature map to the method's field, such as
            ``lambda features: upsample(features, method="bilinear")``.
        frames: the pictures to score on.
        probes: from :func:`fit_lowres_probes` or :func:`fit_upsampled_probes`.
        progress: called for each frame; may cancel.
    """
    confusions = []
    for index, frame in enumerate(frames):
        progress(f"labelling {frame.name}", index, len(frames))
        field = factory(frame.features)
        confusions.append(
            frame_confusions(field, probes, frame.labels, progress=in_frame(progress, frame.name, index, len(frames)))
        )
    return SegmentationScore(np.stack(confusions))


def _read_cache(path: Path | None, key: str) -> dict[str, np.ndarray] | None:
    if path is None or not path.is_file():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return dict(stored) if str(stored["key"]) == key else None
    except Exception:  # noqa: BLE001 - a damaged file breaks the reader in any way, and is written anew
        return None


def _write_cache(path: Path, key: str, maps: Sequence[FeatureMap]) -> None:
    arrays: dict[str, Any] = {str(index): features.data.cpu().numpy() for index, features in enumerate(maps)}
    arrays["key"] = np.array(key)
    part = partial_name(path)
    try:
        with part.open("wb") as stream:
            np.savez(stream, **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
