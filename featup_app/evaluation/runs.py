"""Evaluations from folders to tables: picture by picture, each result kept as it comes, failures listed and passed over.

A further task is one function like :func:`evaluate_quality`: it says what a result depends on, measures one picture, and
makes rows of the results.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featup_app.errors import EvaluationError, FeatUpError
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import Dataset, Item
from featup_app.evaluation.methods import BASELINE, RAW, MethodChoice, PreparedMethod
from featup_app.evaluation.probe_files import read_probes, write_probes
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.segmentation import (
    FOLDS,
    PROBES,
    Frame,
    ProbeSet,
    SegmentationScore,
    fit_lowres_probes,
    fit_upsampled_probes,
    frame_confusions,
    load_frame,
)
from featup_app.export.provenance import versions
from featup_app.multiview.reprojection import HELD_OUT_SEED, VIEWS, HeldOutViews, held_out_views, reprojection_error
from featup_app.progress import Progress, silent

if TYPE_CHECKING:
    from featup_app.backbones import Backbone
    from featup_app.features import FeatureMap

PROTOCOLS = ("transfer", "trained")
_KEPT_FRAMES_BYTES = 2**30

Values = dict[str, Any]
Failures = dict[str, str]


@dataclass(frozen=True)
class Plan:
    """What is to be evaluated.

    Attributes:
        backbone: whose features are upsampled.
        methods: the rows of the table.
        data: the pictures to measure on.
        train: the pictures that probes are fitted on; None where nothing is fitted.
        size: of the backbone's input, as in ``backbone.extract``.
        layer: of the backbone; None for its default.
        seed: of everything drawn by chance; bootstrap, held-out views and samples each have a stream of their own.
        folds: of the training pictures.
        probe: ``ridge`` or ``logistic``, for the transfer protocol.
        protocols: ``transfer``, ``trained`` or both.
    """

    backbone: Backbone
    methods: tuple[MethodChoice, ...]
    data: Dataset
    train: Dataset | None = None
    size: str | None = None
    layer: str | None = None
    seed: int = 0
    folds: int = FOLDS
    probe: str = "ridge"
    protocols: tuple[str, ...] = ("transfer",)

    def __post_init__(self) -> None:
        if self.probe not in PROBES:
            raise EvaluationError(f'There is no probe "{self.probe}"; choose one of: {", ".join(PROBES)}.')
        unknown = [protocol for protocol in self.protocols if protocol not in PROTOCOLS]
        if unknown or not self.protocols:
            raise EvaluationError(
                f'There is no protocol "{"".join(unknown[:1])}"; choose among: {", ".join(PROTOCOLS)}.'
            )

    def prepared(self) -> tuple[PreparedMethod, ...]:
        """The methods with their weights at hand. Raises UpsamplerError where weights do not fit."""
        layer = self.backbone.layer(self.layer)
        return tuple(choice.prepare(self.backbone.name, layer.name, layer.channels) for choice in self.methods)

    def facts(self) -> Values:
        """What every result depends on, JSON-able."""
        return {
            "backbone": self.backbone.name,
            "weights_sha256": self.backbone.provenance.get("weights_sha256"),
            "layer": self.backbone.layer(self.layer).name,
            "input_size": self.size,
            "seed": self.seed,
            "software": versions(),
        }


def evaluate_quality(plan: Plan, records: Records, *, progress: Progress = silent) -> Report:
    """Held-out reprojection error of each method on each picture (DESIGN section 8); lower is better.

    Args:
        plan: with pictures; no training pictures are needed.
        records: where results are kept, and found from an earlier run.
        progress: called within pictures; may cancel.

    Raises:
        EvaluationError: if no picture could be measured.
        UpsamplerError: if weights do not fit the backbone.
    """
    methods = plan.prepared()
    seed = HELD_OUT_SEED + plan.seed
    common = {"task": "quality", **plan.facts(), "views": VIEWS}
    jobs = [_Job(method, "held-out views", configuration_key({**common, **method.identity})) for method in methods]

    def measure(item: Item, wanted: Sequence[_Job], told: Progress) -> Iterator[tuple[_Job, Values]]:
        features = plan.backbone.extract(item.image(), size=plan.size, layer=plan.layer, progress=told)
        views: dict[str, HeldOutViews] = {RAW: held_out_views(features, seed=seed, progress=told)}
        for job in wanted:
            space = job.method.space
            if space not in views:
                views[space] = _in_space(views[RAW], features, job.method)
            start = time.perf_counter()
            result = reprojection_error(job.method.field(features), views[space], progress=told)
            yield job, {"per_view": result.per_view, "seconds": time.perf_counter() - start}

    found, failures = _measure_all(plan.data, jobs, records, measure, progress)
    errors = {job: np.array([np.mean(values["per_view"]) for values in found[job]]) for job in jobs}
    baseline = next((errors[job] for job in jobs if job.method.label == BASELINE), None)
    counts = statistics.resample_counts(len(next(iter(errors.values()))), seed=plan.seed)
    rows = []
    for job in jobs:
        own = errors[job]
        difference = None if baseline is None or job.method.label == BASELINE else own - baseline
        rows.append(
            Row(
                method=job.method.label,
                protocol=job.protocol,
                figure=float(own.mean()),
                spread=statistics.spread(own),
                difference=None if difference is None else float(difference.mean()),
                interval=None if difference is None else statistics.interval(counts @ difference / len(own)),
                seconds=_typical_seconds(found[job]),
                pictures=len(own),
                details={"identity": job.method.identity, "per_picture": own.tolist()},
            )
        )
    settings = {**common, "data": str(plan.data.folder)}
    return Report("quality", "held-out error", "pictures", False, tuple(rows), tuple(failures.items()), settings)


def evaluate_segmentation(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
    """Linear-probe segmentation of each method (see :mod:`featup_app.evaluation.segmentation`); higher is better.

    Args:
        plan: with labelled pictures and labelled training pictures.
        records: where results are kept, and found from an earlier run.
        folder: where fitted probes are kept, and found from an earlier run.
        progress: called within pictures; may cancel.

    Raises:
        EvaluationError: if the pictures have no labels, or none could be measured.
        UpsamplerError: if weights do not fit the backbone.
    """
    if plan.train is None or not plan.train.class_names or not plan.data.class_names:
        raise EvaluationError("Segmentation needs labelled pictures, and labelled training pictures to fit probes on.")
    if plan.train.class_names != plan.data.class_names:
        raise EvaluationError(
            f'The classes of "{plan.train.folder}" and "{plan.data.folder}" differ; both must list the same ones.'
        )
    failures: Failures = {}
    training = _TrainingFrames(plan, plan.train, failures)
    common = {
        "task": "seg",
        **plan.facts(),
        "classes": plan.data.class_names,
        "folds": plan.folds,
        "train": [_fingerprint(item) for item in plan.train.items],
    }
    methods = plan.prepared()
    jobs, probe_keys = [], {}
    for protocol in plan.protocols:
        kind = {"protocol": protocol, "probe": plan.probe if protocol == "transfer" else "ridge"}
        for method in methods:
            job = _Job(method, protocol, configuration_key({**common, **kind, **method.identity}))
            fitted_on = method.space if protocol == "transfer" else method.identity
            probe_keys[job] = configuration_key({**common, **kind, "fitted_on": fitted_on})
            jobs.append(job)
    probes: dict[str, ProbeSet] = {}

    def probes_for(job: _Job, told: Progress) -> ProbeSet:
        key = probe_keys[job]
        if key not in probes:
            path = folder / f"probes-{key}.npz"
            known = read_probes(path)
            if known is None:
                known = _fit(plan, training, job, told)
                write_probes(known, path)
            probes[key] = known
        return probes[key]

    def measure(item: Item, wanted: Sequence[_Job], told: Progress) -> Iterator[tuple[_Job, Values]]:
        frame = load_frame(item, plan.backbone, size=plan.size, layer=plan.layer)
        for job in wanted:
            start = time.perf_counter()
            counts = frame_confusions(
                job.method.field(frame.features), probes[probe_keys[job]], frame.labels, progress=told
            )
            yield job, {"confusions": counts.tolist(), "seconds": time.perf_counter() - start}

    for job in jobs:
        if any(records.find(job.key, _fingerprint(item)) is None for item in plan.data.items):
            probes_for(job, progress)
    found, measured = _measure_all(plan.data, jobs, records, measure, progress)
    failures.update(measured)
    scores = {job: SegmentationScore(np.array([values["confusions"] for values in found[job]])) for job in jobs}
    rows = [_segmentation_row(plan, job, scores, found[job]) for job in jobs]
    settings = {
        **common,
        "data": str(plan.data.folder),
        "train": str(plan.train.folder),
        "training_pictures": len(plan.train.items),
        "probe": plan.probe,
    }
    return Report("seg", "mIoU", f"{plan.folds} folds", True, tuple(rows), tuple(failures.items()), settings)


@dataclass(frozen=True, eq=False)
class _Job:
    """One row in the making: a method under a protocol, and the name of its configuration in the records."""

    method: PreparedMethod
    protocol: str
    key: str


_Measure = Callable[[Item, Sequence[_Job], Progress], Iterator[tuple[_Job, Values]]]


def _measure_all(
    data: Dataset, jobs: Sequence[_Job], records: Records, measure: _Measure, progress: Progress
) -> tuple[dict[_Job, list[Values]], Failures]:
    """The values of every job for the pictures for which all jobs have one, and why the others have not."""
    failures: Failures = {}
    found: dict[_Job, list[Values]] = {job: [] for job in jobs}
    for index, item in enumerate(data.items):
        progress(f"measuring {item.name}", index, len(data.items))
        try:
            picture = _fingerprint(item)
            wanted = [job for job in jobs if records.find(job.key, picture) is None]
            if wanted:
                for job, values in measure(item, wanted, _kept(progress, item, index, len(data.items))):
                    records.keep(job.key, picture, values)
        except FeatUpError as error:
            failures[item.name] = str(error)
            continue
        for job in jobs:
            kept = records.find(job.key, picture)
            assert kept is not None
            found[job].append(kept)
    progress("measured", len(data.items), len(data.items))
    if len(failures) == len(data.items):
        raise EvaluationError(f"No picture could be measured; the first says: {next(iter(failures.values()))}")
    return found, failures


def _segmentation_row(plan: Plan, job: _Job, scores: dict[_Job, SegmentationScore], found: Sequence[Values]) -> Row:
    score = scores[job]
    others = [other for other in scores if other.protocol == job.protocol and other.method.label == BASELINE]
    baseline = scores[others[0]] if others and others[0] is not job else None
    own, details = score.fold_miou, {}
    if baseline is not None:
        paired = own - baseline.fold_miou
        details = {"fold_differences": paired.tolist(), "fold_difference_spread": statistics.spread(paired)}
    return Row(
        method=job.method.label,
        protocol=job.protocol,
        figure=score.miou,
        spread=statistics.spread(own),
        difference=None if baseline is None else score.miou - baseline.miou,
        interval=None
        if baseline is None
        else statistics.interval(score.bootstrapped_miou(seed=plan.seed) - baseline.bootstrapped_miou(seed=plan.seed)),
        seconds=_typical_seconds(found),
        pictures=len(found),
        details={
            "identity": job.method.identity,
            "accuracy": score.accuracy,
            "fold_miou": own.tolist(),
            "fold_mean": float(own.mean()),
            "class_iou": dict(
                zip(plan.data.class_names, [None if np.isnan(v) else float(v) for v in score.class_iou], strict=True)
            ),
            **details,
        },
    )


class _TrainingFrames:
    """The training pictures as often as they are needed; features are kept in memory as far as that is reasonable."""

    def __init__(self, plan: Plan, dataset: Dataset, failures: Failures) -> None:
        self._plan, self._dataset, self._failures = plan, dataset, failures
        self._kept: dict[str, Frame] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[Frame]:
        for item in self._dataset.items:
            if item.name in self._kept:
                yield self._kept[item.name]
                continue
            try:
                frame = load_frame(item, self._plan.backbone, size=self._plan.size, layer=self._plan.layer)
            except FeatUpError as error:
                self._failures[f"{item.name} (training)"] = str(error)
                continue
            needed = frame.features.data.nbytes + frame.features.image.pixels.nbytes + frame.labels.nbytes
            if self._bytes + needed <= _KEPT_FRAMES_BYTES:
                self._kept[item.name] = frame
                self._bytes += needed
            yield frame


def _fit(plan: Plan, training: _TrainingFrames, job: _Job, progress: Progress) -> ProbeSet:
    assert plan.train is not None
    count, classes = len(plan.train.items), len(plan.train.class_names)
    if job.protocol == "trained":
        return fit_upsampled_probes(
            job.method.field,
            training,
            count=count,
            classes=classes,
            folds=plan.folds,
            seed=plan.seed,
            progress=progress,
        )
    frames = (dataclasses.replace(frame, features=job.method.source(frame.features)) for frame in training)
    return fit_lowres_probes(
        frames, count=count, classes=classes, folds=plan.folds, seed=plan.seed, kind=plan.probe, progress=progress
    )


def _in_space(views: HeldOutViews, features: FeatureMap, method: PreparedMethod) -> HeldOutViews:
    """The views' features in the space of a method's fields."""
    import torch

    maps = [method.source(dataclasses.replace(features, data=data)).data for data in views.features]
    return dataclasses.replace(views, features=torch.stack(maps))


def _fingerprint(item: Item) -> str:
    """Name of a picture with the hash of what its files hold.

    Raises:
        EvaluationError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in (item.image_path, item.target_path):
        if path is None:
            continue
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise EvaluationError(f'Cannot read "{path}": {error.strerror or error}; check its permissions.') from error
    return f"{item.name} {digest.hexdigest()[:16]}"


def _typical_seconds(found: Sequence[Values]) -> float:
    return float(np.median([values["seconds"] for values in found]))


def _kept(progress: Progress, item: Item, index: int, count: int) -> Progress:
    """Inside a picture the person keeps seeing its number; cancelling still works at every step."""
    return lambda stage, done, total: progress(f"measuring {item.name}", index, count)
