"""Targets of probes, classes and depths: how pictures are loaded, probes fitted and scores computed."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from featup_app.base.errors import EvaluationError
from featup_app.base.progress import Progress
from featup_app.evaluation.datasets import DEPTHS, Item
from featup_app.evaluation.depth import (
    DepthFrame,
    depth_figures,
    fit_lowres_depth,
    fit_upsampled_depth,
    load_depth_frame,
)
from featup_app.evaluation.methods import PreparedMethod
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.segmentation import (
    FieldFactory,
    Frame,
    ProbeSet,
    fit_lowres_probes,
    fit_upsampled_probes,
    frame_confusions,
    load_frame,
)
from featup_app.features import FeatureMap
from featup_app.fields import FeatureField

_KEPT_FIELDS = 64


@dataclass(frozen=True)
class ProbeChoice:
    """How probes are fitted.

    Attributes:
        kind: kind of the fit, such as ``ridge``.
        trained: whether probes are fitted on each method's upsampled features, instead of the low-resolution features.
        metric: whether depths are fitted in metres.
    """

    kind: str
    trained: bool = False
    metric: bool = False


class FieldMaker:
    """Computes the fields of a method. Fitted fields are cached, because several probes use each of them.

    Args:
        method: the method.
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
        """:meth:`field` as a function of the features alone."""
        return lambda features: self.field(features, progress)


AnyFrame = TypeVar("AnyFrame", Frame, DepthFrame)


class Kit(ABC, Generic[AnyFrame]):
    """One kind of targets of pixels: how they are read, fitted and scored."""

    facts: Mapping[str, object]
    """Everything that results depend on besides backbone, pictures and probes, JSON-able."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @abstractmethod
    def load(self, item: Item) -> AnyFrame:
        """Load a picture with features and target. Raises FeatUpError."""

    @abstractmethod
    def fit(
        self, choice: ProbeChoice, source: FieldMaker, frames: Iterator[AnyFrame], count: int, progress: Progress
    ) -> ProbeSet:
        """Fit probes on ``count`` training pictures. Raises EvaluationError."""

    @abstractmethod
    def score(
        self, choice: ProbeChoice, field: FeatureField, probes: ProbeSet, frame: AnyFrame, progress: Progress
    ) -> Values:
        """Score one picture; the values are JSON-able."""


class LabelKit(Kit[Frame]):
    """Targets are classes."""

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
        self, choice: ProbeChoice, source: FieldMaker, frames: Iterator[Frame], count: int, progress: Progress
    ) -> ProbeSet:
        plan, classes = self.plan, len(self.plan.data.class_names)
        if choice.trained:
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
            kind=choice.kind,
            progress=progress,
        )

    def score(
        self, choice: ProbeChoice, field: FeatureField, probes: ProbeSet, frame: Frame, progress: Progress
    ) -> Values:
        return {"confusions": frame_confusions(field, probes, frame.labels, progress=progress).tolist()}


class DepthKit(Kit[DepthFrame]):
    """Targets are distances."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.facts = {"target": "depths", "per_metre": {item.name: item.per_metre for item in plan.data.items}}
        for dataset in (plan.data, *([] if plan.train is None else [plan.train])):
            if dataset.kind != DEPTHS:
                raise EvaluationError(f'The folder "{dataset.folder}" holds no depths, which this task needs.')

    def load(self, item: Item) -> DepthFrame:
        return load_depth_frame(item, self.plan.backbone, size=self.plan.size, layer=self.plan.layer)

    def fit(
        self, choice: ProbeChoice, source: FieldMaker, frames: Iterator[DepthFrame], count: int, progress: Progress
    ) -> ProbeSet:
        plan = self.plan
        if choice.trained:
            return fit_upsampled_depth(
                source.maker(progress), frames, count=count, folds=plan.folds, seed=plan.seed, progress=progress
            )
        return fit_lowres_depth(
            (dataclasses.replace(frame, features=source.method.source(frame.features)) for frame in frames),
            count=count,
            folds=plan.folds,
            seed=plan.seed,
            kind=choice.kind,
            metric=choice.metric,
            progress=progress,
        )

    def score(
        self, choice: ProbeChoice, field: FeatureField, probes: ProbeSet, frame: DepthFrame, progress: Progress
    ) -> Values:
        figures = depth_figures(field, probes, frame.target, metric=choice.metric, progress=progress)
        return {"figures": figures.tolist(), "readings": int((frame.target > 0).sum()), "pixels": frame.target.numel()}
