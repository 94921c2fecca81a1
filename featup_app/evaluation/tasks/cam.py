"""Class activation maps of each method, judged by the classifier itself (see :mod:`featup_app.evaluation.explanations`).

FeatUp section 4.1. The class is the one that the classifier finds most probable. If the data set has the class of each picture
(ImageNet's folders), misclassified pictures are left out. Classification, features, guidance, map and mask all use the picture
at the size for which the head was trained, unless another size is given.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from featup_app.backbones.catalogue import CLASSIFIER
from featup_app.base.errors import BackboneError, EvaluationError
from featup_app.base.progress import Progress, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import Item
from featup_app.evaluation.explanations import Confidence, coherency
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.tasks.common import (
    Configuration,
    baseline_of,
    by_method,
    measure_all,
    paired,
    typical_seconds,
)
from featup_app.images import Image
from featup_app.lenses.cam import cam
from featup_app.lenses.masking import BLACK, mask_of, masked_picture, picture_for_classifier, probability

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
            f"Class activation maps need classes, and {backbone.name} tells none apart; use {CLASSIFIER}, which does."
        )
    layer = plan.layer or backbone.class_route.layer
    methods = dataclasses.replace(plan, layer=layer).prepared(for_head=True)
    common = {
        "task": "cam",
        **plan.facts(),
        "layer": layer,
        "input_size": plan.size or f"shorter side {backbone.class_size}",
    }
    configurations = [
        Configuration(method, protocol, configuration_key({**common, "protocol": protocol, **method.identity}))
        for protocol in plan.protocols
        for method in methods
    ]
    identifiers = _class_identifiers(len(backbone.class_names))

    measure = partial(_measure, plan, layer, identifiers)
    found, failures = measure_all(plan.data, configurations, records, measure, progress)
    right = {
        configuration: [values for values in found[configuration] if "wrong" not in values]
        for configuration in configurations
    }
    if not right[configurations[0]]:
        raise EvaluationError(
            f'{backbone.name} gets every picture of "{plan.data.folder}" wrong; use pictures of classes that it knows.'
        )
    confidences = {configuration: _confidence(right[configuration]) for configuration in configurations}
    rows = tuple(_row(plan, configuration, confidences, right[configuration]) for configuration in configurations)
    settings = {
        **common,
        "data": str(plan.data.folder),
        "class": "first choice of the classifier",
        "set_aside": len(found[configurations[0]]) - len(right[configurations[0]]),
        "protocols": plan.protocols,
    }
    return Report("cam", "average drop", "pictures", False, rows, tuple(failures.items()), settings, FURTHER)


def _measure(
    plan: Plan,
    layer: str,
    identifiers: Mapping[str, int],
    item: Item,
    wanted: Sequence[Configuration],
    progress: Progress,
) -> Iterator[tuple[Configuration, Values]]:
    """The values of one picture; of a misclassified picture the name of the wrong class."""
    backbone = plan.backbone
    picture = picture_for_classifier(backbone, item.image(), plan.size)
    scores = torch.softmax(backbone.logits(picture, size=picture.size_hw, progress=progress).double(), dim=0)
    index = int(scores.argmax())
    if item.truth in identifiers and identifiers[item.truth] != index:
        yield from ((configuration, {"wrong": backbone.class_names[index], "seconds": 0.0}) for configuration in wanted)
        return
    explained = _Explained(backbone, layer, picture, index, progress)
    for method, own in by_method(wanted):
        start = time.perf_counter()
        field = method.field(explained.features, progress)
        for configuration in own:
            words = configuration.protocol.split("-")
            values = explained.map_of(field, odds="odds" in words)
            mask = mask_of(values, hard="hard" in words)
            fill = backbone.provenance["mean"] if "mean" in words else BLACK
            masked = masked_picture(picture, mask, fill)
            seconds = time.perf_counter() - start
            similar = None  # another fit, to the masked picture, would take as long as everything else
            if not method.fitted:
                again = _Explained(backbone, layer, masked, index, progress)
                similar = coherency(values, again.map_of(method.field(again.features, progress), odds="odds" in words))
            yield (
                configuration,
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


class _Explained:
    """The features of a picture and the evidence for one class, as the classifier computes them."""

    def __init__(self, backbone: Backbone, layer: str, picture: Image, index: int, progress: Progress) -> None:
        self._backbone, self._picture, self._index = backbone, picture, index
        self._options: dict[str, Any] = {"size": picture.size_hw, "layer": layer, "progress": progress}
        self._weights: dict[bool, Tensor] = {}
        self.features: FeatureMap = backbone.extract(picture, **self._options)

    def map_of(self, field: FeatureField, *, odds: bool) -> Tensor:
        """(H, W) float evidence for the class, from a field of the picture."""
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


def _row(
    plan: Plan, configuration: Configuration, confidences: Mapping[Configuration, Confidence], found: Sequence[Values]
) -> Row:
    own = confidences[configuration]
    drops = 100 * own.drops
    other = baseline_of(configuration, confidences)
    difference, interval = paired(drops, None if other is None else 100 * confidences[other].drops, seed=plan.seed)
    return Row(
        method=configuration.method.label,
        protocol=configuration.protocol,
        figure=float(drops.mean()),
        spread=statistics.spread(drops),
        difference=difference,
        interval=interval,
        seconds=typical_seconds(found),
        pictures=len(drops),
        details={
            "identity": configuration.method.identity,
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
    """Indices of the head's classes by their WordNet identifiers; empty if the classes are not those of ImageNet."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": count})
    return {} if subset is None else {name: index for index, name in enumerate(ImageNetInfo(subset).label_names())}
