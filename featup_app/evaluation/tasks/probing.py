"""Shared by the tasks that fit linear probes: which pictures probes are fitted on, probes on disk, and scores of every method.

A result depends on how its probe was fitted and not on the task that asked for it, so the tasks ``seg``, ``depth`` and
``preserve`` reuse each other's probes and results.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import numpy as np

from featup_app.base.errors import EvaluationError, FeatUpError
from featup_app.base.progress import Progress
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import Dataset, Item
from featup_app.evaluation.methods import PreparedMethod
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.probe_files import read_probes, write_probes
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.segmentation import (
    ProbeSet,
)
from featup_app.evaluation.tasks.common import (
    Configuration,
    Failures,
    baseline_of,
    by_method,
    fingerprint,
    measure_all,
    until_done,
)
from featup_app.evaluation.tasks.probe_kits import AnyFrame, FieldMaker, Kit, ProbeChoice

ENOUGH_SCENES = 5
"""Fewest scenes for which ``auto`` measures scenes with probes of other scenes."""

_KEPT_FRAMES_BYTES = 2**30


@dataclass(frozen=True)
class Split:
    """Pictures to fit probes on, and pictures to measure with these probes.

    Attributes:
        train: pictures to fit on.
        names: names of the pictures to measure; empty for all.
    """

    train: Dataset
    names: frozenset[str] = frozenset()


def whole_split(plan: Plan) -> list[Split]:
    """One split: all pictures are measured with probes of the training pictures. Raises EvaluationError if there are none."""
    if plan.train is None:
        raise EvaluationError("This task fits probes; training pictures are needed.")
    return [Split(plan.train)]


def crossed_splits(plan: Plan) -> list[Split]:
    """The training pictures if there are some; else every picture is measured with probes of other pictures.

    ``plan.cross`` chooses these. ``scenes``: the pictures of all other scenes. ``frames``: parts of every scene, runs of
    neighbouring pictures, are left out in turn. The probe has then seen other pictures of the scene, which favours all methods
    alike; with few scenes, however, probes of the other scenes are useless for any method. ``auto`` uses ``scenes`` from
    :data:`ENOUGH_SCENES` on.

    Raises:
        EvaluationError: if there are too few pictures or scenes.
    """
    if plan.train is not None:
        return [Split(plan.train)]
    members: dict[str, list[Item]] = {}
    for item in plan.data.items:
        members.setdefault(item.scene, []).append(item)
    by_scene = plan.cross == "scenes" or (plan.cross == "auto" and len(members) >= ENOUGH_SCENES)
    groups: dict[str | int, list[Item]] = {}
    positions: dict[str, float] = {}
    for scene, items in members.items():
        for index, item in enumerate(items):
            positions[item.name] = index / len(items)
            groups.setdefault(scene if by_scene else index * plan.folds // len(items), []).append(item)
    if len(groups) < 2:
        raise EvaluationError(
            f'The pictures of "{plan.data.folder}" cannot be measured with probes of each other: '
            f"{'they are all of one scene' if by_scene else 'there are too few'}; give other ones with --train."
        )
    # The folds inside a split are runs of its pictures. Sorted by their position within their scene, each fold has all scenes.
    ordered = plan.data.items if by_scene else sorted(plan.data.items, key=lambda item: positions[item.name])
    splits = []
    for inside in groups.values():
        names = frozenset(item.name for item in inside)
        outside = tuple(item for item in ordered if item.name not in names)
        splits.append(Split(dataclasses.replace(plan.data, items=outside), names))
    return splits


@dataclass(frozen=True)
class Probed:
    """The results of tasks with probes.

    Attributes:
        methods: the methods that were measured.
        found: for each configuration the values of the pictures that could be measured, in the order of the data set.
        failures: why pictures were skipped.
        facts: everything that all results depend on, JSON-able.
    """

    methods: tuple[PreparedMethod, ...]
    found: dict[Configuration, list[Values]]
    failures: Failures
    facts: Values

    def baseline(self, configuration: Configuration) -> Configuration | None:
        """The configuration of bilinear upsampling under the same protocol; None if it is this one or there is none."""
        return baseline_of(configuration, self.found)


class _FittedProbes(Generic[AnyFrame]):
    """The probes of every configuration and split: fitted when first needed, and kept in memory and on disk.

    Args:
        plan: methods, pictures and settings.
        kit: the kind of targets.
        choices: how probes are fitted, by protocol.
        splits: the pictures to fit on.
        facts: everything that all results depend on, JSON-able; ``train`` has the fingerprints of the pictures of each split.
        folder: the store of probes.
        failures: where training pictures that cannot be used are listed.
    """

    def __init__(
        self,
        plan: Plan,
        kit: Kit[AnyFrame],
        choices: Mapping[str, ProbeChoice],
        splits: Sequence[Split],
        facts: Values,
        folder: Path,
        failures: Failures,
    ) -> None:
        self._kit: Kit[AnyFrame] = kit
        self._choices, self._splits, self._facts, self._folder = choices, splits, facts, folder
        self._trained_on: list[list[str]] = facts["train"]
        self._frames: _TrainingFrames[AnyFrame] = _TrainingFrames(kit, failures)
        self._known: dict[str, ProbeSet] = {}
        self.methods = plan.prepared()
        self.fields = {id(method): FieldMaker(method) for method in self.methods}

    def key(self, configuration: Configuration, split: Split) -> str:
        """A name for everything that the probes depend on."""
        choice = self._choices[configuration.protocol]
        fitted_on = configuration.method.identity if choice.trained else configuration.method.space
        pictures = self._trained_on[self._splits.index(split)]
        return configuration_key(
            {**self._facts, "train": pictures, **dataclasses.asdict(choice), "fitted_on": fitted_on}
        )

    def get(self, configuration: Configuration, split: Split, progress: Progress) -> ProbeSet:
        """The probes. Raises EvaluationError if they cannot be fitted."""
        key = self.key(configuration, split)
        if key not in self._known:
            path = self._folder / f"probes-{key}.npz"
            probes = read_probes(path)
            if probes is None:
                frames, count = self._frames.of(split.train), len(split.train.items)
                choice, fields = self._choices[configuration.protocol], self.fields[id(configuration.method)]
                probes = self._kit.fit(choice, fields, frames, count, progress)
                write_probes(probes, path)
            self._known[key] = probes
        return self._known[key]


def measure_with_probes(
    plan: Plan,
    kit: Kit[AnyFrame],
    choices: Mapping[str, ProbeChoice],
    splits: Sequence[Split],
    records: Records,
    folder: Path,
    progress: Progress,
) -> Probed:
    """Fit the missing probes, then apply them to every method's field of every picture.

    Args:
        plan: methods, pictures and settings.
        kit: the kind of targets.
        choices: how probes are fitted, by protocol.
        splits: the pictures to measure, with the pictures to fit on.
        records, folder, progress: as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`.

    Raises:
        EvaluationError: if probes cannot be fitted, or no picture could be measured.
        UpsamplerError: if weights do not fit the backbone.
    """
    failures: Failures = {}
    trained_on = [[_fingerprint_or_name(item) for item in split.train.items] for split in splits]
    facts = {"task": "probes", **plan.facts(), **kit.facts, "folds": plan.folds, "train": trained_on}
    probes = _FittedProbes(plan, kit, choices, splits, facts, folder, failures)
    configurations = [
        Configuration(method, protocol, configuration_key({**facts, **dataclasses.asdict(choice), **method.identity}))
        for protocol, choice in choices.items()
        for method in probes.methods
    ]

    def prepare(needed: tuple[Configuration, Split]) -> bool:
        with records.claimed(f"probes {probes.key(*needed)}") as mine:  # another process may be fitting them
            if mine:
                probes.get(*needed, progress)
            return mine

    def measure(
        item: Item, wanted: Sequence[Configuration], progress: Progress
    ) -> Iterator[tuple[Configuration, Values]]:
        frame = kit.load(item)
        for method, own in by_method(wanted):
            start = time.perf_counter()
            field = probes.fields[id(method)].field(frame.features, progress)
            for configuration in own:
                fitted = probes.get(configuration, _split_of(item, splits), progress)
                values = kit.score(choices[configuration.protocol], field, fitted, frame, progress)
                yield configuration, {**values, "seconds": time.perf_counter() - start}
                start = time.perf_counter()

    until_done(_unmeasured(plan.data, configurations, splits, records), prepare, progress)
    found, measured = measure_all(plan.data, configurations, records, measure, progress)
    return Probed(probes.methods, found, {**failures, **measured}, facts)


def _unmeasured(
    data: Dataset, configurations: Sequence[Configuration], splits: Sequence[Split], records: Records
) -> list[tuple[Configuration, Split]]:
    """The configurations and splits for which values of some picture are missing, so that their probes are needed."""
    pictures = {item.name: _fingerprint_or_name(item) for item in data.items}
    return [
        (configuration, split)
        for configuration in configurations
        for split in splits
        if any(
            records.find(configuration.key, pictures[item.name]) is None
            for item in data.items
            if _split_of(item, splits) is split
        )
    ]


def _split_of(item: Item, splits: Sequence[Split]) -> Split:
    return next(split for split in splits if not split.names or item.name in split.names)


def _fingerprint_or_name(item: Item) -> str:
    """Fingerprint of a picture; its name if a file cannot be read, which is reported when the picture is measured."""
    try:
        return fingerprint(item)
    except EvaluationError:
        return item.name


def report_settings(plan: Plan, probed: Probed, choices: Mapping[str, ProbeChoice], splits: Sequence[Split]) -> Values:
    """The settings of a report, with how its probes were fitted."""
    return {
        **probed.facts,
        "data": str(plan.data.folder),
        "train": f"other pictures, crossed by {plan.cross}" if plan.train is None else str(plan.train.folder),
        "training_pictures": [len(split.train.items) for split in splits],
        "probes": {protocol: dataclasses.asdict(choice) for protocol, choice in choices.items()},
    }


def fold_spread(values: Sequence[float]) -> float:
    """Standard deviation of the figures of probes that were each fitted without one fold."""
    return statistics.spread(np.asarray(values, dtype=np.float64))


class _TrainingFrames(Generic[AnyFrame]):
    """Training pictures, loaded as often as they are needed; features are cached up to :data:`_KEPT_FRAMES_BYTES`."""

    def __init__(self, kit: Kit[AnyFrame], failures: Failures) -> None:
        self._kit: Kit[AnyFrame] = kit
        self._failures = failures
        self._kept: dict[Path, AnyFrame] = {}
        self._bytes = 0

    def of(self, dataset: Dataset) -> Iterator[AnyFrame]:
        """The pictures that can be used; the others are added to the failures."""
        for item in dataset.items:
            if item.image_path in self._kept:
                yield self._kept[item.image_path]
                continue
            try:
                frame = self._kit.load(item)
            except FeatUpError as error:
                self._failures[f"{item.name} (training)"] = str(error)
                continue
            height, width = frame.features.image.size_hw
            needed = frame.features.data.nbytes + frame.features.image.pixels.nbytes + 4 * height * width
            if self._bytes + needed <= _KEPT_FRAMES_BYTES:
                self._kept[item.image_path] = frame
                self._bytes += needed
            yield frame
