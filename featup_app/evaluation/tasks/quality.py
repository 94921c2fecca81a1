"""Held-out reprojection error of each method on each picture (DESIGN section 8); lower is better."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import Item
from featup_app.evaluation.methods import BASELINE, RAW, PreparedMethod
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.tasks.common import Job, measure_all, typical_seconds
from featup_app.multiview.reprojection import HELD_OUT_SEED, VIEWS, HeldOutViews, held_out_views, reprojection_error
from featup_app.progress import Progress, silent

if TYPE_CHECKING:
    from featup_app.features import FeatureMap


def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
    """The table of the task; arguments and errors as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`."""
    methods = plan.prepared()
    seed = HELD_OUT_SEED + plan.seed
    common = {"task": "quality", **plan.facts(), "views": VIEWS}
    jobs = [Job(method, "held-out views", configuration_key({**common, **method.identity})) for method in methods]

    def measure(item: Item, wanted: Sequence[Job], told: Progress) -> Iterator[tuple[Job, Values]]:
        features = plan.backbone.extract(item.image(), size=plan.size, layer=plan.layer, progress=told)
        views: dict[str, HeldOutViews] = {RAW: held_out_views(features, seed=seed, progress=told)}
        for job in wanted:
            space = job.method.space
            if space not in views:
                views[space] = _in_space(views[RAW], features, job.method)
            start = time.perf_counter()
            result = reprojection_error(job.method.field(features, told), views[space], progress=told)
            yield job, {"per_view": result.per_view, "seconds": time.perf_counter() - start}

    found, failures = measure_all(plan.data, jobs, records, measure, progress)
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
                seconds=typical_seconds(found[job]),
                pictures=len(own),
                details={"identity": job.method.identity, "per_picture": own.tolist()},
            )
        )
    settings = {**common, "data": str(plan.data.folder)}
    return Report("quality", "held-out error", "pictures", False, tuple(rows), tuple(failures.items()), settings)


def _in_space(views: HeldOutViews, features: FeatureMap, method: PreparedMethod) -> HeldOutViews:
    """The views' features in the space of a method's fields."""
    maps = [method.source(dataclasses.replace(features, data=data)).data for data in views.features]
    return dataclasses.replace(views, features=torch.stack(maps))
