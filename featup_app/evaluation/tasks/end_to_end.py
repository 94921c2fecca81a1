"""End-to-end segmentation with each upsampler inside a network (see :mod:`featup_app.evaluation.end_to_end`); higher is better.

The figure is the validation score after training, averaged over several seeds. One seed gives all methods the same crops, so
differences are computed seed by seed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from featup_app.base.errors import EvaluationError, FeatUpError
from featup_app.base.progress import Progress, part_of, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import Dataset
from featup_app.evaluation.drop_ins import drop_in, operations, trained_parameters
from featup_app.evaluation.end_to_end import (
    BATCH,
    CROP,
    RATE,
    STEPS,
    UPSAMPLER_RATE,
    WIDTH,
    Scene,
    SegmentationHead,
    chosen_layers,
    frame_confusion,
    load_scene,
    train_head,
)
from featup_app.evaluation.methods import BASELINE, MethodChoice
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.statistics import Counts, Floats
from featup_app.evaluation.tasks.common import Failures, fingerprint, until_done

INPUT_SIZE = 224
"""Default shorter side of the backbone's input: features of a hundred pictures then take a minute."""

_ALL = "all pictures"
"""Stored as the picture in the records: a training is scored on all pictures."""

ACCURACY, PARAMETERS, OPERATIONS = "accuracy", "parameters (thousands)", "operations a picture (1e9)"


@dataclass(frozen=True)
class _Run:
    """One training: a method and a seed.

    Attributes:
        choice: the method.
        seed: seed of initial weights, crops and dropout.
        key: name of its configuration in the records.
    """

    choice: MethodChoice
    seed: int
    key: str


def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
    """The table of the task; arguments and errors as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`."""
    if plan.train is None or not plan.train.class_names or plan.train.class_names != plan.data.class_names:
        raise EvaluationError(
            "End-to-end segmentation needs labelled pictures, and labelled training pictures with the same classes."
        )
    failures: Failures = {}
    choices = _usable(plan.methods, failures)
    layers, steps = chosen_layers(plan.backbone), plan.steps or STEPS
    size = plan.size or str(INPUT_SIZE)
    common = {
        "task": "end2end",
        **{name: fact for name, fact in plan.facts().items() if name != "seed"},
        "layer": layers,
        "input_size": size,
        "classes": plan.data.class_names,
        "head": {
            "width": WIDTH,
            "steps": steps,
            "batch": BATCH,
            "crop": CROP,
            "rate": RATE,
            "upsampler_rate": UPSAMPLER_RATE,
        },
        "train": _fingerprints(plan.train, failures),
        "data": _fingerprints(plan.data, failures),
    }
    runs = [
        _Run(choice, seed, configuration_key({**common, **_identity(choice), "seed": seed}))
        for seed in range(plan.seed, plan.seed + plan.repeats)
        for choice in choices
    ]
    scenes = _Scenes(plan, layers, size, failures)

    def attempt(piece: tuple[int, _Run]) -> bool:
        index, run = piece
        run_progress = part_of(progress, index, len(runs), words=f"training with {run.choice.label}, seed {run.seed}")
        run_progress("", 0, 0)
        if records.find(run.key, _ALL) is not None:
            return True
        with records.claimed(run.key) as mine:
            if mine and records.find(run.key, _ALL) is None:
                records.keep(
                    run.key, _ALL, _train_and_score(run, scenes, len(plan.data.class_names), steps, run_progress)
                )
            return mine

    until_done(list(enumerate(runs)), attempt, progress)
    found = {run.key: records.find(run.key, _ALL) or {} for run in runs}
    rows = [_row(choice, runs, found, plan) for choice in choices]
    settings = {
        **common,
        "seeds": [plan.seed, plan.seed + plan.repeats - 1],
        "train": str(plan.train.folder),
        "data": str(plan.data.folder),
        "training_pictures": len(plan.train.items),
    }
    return Report(
        "end2end",
        "mIoU",
        f"{plan.repeats} seeds",
        True,
        tuple(rows),
        tuple(failures.items()),
        settings,
        ((ACCURACY, True), (PARAMETERS, False), (OPERATIONS, False)),
    )


def _usable(choices: Sequence[MethodChoice], failures: Failures) -> list[MethodChoice]:
    """The methods that can be part of a network; the others are added to the failures."""
    usable = []
    for choice in choices:
        try:
            drop_in(choice, WIDTH)
            usable.append(choice)
        except FeatUpError as error:
            failures[choice.label] = str(error)
    if not usable:
        raise EvaluationError(f"No method can be measured; the first reason: {next(iter(failures.values()))}")
    return usable


def _identity(choice: MethodChoice) -> Values:
    """Everything that the initial weights of an upsampler depend on, JSON-able."""
    path = Path(choice.upsampler) if choice.upsampler else None
    if path is None or not path.is_file():
        return {"method": choice.method, "upsampler": choice.upsampler}
    from featup_app.fields import load_upsampler

    return {"method": choice.method, "upsampler": load_upsampler(path).facts()}


def _fingerprints(dataset: Dataset, failures: Failures) -> list[str]:
    names = []
    for item in dataset.items:
        try:
            names.append(fingerprint(item))
        except FeatUpError as error:
            failures[item.name] = str(error)
    return names


def _train_and_score(run: _Run, scenes: _Scenes, classes: int, steps: int, progress: Progress) -> Values:
    train, scored = scenes.both(progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        upsampling = drop_in(run.choice, WIDTH)
        network = SegmentationHead([values.shape[1] for values in train[0].layers], classes, upsampling)
    network.to(train[0].layers[0].device).standardise(train)
    start = time.perf_counter()
    train_head(network, train, steps=steps, seed=run.seed, progress=progress)
    trained = time.perf_counter() - start
    confusions, seconds = [], []
    for index, scene in enumerate(scored):
        progress("labelling", index, len(scored))
        start = time.perf_counter()
        confusions.append(frame_confusion(network, scene, classes).tolist())
        seconds.append(time.perf_counter() - start)
    first = scored[0]
    return {
        "confusions": confusions,
        "seconds": float(np.median(seconds)),
        "training_seconds": trained,
        "parameters": trained_parameters(network),
        "upsampler_parameters": trained_parameters(upsampling),
        "operations": operations(network, [values[:1] for values in first.layers], first.guidance[None]),
    }


def _row(choice: MethodChoice, runs: Sequence[_Run], found: dict[str, Values], plan: Plan) -> Row:
    own, baseline = (
        [found[run.key] for run in runs if run.choice.label == label] for label in (choice.label, BASELINE)
    )
    matrices = _matrices(own)
    figures = statistics.mean_iou(matrices.sum(1))
    difference, interval = None, None
    details: Values = {}
    if baseline and choice.label != BASELINE:
        paired = figures - statistics.mean_iou(_matrices(baseline).sum(1))
        difference = float(paired.mean())
        interval = statistics.interval(_resampled(matrices, plan.seed) - _resampled(_matrices(baseline), plan.seed))
        details = {"seed_differences": paired.tolist(), "seed_difference_spread": statistics.spread(paired)}
    counted = own[0]["operations"]
    return Row(
        method=choice.label,
        protocol="trained together",
        figure=float(figures.mean()),
        spread=statistics.spread(figures),
        difference=difference,
        interval=interval,
        seconds=float(np.median([values["seconds"] for values in own])),
        pictures=matrices.shape[1],
        details={
            "seed_miou": figures.tolist(),
            "upsampler_parameters": own[0]["upsampler_parameters"],
            "training_seconds": float(np.median([values["training_seconds"] for values in own])),
            **details,
        },
        further={
            ACCURACY: float(statistics.pixel_accuracy(matrices.sum(1)).mean()),
            PARAMETERS: own[0]["parameters"] / 1e3,
            OPERATIONS: None if counted is None else counted / 1e9,
        },
    )


def _matrices(found: Sequence[Values]) -> Counts:
    """(seeds, pictures, K, K) int64 confusion matrices."""
    return np.array([values["confusions"] for values in found], dtype=np.int64)


def _resampled(matrices: Counts, seed: int) -> Floats:
    """(resamples) mean over seeds of the mIoU of resampled sets of pictures."""
    counts = statistics.resample_counts(matrices.shape[1], seed=seed)
    figures = []
    for one in matrices:
        sums = (counts @ one.reshape(len(one), -1)).reshape(-1, *one.shape[1:])
        figures.append(statistics.mean_iou(sums))
    mean: Floats = np.mean(figures, axis=0)
    return mean


class _Scenes:
    """Pictures with their features, computed when the first run needs them; those that fail are listed and skipped."""

    def __init__(self, plan: Plan, layers: Sequence[str], size: str, failures: Failures) -> None:
        self._plan, self._layers, self._size, self._failures = plan, layers, size, failures
        self._known: tuple[list[Scene], list[Scene]] | None = None

    def both(self, progress: Progress) -> tuple[list[Scene], list[Scene]]:
        """Training pictures with mirror images, and pictures to score on. Raises EvaluationError if one list is empty."""
        if self._known is None:
            assert self._plan.train is not None
            train = self._load(self._plan.train, mirrored=True, progress=progress)
            self._known = train, self._load(self._plan.data, mirrored=False, progress=progress)
        return self._known

    def _load(self, dataset: Dataset, *, mirrored: bool, progress: Progress) -> list[Scene]:
        scenes = []
        for index, item in enumerate(dataset.items):
            progress(f"features of {item.name}", index, len(dataset.items))
            try:
                scenes.append(load_scene(item, self._plan.backbone, self._layers, size=self._size, mirrored=mirrored))
            except FeatUpError as error:
                self._failures[item.name + (" (training)" if mirrored else "")] = str(error)
        if not scenes:
            raise EvaluationError(f"No picture could be used; the first reason: {next(iter(self._failures.values()))}")
        return scenes
