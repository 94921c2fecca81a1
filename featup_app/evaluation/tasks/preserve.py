"""Preservation: whether upsampled features still mean what the backbone's own features mean.

A probe is fitted on the low-resolution features and applied unchanged to each method's upsampled features. The figure is the
score of the method minus the score of bilinear upsampling, so bilinear itself has 0. For classes it is a difference of mean
intersection over union (higher is better), for depths a difference of errors in metres after alignment (lower is better).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from featup_app.base.errors import EvaluationError
from featup_app.base.progress import Progress, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import DEPTHS, LABELS
from featup_app.evaluation.depth import FIGURES
from featup_app.evaluation.methods import BASELINE, MethodChoice
from featup_app.evaluation.plan import Plan
from featup_app.evaluation.records import Records
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.tasks import depth, segmentation
from featup_app.evaluation.tasks.common import Configuration, typical_seconds
from featup_app.evaluation.tasks.probe_kits import DepthKit, LabelKit, ProbeChoice
from featup_app.evaluation.tasks.probing import (
    Probed,
    crossed_splits,
    fold_spread,
    measure_with_probes,
    report_settings,
    whole_split,
)

PROBES = {LABELS: ("ridge", "logistic"), DEPTHS: ("ridge", "gradient")}
"""The kinds of probes for each kind of data; all are used unless some are chosen."""


def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
    """The table of the task; arguments and errors as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`."""
    kind = plan.data.kind
    chosen = plan.protocols or PROBES[kind]
    unknown = [protocol for protocol in chosen if protocol not in PROBES[kind]]
    if unknown:
        raise EvaluationError(f'There is no probe "{unknown[0]}" for {kind}; choose among: {", ".join(PROBES[kind])}.')
    if BASELINE not in [method.label for method in plan.methods]:
        plan = dataclasses.replace(plan, methods=(MethodChoice(BASELINE, BASELINE), *plan.methods))
    choices = {protocol: ProbeChoice(protocol) for protocol in chosen}
    splits = crossed_splits(plan) if kind == DEPTHS else whole_split(plan)
    kit: Any = DepthKit(plan) if kind == DEPTHS else LabelKit(plan)
    probed = measure_with_probes(plan, kit, choices, splits, records, folder, progress)
    make = _depth_row if kind == DEPTHS else _label_row
    rows = tuple(make(plan, configuration, probed) for configuration in probed.found)
    settings = report_settings(plan, probed, choices, splits)
    failures = tuple(probed.failures.items())
    spread = f"{plan.folds} folds"
    if kind == DEPTHS:
        distances = ((FIGURES[0], False), *depth.FURTHER)
        return Report(
            "preserve",
            "RMSE (m) minus bilinear's",
            spread,
            False,
            rows,
            failures,
            settings,
            distances,
            depth.notes_of(probed),
        )
    shares = (("mIoU", True), *segmentation.FURTHER)
    return Report("preserve", "mIoU minus bilinear's", spread, True, rows, failures, settings, shares)


def _label_row(plan: Plan, configuration: Configuration, probed: Probed) -> Row:
    score = segmentation.score_of(probed, configuration)
    baseline = segmentation.score_of(probed, probed.baseline(configuration) or configuration)
    resampled = score.bootstrapped_miou(seed=plan.seed) - baseline.bootstrapped_miou(seed=plan.seed)
    return _row(
        configuration,
        probed,
        figure=score.miou - baseline.miou,
        spread=fold_spread((score.fold_miou - baseline.fold_miou).tolist()),
        interval=statistics.interval(resampled),
        details=segmentation.details_of(plan, configuration, score),
        further={"mIoU": score.miou, "pixel accuracy": score.accuracy},
    )


def _depth_row(plan: Plan, configuration: Configuration, probed: Probed) -> Row:
    score = depth.score_of(probed, configuration)
    baseline = depth.score_of(probed, probed.baseline(configuration) or configuration)
    differences = score.means[:, 0] - baseline.means[:, 0]
    resampled = score.bootstrapped(seed=plan.seed) - baseline.bootstrapped(seed=plan.seed)
    return _row(
        configuration,
        probed,
        figure=float(differences[0]),
        spread=fold_spread(differences[1:].tolist()),
        interval=statistics.interval(resampled),
        details=depth.details_of(configuration, score),
        further={FIGURES[0]: float(score.means[0, 0]), **depth.further_of(score)},
    )


def _row(
    configuration: Configuration, probed: Probed, *, figure: float, interval: tuple[float, float], **others: Any
) -> Row:
    """A row whose figure is itself the difference to bilinear."""
    itself = probed.baseline(configuration) is None
    found = probed.found[configuration]
    return Row(
        method=configuration.method.label,
        protocol=configuration.protocol,
        figure=figure,
        difference=None if itself else figure,
        interval=None if itself else interval,
        seconds=typical_seconds(found),
        pictures=len(found),
        **others,
    )
