"""Class activation maps of each method, judged by the classifier itself (see :mod:`featup_app.evaluation.explanations`).

FeatUp section 4.1. The class is the classifier's own first choice; where the data set knows what a picture shows (ImageNet's
folders), pictures that the classifier gets wrong are set aside. Everything happens on the picture at the size for which the
head was trained, unless another is given: classification, features, guidance, map and mask.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from featup_app.base.errors import BackboneError, EvaluationError
from featup_app.base.progress import Progress, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import Item
from featup_app.evaluation.explanations import (
    Confidence,
    coherency,
    mask_of,
    masked_picture,
    picture_for_classifier,
    probability,
)
from featup_app.evaluation.methods import BASELINE
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.tasks.common import Job, by_method, measure_all, typical_seconds
from featup_app.images import Image
from featup_app.lenses.cam import cam

if TYPE_CHECKING:
    from featup_app.backbones import Backbone
    from featup_app.features import FeatureMap
    from featup_app.fields import FeatureField

FURTHER = (
    ("average increase", True),
    ("average gain", True),
    ("complexity", False),
    ("coherency", True),
    ("ADCC", True),
)


def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
    """The table of the task; arguments and errors as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`.

    Raises:
        BackboneError: if the backbone has no head.
    """
    backbone = plan.backbone
    if not backbone.has_head:
        raise BackboneError(
            f"Class activation maps need classes, and {backbone.name} tells none apart; take tf_efficientnet_lite0, which does."
        )
    layer = plan.layer or backbone.layers[-1].name
    methods = dataclasses.replace(plan, layer=layer).prepared(for_head=True)
    common = {
        "task": "cam",
        **plan.facts(),
        "layer": layer,
        "input_size": plan.size or f"shorter side {backbone.class_size}",
    }
    jobs = [
        Job(method, protocol, configuration_key({**common, "protocol": protocol, **method.identity}))
        for protocol in plan.protocols
        for method in methods
    ]
    identifiers = _class_identifiers(len(backbone.class_names))

    def measure(item: Item, wanted: Sequence[Job], told: Progress) -> Iterator[tuple[Job, Values]]:
        picture = picture_for_classifier(backbone, item.image(), plan.size)
        scores = torch.softmax(backbone.logits(picture, size=picture.size_hw, progress=told).double(), dim=0)
        index = int(scores.argmax())
        if item.truth in identifiers and identifiers[item.truth] != index:
            yield from ((job, {"wrong": backbone.class_names[index], "seconds": 0.0}) for job in wanted)
            return
        explained = _Explained(backbone, layer, picture, index, told)
        for method, own in by_method(wanted):
            start = time.perf_counter()
            field = method.field(explained.features, told)
            for job in own:
                words = job.protocol.split("-")
                values = explained.map_of(field, odds="odds" in words)
                mask = mask_of(values, hard="hard" in words)
                fill = backbone.provenance["mean"] if "mean" in words else (0.0, 0.0, 0.0)
                masked = masked_picture(picture, mask, fill)
                seconds = time.perf_counter() - start
                similar = None  # fitting once more to every masked picture would take as long as all the rest
                if not method.fitted:
                    again = _Explained(backbone, layer, masked, index, told)
                    similar = coherency(values, again.map_of(method.field(again.features, told), odds="odds" in words))
                yield (
                    job,
                    {
                        "class": backbone.class_names[index],
                        "whole": float(scores[index]),
                        "masked": probability(backbone, masked, index),
                        "complexity": float(mask.double().mean()),
                        "coherency": similar,
                        "seconds": seconds,
                    },
                )
                start = time.perf_counter()

    found, failures = measure_all(plan.data, jobs, records, measure, progress)
    right = {job: [values for values in found[job] if "wrong" not in values] for job in jobs}
    if not right[jobs[0]]:
        raise EvaluationError(
            f'{backbone.name} gets every picture of "{plan.data.folder}" wrong; measure on pictures of classes that it knows.'
        )
    confidences = {job: _confidence(right[job]) for job in jobs}
    rows = tuple(_row(plan, job, confidences, right[job]) for job in jobs)
    settings = {
        **common,
        "data": str(plan.data.folder),
        "class": "first choice of the classifier",
        "set_aside": len(found[jobs[0]]) - len(right[jobs[0]]),
        "protocols": plan.protocols,
    }
    return Report("cam", "average drop", "pictures", False, rows, tuple(failures.items()), settings, FURTHER)


class _Explained:
    """A picture with the features and the evidence for one class, as the classifier sees it."""

    def __init__(self, backbone: Backbone, layer: str, picture: Image, index: int, progress: Progress) -> None:
        self._backbone, self._picture, self._index = backbone, picture, index
        self._options: dict[str, Any] = {"size": picture.size_hw, "layer": layer, "progress": progress}
        self._weights: dict[bool, Tensor] = {}
        self.features: FeatureMap = backbone.extract(picture, **self._options)

    def map_of(self, field: FeatureField, *, odds: bool) -> Tensor:
        """(H, W) evidence in a field of the picture."""
        if odds not in self._weights:
            weights = self._backbone.class_weights(self._picture, [self._index], odds=odds, **self._options)[1]
            self._weights[odds] = weights
        return cam(field, self._weights[odds], size=self._picture.size_hw, progress=self._options["progress"])[0]


def _confidence(found: Sequence[Values]) -> Confidence:
    columns = {name: [values[name] for values in found] for name in ("whole", "masked", "complexity", "coherency")}
    measured = None not in columns["coherency"]
    return Confidence(
        np.array(columns["whole"]),
        np.array(columns["masked"]),
        np.array(columns["complexity"]),
        np.array(columns["coherency"]) if measured else None,
    )


def _row(plan: Plan, job: Job, confidences: Mapping[Job, Confidence], found: Sequence[Values]) -> Row:
    own = confidences[job]
    drops = 100 * own.drops
    others = [other for other in confidences if other.protocol == job.protocol and other.method.label == BASELINE]
    difference = drops - 100 * confidences[others[0]].drops if others and others[0] is not job else None
    counts = statistics.resample_counts(len(drops), seed=plan.seed)
    return Row(
        method=job.method.label,
        protocol=job.protocol,
        figure=float(drops.mean()),
        spread=statistics.spread(drops),
        difference=None if difference is None else float(difference.mean()),
        interval=None if difference is None else statistics.interval(counts @ difference / len(drops)),
        seconds=typical_seconds(found),
        pictures=len(drops),
        details={
            "identity": job.method.identity,
            "classes": [values["class"] for values in found],
            "whole": own.whole.tolist(),
            "masked": own.masked.tolist(),
        },
        further={
            "average increase": 100 * float(own.increases.mean()),
            "average gain": 100 * float(own.gains.mean()),
            "complexity": 100 * float(own.complexity.mean()),
            "coherency": None if own.coherency is None else 100 * float(own.coherency.mean()),
            "ADCC": None if own.adcc is None else 100 * float(own.adcc.mean()),
        },
    )


def _class_identifiers(count: int) -> dict[str, int]:
    """Numbers of the head's classes by their WordNet identifiers; empty if it is no head for ImageNet."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": count})
    return {} if subset is None else {name: index for index, name in enumerate(ImageNetInfo(subset).label_names())}
