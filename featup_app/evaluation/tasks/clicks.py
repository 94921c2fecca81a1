"""What one click is worth on labelled pictures (see :mod:`featup_app.evaluation.clicks`); higher is better.

The figure is the intersection over union at the best threshold of each click's map. Beside it stand that at the threshold which
the program proposes, and the average precision. Scores are averaged over the clicks of a picture, then over pictures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featup_app.base.errors import EvaluationError
from featup_app.base.progress import Progress, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.clicks import (
    BEST,
    PRECISION,
    PROPOSED,
    RAW_ENDING,
    SCORES,
    SMALLEST_SHARE,
    Clicks,
    find_clicks,
    mean_scores,
    score_clicks,
)
from featup_app.evaluation.datasets import Item
from featup_app.evaluation.methods import PreparedMethod
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.tasks.common import (
    Configuration,
    baseline_of,
    by_method,
    check_some_measured,
    measure_all,
    paired,
    typical_seconds,
)
from featup_app.images import Image

if TYPE_CHECKING:
    from featup_app.fields import FeatureField

FURTHER = (("IoU at the proposed threshold", True), ("average precision", True))


LEFT_OUT = "left_out"
"""In the values of a picture that has no clicks: the reason."""


def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
    """The table of the task; arguments and errors as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`."""
    configurations = click_configurations(plan, plan.prepared(), plan.protocols)

    def measure(
        item: Item, wanted: Sequence[Configuration], progress: Progress
    ) -> Iterator[tuple[Configuration, Values]]:
        image = item.image()
        clicks = clicks_on(item, image)
        if isinstance(clicks, str):
            yield from ((configuration, _without_clicks(clicks)) for configuration in wanted)
            return
        features = plan.backbone.extract(image, size=plan.size, layer=plan.layer, progress=progress)
        for method, own in by_method(wanted):
            start = time.perf_counter()
            field = method.field(features, progress)
            yield from measure_clicks(field, clicks, own, made=time.perf_counter() - start, progress=progress)

    measured, failures = measure_all(plan.data, configurations, records, measure, progress)
    names = [item.name for item in plan.data.items if item.name not in failures]
    for name, values in zip(names, measured[configurations[0]], strict=True):
        if LEFT_OUT in values:
            failures[name] = values[LEFT_OUT]
    check_some_measured(plan.data, failures)
    found = {
        configuration: [values for values in measured[configuration] if LEFT_OUT not in values]
        for configuration in configurations
    }
    means = {configuration: _means(found[configuration]) for configuration in configurations}
    for configuration in configurations:
        if not len(means[configuration]):
            raise EvaluationError(
                f'The pictures of "{plan.data.folder}" have one class each, so that a click on a class leaves nothing outside; '
                f"choose another protocol than {configuration.protocol}."
            )
    rows = tuple(_row(plan, configuration, means, found[configuration]) for configuration in configurations)
    small = sum(values["small"] for values in found[configurations[0]])
    settings = {
        **_facts(plan),
        "data": str(plan.data.folder),
        "protocols": plan.protocols,
        "clicks": {row.protocol: row.details["clicks"] for row in rows},
        "small_regions": small,
    }
    failed = tuple(failures.items())
    return Report("clicks", "IoU", "pictures", True, rows, failed, settings, FURTHER, _notes(rows, small))


def click_configurations(
    plan: Plan, methods: Sequence[PreparedMethod], protocols: Sequence[str]
) -> list[Configuration]:
    """The configurations of the task, whichever task measures them."""
    facts = _facts(plan)
    return [
        Configuration(method, protocol, configuration_key({**facts, "protocol": protocol, **method.identity}))
        for protocol in protocols
        for method in methods
    ]


def clicks_on(item: Item, image: Image) -> Clicks | str:
    """The clicks on a picture of a data set, or the reason why there are none.

    Args:
        item: the picture with its labels.
        image: the picture, decoded.
    """
    try:
        labels = item.labels()
        item.check_size("labels", labels.shape, image.size_hw)
        return find_clicks(labels)
    except EvaluationError as error:
        return str(error)


def measure_clicks(
    field: FeatureField,
    clicks: Clicks | str,
    configurations: Sequence[Configuration],
    *,
    made: float = 0.0,
    progress: Progress = silent,
) -> Iterator[tuple[Configuration, Values]]:
    """The values of one picture for configurations of one method.

    Args:
        field: the method's field.
        clicks: from :func:`clicks_on`.
        configurations: from :func:`click_configurations`.
        made: seconds in which the field was made.
        progress: called for each click; may cancel.
    """
    if isinstance(clicks, str):
        yield from ((configuration, _without_clicks(clicks)) for configuration in configurations)
        return
    by_protocol = {configuration.protocol: configuration for configuration in configurations}
    for protocol, values in score_clicks(field, clicks, tuple(by_protocol), progress=progress):
        yield by_protocol[protocol], {**values, "seconds": values["seconds"] + made, "small": clicks.small}
        made = 0.0


def mean_figures(found: Sequence[Values]) -> dict[str, float | None]:
    """Means over the clicks of a picture, then over pictures, by the names of ``evaluation.clicks.SCORES``; None without any."""
    means = _means([values for values in found if LEFT_OUT not in values])
    return {name: float(means[:, index].mean()) if len(means) else None for index, name in enumerate(SCORES)}


def _facts(plan: Plan) -> Values:
    return {"task": "clicks", **plan.facts(), "smallest_share": SMALLEST_SHARE}


def _without_clicks(reason: str) -> Values:
    return {LEFT_OUT: reason, "seconds": 0.0}


def _means(found: Sequence[Values]) -> statistics.Floats:
    """(pictures with clicks, scores): means over the clicks of each picture."""
    rows = [[mean_scores(values)[name] for name in SCORES] for values in found if values[BEST]]
    return np.array(rows, dtype=np.float64).reshape(-1, len(SCORES))


def _row(
    plan: Plan, configuration: Configuration, means: Mapping[Configuration, statistics.Floats], found: Sequence[Values]
) -> Row:
    own, other = means[configuration], baseline_of(configuration, means)
    compared = {
        name: paired(own[:, index], None if other is None else means[other][:, index], seed=plan.seed)
        for index, name in enumerate(SCORES)
    }
    averages = dict(zip(SCORES, own.mean(0).tolist(), strict=True))
    difference, interval = compared[BEST]
    return Row(
        method=configuration.method.label,
        protocol=configuration.protocol,
        figure=averages[BEST],
        spread=statistics.spread(own[:, 0]),
        difference=difference,
        interval=interval,
        seconds=typical_seconds(found),
        pictures=len(own),
        details={
            "identity": configuration.method.identity,
            "clicks": sum(len(values[BEST]) for values in found),
            "per_picture": {name: own[:, index].tolist() for index, name in enumerate(SCORES)},
            "to_bilinear": {
                name: {"difference": mean, "interval": ends} for name, (mean, ends) in compared.items() if ends
            },
        },
        further={FURTHER[0][0]: averages[PROPOSED], FURTHER[1][0]: averages[PRECISION]},
    )


def _notes(rows: Sequence[Row], small: int) -> tuple[str, ...]:
    """How many clicks there were, and how many regions had none."""
    clicks = {row.protocol.removesuffix(RAW_ENDING): row.details["clicks"] for row in rows}
    counts = " and ".join(f"{count} clicks ({kind})" for kind, count in clicks.items())
    return (
        f"{counts}; {small} regions with less than {SMALLEST_SHARE:.0%} of the labelled pixels of their picture were left out.",
    )
