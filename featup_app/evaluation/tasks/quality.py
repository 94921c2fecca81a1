"""Held-out reprojection error of each method on each picture (decision 0032); lower is better.

The table also has scores that need neither labels nor jittered views (:mod:`featup_app.lenses.quality`): whether features change
where the image does, whether their average over a cell is the backbone's feature, what leaks over edges, what else they add, and
how often they overshoot.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from featup_app.base.progress import Progress, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.clicks import BEST, CLASS, REGION, Clicks
from featup_app.evaluation.datasets import LABELS, REGIONS, Item
from featup_app.evaluation.methods import RAW, PreparedMethod
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.tasks.clicks import LEFT_OUT, click_configurations, clicks_on, mean_figures, measure_clicks
from featup_app.evaluation.tasks.common import (
    Configuration,
    baseline_of,
    by_method,
    measure_all,
    paired,
    typical_seconds,
)
from featup_app.lenses import SCORES, QualityReference, quality_reference, quality_scores
from featup_app.lenses.quality import COMPONENTS
from featup_app.multiview.held_out import HELD_OUT_SEED, HELD_OUT_VIEWS
from featup_app.multiview.reprojection import HeldOutViews, held_out_views, reprojection_error

if TYPE_CHECKING:
    from featup_app.features import FeatureMap

HELD_OUT = "held-out views"

_SHOWN = tuple(score for score in SCORES if score.key not in ("preservation_cosine", "halo_size", "held_out_error"))
"""Cosine and overshoot follow drift and halo."""

_CLICK_COLUMNS = {REGION: "region IoU", CLASS: "class IoU"}


def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
    """The table of the task; arguments and errors as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`.

    Where the data have labels, the table also shows what one click finds (task ``clicks``).
    """
    methods = plan.prepared()
    common = {
        "task": "quality",
        **plan.facts(),
        "views": HELD_OUT_VIEWS,
        "components": COMPONENTS,
        "scores": [score.key for score in SCORES],
    }
    configurations = [
        Configuration(method, HELD_OUT, configuration_key({**common, **method.identity})) for method in methods
    ]
    labelled = plan.data.kind in (LABELS, REGIONS)
    clicked = click_configurations(plan, methods, tuple(_CLICK_COLUMNS) if labelled else ())
    measure = partial(_measure, plan)
    found, failures = measure_all(plan.data, [*configurations, *clicked], records, measure, progress)
    errors = {
        configuration: np.array([np.mean(values["per_view"]) for values in found[configuration]])
        for configuration in configurations
    }
    rows = []
    for configuration in configurations:
        own, other = errors[configuration], baseline_of(configuration, configurations)
        difference, interval = paired(own, None if other is None else errors[other], seed=plan.seed)
        clicks = {
            _CLICK_COLUMNS[entry.protocol]: mean_figures(found[entry])[BEST]
            for entry in clicked
            if entry.method is configuration.method
        }
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
                further={
                    **{score.title.lower(): _mean_score(found[configuration], score.key) for score in _SHOWN},
                    **clicks,
                },
            )
        )
    further = [(score.title.lower(), score.higher_is_better) for score in _SHOWN]
    further += [(title, True) for title in _CLICK_COLUMNS.values() if labelled]
    return Report(
        "quality",
        "held-out error",
        "pictures",
        False,
        tuple(rows),
        tuple(failures.items()),
        {**common, "data": str(plan.data.folder)},
        tuple(further),
        _notes(found[clicked[0]]) if clicked else (),
    )


def _measure(
    plan: Plan, item: Item, wanted: Sequence[Configuration], progress: Progress
) -> Iterator[tuple[Configuration, Values]]:
    """The values of one picture."""
    image = item.image()
    features = plan.backbone.extract(image, size=plan.size, layer=plan.layer, progress=progress)
    views: dict[str, HeldOutViews] = {}
    references: dict[str, QualityReference] = {}
    clicks: list[Clicks | str] = []
    for method, own in by_method(wanted):
        start = time.perf_counter()
        field = method.field(features, progress)
        made = time.perf_counter() - start
        clicked = [configuration for configuration in own if configuration.protocol != HELD_OUT]
        for configuration in (configuration for configuration in own if configuration.protocol == HELD_OUT):
            space = method.space
            if RAW not in views:
                views[RAW] = held_out_views(features, seed=HELD_OUT_SEED + plan.seed, progress=progress)
            if space not in views:
                views[space] = _in_space(views[RAW], features, method)
            if space not in references:
                references[space] = quality_reference(method.source(features), progress=progress)
            start = time.perf_counter()
            result = reprojection_error(field, views[space], progress=progress)
            seconds = made + time.perf_counter() - start
            scores = dataclasses.asdict(quality_scores(field, references[space], progress=progress))
            yield configuration, {"per_view": result.per_view, "seconds": seconds, "scores": scores}
        if clicked:
            clicks = clicks or [clicks_on(item, image)]
            yield from measure_clicks(field, clicks[0], clicked, made=made, progress=progress)


def _notes(found: Sequence[Values]) -> tuple[str, ...]:
    """A sentence about the pictures that have no clicks."""
    reasons = [values[LEFT_OUT] for values in found if LEFT_OUT in values]
    return (f"Pictures without clicks: {len(reasons)}. The first reason: {reasons[0]}",) if reasons else ()


def _mean_score(found: Sequence[Values], key: str) -> float | None:
    """Mean over the pictures for which the score is defined; None if there are none."""
    values = [values["scores"][key] for values in found]
    defined = [value for value in values if math.isfinite(value)]
    return sum(defined) / len(defined) if defined else None


def _in_space(views: HeldOutViews, features: FeatureMap, method: PreparedMethod) -> HeldOutViews:
    """The features of the views in the space of a method's fields."""
    maps = [method.source(dataclasses.replace(features, data=data)).data for data in views.features]
    return dataclasses.replace(views, features=torch.stack(maps))
