"""What tasks that fit linear probes share: what is fitted on which pictures, kept on disk, and applied to every method's fields.

A result depends on how its probe was fitted and not on the task that asked for it, so the tasks ``seg``, ``depth`` and
``preserve`` find each other's probes and results.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from featup_app.base.errors import EvaluationError, FeatUpError
from featup_app.base.progress import Progress
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import DEPTHS, Dataset, Item
from featup_app.evaluation.depth import (
    DepthFrame,
    depth_figures,
    fit_lowres_depth,
    fit_upsampled_depth,
    load_depth_frame,
)
from featup_app.evaluation.methods import BASELINE, PreparedMethod
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.probe_files import read_probes, write_probes
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.segmentation import (
    FieldFactory,
    Frame,
    ProbeSet,
    fit_lowres_probes,
    fit_upsampled_probes,
    frame_confusions,
    load_frame,
)
from featup_app.evaluation.tasks.common import Failures, Job, by_method, fingerprint, measure_all, until_done
from featup_app.features import FeatureMap
from featup_app.fields import FeatureField

ENOUGH_SCENES = 5

_KEPT_FRAMES_BYTES = 2**30
_KEPT_FIELDS = 64


@dataclass(frozen=True)
class Recipe:
    """How probes are fitted.

    Attributes:
        kind: of the fit.
        trained: whether on each method's own upsampled features, instead of the low-resolution ones for all methods.
        metric: whether depths are fitted in metres.
    """

    kind: str
    trained: bool = False
    metric: bool = False


@dataclass(frozen=True)
class Split:
    """Pictures to fit on, and those to measure with what was fitted.

    Attributes:
        train: the former.
        names: of the latter; empty for all pictures.
    """

    train: Dataset
    names: frozenset[str] = frozenset()


def whole_split(plan: Plan) -> list[Split]:
    """One split: everything is measured with probes of the training pictures. Raises EvaluationError if there are none."""
    if plan.train is None:
        raise EvaluationError("This task fits probes; training pictures are needed.")
    return [Split(plan.train)]


def crossed_splits(plan: Plan) -> list[Split]:
    """The training pictures if there are some; else every picture is measured with probes of others, by ``plan.cross``.

    ``scenes``: those of all other scenes. ``frames``: parts of every scene, runs of neighbouring pictures, are left out in
    turn. A probe then has seen other pictures of the scene, which flatters all methods alike; but with few scenes a probe of
    the others says next to nothing, through whatever method. ``auto`` takes scenes from :data:`ENOUGH_SCENES` on.

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
    places: dict[str, float] = {}
    for scene, items in members.items():
        for index, item in enumerate(items):
            places[item.name] = index / len(items)
            groups.setdefault(scene if by_scene else index * plan.folds // len(items), []).append(item)
    if len(groups) < 2:
        raise EvaluationError(
            f'The pictures of "{plan.data.folder}" cannot be measured with probes of each other: '
            f"{'they are all of one scene' if by_scene else 'there are too few'}; give other ones with --train."
        )
    # The folds inside a split are runs of its pictures: in the order of their places in their scenes, each has all scenes.
    ordered = plan.data.items if by_scene else sorted(plan.data.items, key=lambda item: places[item.name])
    splits = []
    for inside in groups.values():
        names = frozenset(item.name for item in inside)
        outside = tuple(item for item in ordered if item.name not in names)
        splits.append(Split(dataclasses.replace(plan.data, items=outside), names))
    return splits


class FieldMaker:
    """Makes the fields of a method, and remembers those that had to be fitted: several probes are fitted on them and scored.

    Args:
        method: whose fields they are.
    """

    def __init__(self, method: PreparedMethod) -> None:
        self.method = method
        self._kept: OrderedDict[str, FeatureField] = OrderedDict()

    def field(self, features: FeatureMap, progress: Progress) -> FeatureField:
        """The method's field of the features of a picture."""
        if not self.method.fitted:
            return self.method.field(features, progress)
        key = features.image.sha256
        if key not in self._kept:
            self._kept[key] = self.method.field(features, progress)
            if len(self._kept) > _KEPT_FIELDS:
                self._kept.popitem(last=False)
        return self._kept[key]

    def maker(self, progress: Progress) -> FieldFactory:
        """The same as a function of the features alone."""
        return lambda features: self.field(features, progress)


AnyFrame = TypeVar("AnyFrame", Frame, DepthFrame)


class Kit(ABC, Generic[AnyFrame]):
    """What is known about pixels: how it is read, fitted and scored."""

    facts: Mapping[str, object]
    """What results depend on besides backbone, pictures and probes, JSON-able."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @abstractmethod
    def load(self, item: Item) -> AnyFrame:
        """The picture with features and target. Raises FeatUpError."""

    @abstractmethod
    def fit(
        self, recipe: Recipe, source: FieldMaker, frames: Iterator[AnyFrame], count: int, progress: Progress
    ) -> ProbeSet:
        """Probes of training pictures, of which there are ``count``. Raises EvaluationError."""

    @abstractmethod
    def score(
        self, recipe: Recipe, field: FeatureField, probes: ProbeSet, frame: AnyFrame, progress: Progress
    ) -> Values:
        """What is kept of one picture, JSON-able."""


class LabelKit(Kit[Frame]):
    """Classes of pixels."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.facts = {"target": "classes", "classes": plan.data.class_names}
        if plan.train is None or not plan.train.class_names or not plan.data.class_names:
            raise EvaluationError(
                "Segmentation needs labelled pictures, and labelled training pictures to fit probes on."
            )
        if plan.train.class_names != plan.data.class_names:
            raise EvaluationError(
                f'The classes of "{plan.train.folder}" and "{plan.data.folder}" differ; both must list the same ones.'
            )

    def load(self, item: Item) -> Frame:
        return load_frame(item, self.plan.backbone, size=self.plan.size, layer=self.plan.layer)

    def fit(
        self, recipe: Recipe, source: FieldMaker, frames: Iterator[Frame], count: int, progress: Progress
    ) -> ProbeSet:
        plan, classes = self.plan, len(self.plan.data.class_names)
        if recipe.trained:
            return fit_upsampled_probes(
                source.maker(progress),
                frames,
                count=count,
                classes=classes,
                folds=plan.folds,
                seed=plan.seed,
                progress=progress,
            )
        return fit_lowres_probes(
            (dataclasses.replace(frame, features=source.method.source(frame.features)) for frame in frames),
            count=count,
            classes=classes,
            folds=plan.folds,
            seed=plan.seed,
            kind=recipe.kind,
            progress=progress,
        )

    def score(self, recipe: Recipe, field: FeatureField, probes: ProbeSet, frame: Frame, progress: Progress) -> Values:
        return {"confusions": frame_confusions(field, probes, frame.labels, progress=progress).tolist()}


class DepthKit(Kit[DepthFrame]):
    """Distances of pixels."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.facts = {"target": "depths", "per_metre": {item.name: item.per_metre for item in plan.data.items}}
        for dataset in (plan.data, *([] if plan.train is None else [plan.train])):
            if dataset.kind != DEPTHS:
                raise EvaluationError(f'The folder "{dataset.folder}" holds no depths, which this task needs.')

    def load(self, item: Item) -> DepthFrame:
        return load_depth_frame(item, self.plan.backbone, size=self.plan.size, layer=self.plan.layer)

    def fit(
        self, recipe: Recipe, source: FieldMaker, frames: Iterator[DepthFrame], count: int, progress: Progress
    ) -> ProbeSet:
        plan = self.plan
        if recipe.trained:
            return fit_upsampled_depth(
                source.maker(progress), frames, count=count, folds=plan.folds, seed=plan.seed, progress=progress
            )
        return fit_lowres_depth(
            (dataclasses.replace(frame, features=source.method.source(frame.features)) for frame in frames),
            count=count,
            folds=plan.folds,
            seed=plan.seed,
            kind=recipe.kind,
            metric=recipe.metric,
            progress=progress,
        )

    def score(
        self, recipe: Recipe, field: FeatureField, probes: ProbeSet, frame: DepthFrame, progress: Progress
    ) -> Values:
        figures = depth_figures(field, probes, frame.target, metric=recipe.metric, progress=progress)
        return {"figures": figures.tolist()}


@dataclass(frozen=True)
class Probed:
    """What probes found.

    Attributes:
        methods: that were measured.
        found: values of every job for the pictures for which all jobs have one, in the order of the data set.
        failures: why pictures were passed over.
        facts: what all results depend on, JSON-able.
    """

    methods: tuple[PreparedMethod, ...]
    found: dict[Job, list[Values]]
    failures: Failures
    facts: Values

    def baseline(self, job: Job) -> Job | None:
        """The job of bilinear upsampling under the same protocol, unless it is this one or there is none."""
        others = [other for other in self.found if other.protocol == job.protocol and other.method.label == BASELINE]
        return others[0] if others and others[0] is not job else None


def measure_with_probes(
    plan: Plan,
    kit: Kit[AnyFrame],
    recipes: Mapping[str, Recipe],
    splits: Sequence[Split],
    records: Records,
    folder: Path,
    progress: Progress,
) -> Probed:
    """Fit what is missing, then apply each recipe's probes to every method's field of every picture.

    Args:
        plan: methods, pictures and settings.
        kit: what is known about the pixels.
        recipes: by the name of their protocol.
        splits: of the pictures to measure.
        records, folder, progress: as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`.

    Raises:
        EvaluationError: if probes cannot be fitted, or no picture could be measured.
        UpsamplerError: if weights do not fit the backbone.
    """
    failures: Failures = {}
    trained_on = [[_print_of(item) for item in split.train.items] for split in splits]
    facts = {"task": "probes", **plan.facts(), **kit.facts, "folds": plan.folds, "train": trained_on}
    methods = plan.prepared()
    jobs = []
    for protocol, recipe in recipes.items():
        for method in methods:
            key = configuration_key({**facts, **dataclasses.asdict(recipe), **method.identity})
            jobs.append(Job(method, protocol, key))
    makers = {id(method): FieldMaker(method) for method in methods}
    training = _TrainingFrames(kit, failures)
    fitted: dict[str, ProbeSet] = {}

    def probes_key(job: Job, split: Split) -> str:
        recipe = recipes[job.protocol]
        fitted_on = job.method.identity if recipe.trained else job.method.space
        pictures = trained_on[splits.index(split)]
        return configuration_key({**facts, "train": pictures, **dataclasses.asdict(recipe), "fitted_on": fitted_on})

    def probes_for(job: Job, split: Split, told: Progress) -> ProbeSet:
        key = probes_key(job, split)
        if key not in fitted:
            path = folder / f"probes-{key}.npz"
            known = read_probes(path)
            if known is None:
                frames = training.of(split.train)
                known = kit.fit(recipes[job.protocol], makers[id(job.method)], frames, len(split.train.items), told)
                write_probes(known, path)
            fitted[key] = known
        return fitted[key]

    def prepare(needed: tuple[Job, Split]) -> bool:
        with records.claimed(f"probes {probes_key(*needed)}") as mine:  # another process may be fitting them
            if mine:
                probes_for(*needed, progress)
            return mine

    def measure(item: Item, wanted: Sequence[Job], told: Progress) -> Iterator[tuple[Job, Values]]:
        frame = kit.load(item)
        for method, own in by_method(wanted):
            start = time.perf_counter()
            field = makers[id(method)].field(frame.features, told)
            for job in own:
                values = kit.score(
                    recipes[job.protocol], field, probes_for(job, _split_of(item, splits), told), frame, told
                )
                yield job, {**values, "seconds": time.perf_counter() - start}
                start = time.perf_counter()

    needed = _not_measured(plan, jobs, splits, records)
    until_done(needed, prepare, progress)
    found, measured = measure_all(plan.data, jobs, records, measure, progress)
    return Probed(methods, found, {**failures, **measured}, facts)


def _not_measured(
    plan: Plan, jobs: Sequence[Job], splits: Sequence[Split], records: Records
) -> list[tuple[Job, Split]]:
    """Jobs with the splits of which a picture has no result yet."""
    prints = {item.name: _print_of(item) for item in plan.data.items}
    return [
        (job, split)
        for job in jobs
        for split in splits
        if any(
            records.find(job.key, prints[item.name]) is None
            for item in plan.data.items
            if _split_of(item, splits) is split
        )
    ]


def _split_of(item: Item, splits: Sequence[Split]) -> Split:
    return next(split for split in splits if not split.names or item.name in split.names)


def _print_of(item: Item) -> str:
    """Fingerprint of a picture, or its name alone if a file cannot be read: that is told when it is its turn."""
    try:
        return fingerprint(item)
    except EvaluationError:
        return item.name


def told_settings(plan: Plan, probed: Probed, recipes: Mapping[str, Recipe], splits: Sequence[Split]) -> Values:
    """What a report says about how its probes were fitted."""
    return {
        **probed.facts,
        "data": str(plan.data.folder),
        "train": f"other pictures, crossed by {plan.cross}" if plan.train is None else str(plan.train.folder),
        "training_pictures": [len(split.train.items) for split in splits],
        "probes": {protocol: dataclasses.asdict(recipe) for protocol, recipe in recipes.items()},
    }


def fold_spread(values: Sequence[float]) -> float:
    """Standard deviation of the figures of the probes that were each fitted without one fold."""
    return statistics.spread(np.asarray(values, dtype=np.float64))


class _TrainingFrames(Generic[AnyFrame]):
    """Training pictures as often as they are needed; features are kept in memory as far as that is reasonable."""

    def __init__(self, kit: Kit[AnyFrame], failures: Failures) -> None:
        self._kit: Kit[AnyFrame] = kit
        self._failures = failures
        self._kept: dict[Path, AnyFrame] = {}
        self._bytes = 0

    def of(self, dataset: Dataset) -> Iterator[AnyFrame]:
        """The pictures that can be used; the others are listed among the failures."""
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
