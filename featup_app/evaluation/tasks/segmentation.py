"""Linear-probe segmentation of each method (see :mod:`featup_app.evaluation.segmentation`); higher is better."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from featup_app.errors import EvaluationError, FeatUpError
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import Dataset, Item
from featup_app.evaluation.methods import BASELINE
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.probe_files import read_probes, write_probes
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.segmentation import (
    Frame,
    ProbeSet,
    SegmentationScore,
    fit_lowres_probes,
    fit_upsampled_probes,
    frame_confusions,
    load_frame,
)
from featup_app.evaluation.tasks.common import Failures, Job, by_method, fingerprint, measure_all, typical_seconds
from featup_app.progress import Progress, silent

_KEPT_FRAMES_BYTES = 2**30


def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
    """The table of the task; arguments and errors as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`."""
    if plan.train is None or not plan.train.class_names or not plan.data.class_names:
        raise EvaluationError("Segmentation needs labelled pictures, and labelled training pictures to fit probes on.")
    if plan.train.class_names != plan.data.class_names:
        raise EvaluationError(
            f'The classes of "{plan.train.folder}" and "{plan.data.folder}" differ; both must list the same ones.'
        )
    common = {
        "task": "seg",
        **plan.facts(),
        "classes": plan.data.class_names,
        "folds": plan.folds,
        "train": [fingerprint(item) for item in plan.train.items],
    }
    failures: Failures = {}
    training = _TrainingFrames(plan, plan.train, failures)
    methods = plan.prepared()
    jobs, probe_keys = [], {}
    for protocol in plan.protocols:
        kind = {"protocol": protocol, "probe": plan.probe if protocol == "transfer" else "ridge"}
        for method in methods:
            job = Job(method, protocol, configuration_key({**common, **kind, **method.identity}))
            fitted_on = method.space if protocol == "transfer" else method.identity
            probe_keys[job] = configuration_key({**common, **kind, "fitted_on": fitted_on})
            jobs.append(job)
    probes: dict[str, ProbeSet] = {}

    def probes_for(job: Job, told: Progress) -> ProbeSet:
        key = probe_keys[job]
        if key not in probes:
            path = folder / f"probes-{key}.npz"
            known = read_probes(path)
            if known is None:
                known = _fit(plan, training, job, told)
                write_probes(known, path)
            probes[key] = known
        return probes[key]

    def measure(item: Item, wanted: Sequence[Job], told: Progress) -> Iterator[tuple[Job, Values]]:
        frame = load_frame(item, plan.backbone, size=plan.size, layer=plan.layer)
        for method, own in by_method(wanted):
            start = time.perf_counter()
            field = method.field(frame.features)
            for job in own:
                counts = frame_confusions(field, probes[probe_keys[job]], frame.labels, progress=told)
                yield job, {"confusions": counts.tolist(), "seconds": time.perf_counter() - start}
                start = time.perf_counter()

    for job in jobs:
        if any(records.find(job.key, fingerprint(item)) is None for item in plan.data.items):
            probes_for(job, progress)
    found, measured = measure_all(plan.data, jobs, records, measure, progress)
    failures.update(measured)
    scores = {job: SegmentationScore(np.array([values["confusions"] for values in found[job]])) for job in jobs}
    rows = [_row(plan, job, scores, found[job]) for job in jobs]
    settings = {
        **common,
        "data": str(plan.data.folder),
        "train": str(plan.train.folder),
        "training_pictures": len(plan.train.items),
        "probe": plan.probe,
    }
    return Report("seg", "mIoU", f"{plan.folds} folds", True, tuple(rows), tuple(failures.items()), settings)


def _row(plan: Plan, job: Job, scores: Mapping[Job, SegmentationScore], found: Sequence[Values]) -> Row:
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
        seconds=typical_seconds(found),
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


def _fit(plan: Plan, training: _TrainingFrames, job: Job, progress: Progress) -> ProbeSet:
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
