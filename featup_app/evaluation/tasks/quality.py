"""Held-out reprojection error of each method on each picture (decision 0032); lower is better.

The table also has scores that need neither labels nor jittered views (:mod:`featup_app.lenses.quality`): whether features change
where the image does, whether their average over a cell is the backbone's feature, and how far they overshoot.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from featup_app.base.progress import Progress, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import Item
from featup_app.evaluation.methods import RAW, PreparedMethod
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.tasks.common import Configuration, baseline_of, measure_all, paired, typical_seconds
from featup_app.lenses import SCORES, QualityReference, quality_reference, quality_scores
from featup_app.lenses.quality import COMPONENTS
from featup_app.multiview.held_out import HELD_OUT_SEED, HELD_OUT_VIEWS
from featup_app.multiview.reprojection import HeldOutViews, held_out_views, reprojection_error

if TYPE_CHECKING:
    from featup_app.features import FeatureMap

_SHOWN = tuple(score for score in SCORES if score.key in ("edge_alignment", "preservation_error", "halo_share"))


def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
    """The table of the task; arguments and errors as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`."""
    methods = plan.prepared()
    seed = HELD_OUT_SEED + plan.seed
    common = {"task": "quality", **plan.facts(), "views": HELD_OUT_VIEWS, "components": COMPONENTS}
    configurations = [
        Configuration(method, "held-out views", configuration_key({**common, **method.identity})) for method in methods
    ]

    def measure(
        item: Item, wanted: Sequence[Configuration], progress: Progress
    ) -> Iterator[tuple[Configuration, Values]]:
        features = plan.backbone.extract(item.image(), size=plan.size, layer=plan.layer, progress=progress)
        views: dict[str, HeldOutViews] = {RAW: held_out_views(features, seed=seed, progress=progress)}
        references: dict[str, QualityReference] = {}
        for configuration in wanted:
            space = configuration.method.space
            if space not in views:
                views[space] = _in_space(views[RAW], features, configuration.method)
            if space not in references:
                references[space] = quality_reference(configuration.method.source(features), progress=progress)
            start = time.perf_counter()
            field = configuration.method.field(features, progress)
            result = reprojection_error(field, views[space], progress=progress)
            seconds = time.perf_counter() - start
            scores = dataclasses.asdict(quality_scores(field, references[space], progress=progress))
            yield configuration, {"per_view": result.per_view, "seconds": seconds, "scores": scores}

    found, failures = measure_all(plan.data, configurations, records, measure, progress)
    errors = {
        configuration: np.array([np.mean(values["per_view"]) for values in found[configuration]])
        for configuration in configurations
    }
    rows = []
    for configuration in configurations:
        own, other = errors[configuration], baseline_of(configuration, configurations)
        difference, interval = paired(own, None if other is None else errors[other], seed=plan.seed)
        rows.append(
            Row(
                method=configuration.method.label,
                protocol=configuration.protocol,
                figure=float(own.mean()),
                spread=statistics.spread(own),
                difference=difference,
                interval=interval,
                seconds=typical_seconds(found[configuration]),
                pictures=len(own),
                details={"identity": configuration.method.identity, "per_picture": own.tolist()},
                further={score.title.lower(): _mean_score(found[configuration], score.key) for score in _SHOWN},
            )
        )
    settings = {**common, "data": str(plan.data.folder)}
    further = tuple((score.title.lower(), score.higher_is_better) for score in _SHOWN)
    failed = tuple(failures.items())
    return Report("quality", "held-out error", "pictures", False, tuple(rows), failed, settings, further)


def _mean_score(found: Sequence[Values], key: str) -> float | None:
    """Mean over the pictures for which the score is defined; None if there are none."""
    values = [values["scores"][key] for values in found]
    defined = [value for value in values if math.isfinite(value)]
    return sum(defined) / len(defined) if defined else None


def _in_space(views: HeldOutViews, features: FeatureMap, method: PreparedMethod) -> HeldOutViews:
    """The features of the views in the space of a method's fields."""
    maps = [method.source(dataclasses.replace(features, data=data)).data for data in views.features]
    return dataclasses.replace(views, features=torch.stack(maps))
