"""Linear-probe segmentation: what a field's features say about the class of every pixel.

Two protocols. *Transfer*: the probe is fitted on the backbone's own grid, with the labels averaged over each cell's
footprint, and applied unchanged to every method; this measures whether upsampling keeps the features' meaning. *Trained*:
a probe of its own for each method, fitted on its upsampled features at half the labels' resolution (all pixels, by least
squares); this measures what the upsampled features hold.

Probes are fitted on all training pictures, and once more for each fold without the fold's pictures. Folds are runs of
neighbouring pictures, since frames of a film resemble their neighbours.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from featup_app.base.errors import EvaluationError
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
        name: of the picture.
        features: (C, h, w) and geometry.
        labels: (H, W) int16 of the picture's size; negative where pixels do not count.
    """

    name: str
    features: FeatureMap
    labels: Tensor


@dataclass(frozen=True)
class ProbeSet:
    """Probes of the same kind: first that of all training pictures, then one without each fold.

    Attributes:
        probes: the probes.
        classes: number K of classes.
        trained_on: what they were fitted on, in words.
    """

    probes: tuple[LinearProbe, ...]
    classes: int
    trained_on: str


@dataclass(frozen=True)
class SegmentationScore:
    """How the probes of a set label pictures.

    Attributes:
        confusions: (N, P, K, K) pixels of each picture by label and by the prediction of each probe of the set.
    """

    confusions: Counts

    @property
    def miou(self) -> float:
        """Mean intersection over union of the probe of all training pictures."""
        return float(statistics.mean_iou(self.confusions[:, 0].sum(0)))

    @property
    def accuracy(self) -> float:
        """Share of labelled pixels that this probe gets right."""
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
        FeatUpError: if a file is missing or wrong, or the labels have another size than the picture.
    """
    labels = _labels(item)
    image = item.image()
    _check_size(item, image.size_hw, labels)
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
    """All frames of a data set in memory, for experiments that score many upsamplers.

    Args:
        dataset: with labels.
        size, layer: of the features, as in ``backbone.extract``.
        cache: a file (.npz) for the features; read if it holds those of the same pictures, weights, layer and size,
            else written.
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
        labels = _labels(item)
        _check_size(item, features.image.size_hw, labels)
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
    """Probes for the transfer protocol: of the backbone's cells, each weighted by the labelled part of its footprint.

    Args:
        frames: the training pictures, one after the other; sums are kept of them, and some samples.
        count: how many there are.
        classes: number of classes.
        folds: at least two.
        seed: of the draw of samples from large pictures.
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
    """Probes for the trained protocol: of a method's own features at half the labels' resolution, every pixel.

    Args:
        factory: from a feature map to the method's field.
        frames, count, classes, folds, seed, progress: as in :func:`fit_lowres_probes`. The fit is a ridge.

    Raises:
        EvaluationError: if there are fewer frames than folds, or no labelled pixels.
    """
    members = TrainingFolds(count, folds, classes, seed)
    for index, frame in enumerate(frames):
        progress(f"learning from {frame.name}", index, count)
        height, width = frame.labels.shape
        size = max(1, height // 2), max(1, width // 2)
        shares, labelled = label_shares(frame.labels, size, classes)
        places = torch.arange(size[0] * size[1]).view(size)
        field = factory(frame.features)
        fold = members.of(index, field.channels)
        for region, features in field.tiles(size=size, progress=_in_frame(progress, frame, index, count)):
            inside = places[region.rows, region.columns].flatten()
            fold.add(features.flatten(1).T, shares[inside], labelled[inside], part=len(inside) / places.numel())
    return ProbeSet(tuple(fit_ridge_folds(members.all())), classes, "upsampled features, ridge")


def frame_confusions(field: FeatureField, probes: ProbeSet, labels: Tensor, *, progress: Progress = silent) -> Counts:
    """(P, K, K) pixels of one picture by label and by the prediction of each probe, at the size of the labels."""
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
    """Label every frame with the probes applied to a method's fields.

    Args:
        factory: from a feature map to the method's field, e.g. ``lambda features: upsample(features, method="bilinear")``.
        frames: the pictures to score on.
        probes: from :func:`fit_lowres_probes` or :func:`fit_upsampled_probes`.
        progress: called for each frame; may cancel.
    """
    confusions = []
    for index, frame in enumerate(frames):
        progress(f"labelling {frame.name}", index, len(frames))
        field = factory(frame.features)
        confusions.append(
            frame_confusions(field, probes, frame.labels, progress=_in_frame(progress, frame, index, len(frames)))
        )
    return SegmentationScore(np.stack(confusions))


def _labels(item: Item) -> Tensor:
    return torch.from_numpy(item.labels())


def _check_size(item: Item, image_hw: Size, labels: Tensor) -> None:
    if tuple(labels.shape) != image_hw:
        raise EvaluationError(
            f'The labels "{item.target_path}" are {labels.shape[0]}x{labels.shape[1]} pixels, but their picture is '
            f"{image_hw[0]}x{image_hw[1]}; both must be of the same size."
        )


def _read_cache(path: Path | None, key: str) -> dict[str, np.ndarray] | None:
    if path is None or not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored) if str(stored["key"]) == key else None


def _write_cache(path: Path, key: str, maps: Sequence[FeatureMap]) -> None:
    arrays: dict[str, Any] = {str(index): features.data.cpu().numpy() for index, features in enumerate(maps)}
    arrays["key"] = np.array(key)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            np.savez(stream, **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _in_frame(progress: Progress, frame: Frame, index: int, count: int) -> Progress:
    return part_of(progress, index, count, words=lambda words: f"{words}, {frame.name}")
