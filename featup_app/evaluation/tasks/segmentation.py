"""Linear-probe segmentation of each method (see :mod:`featup_app.evaluation.segmentation`); higher is better."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featup_app.base.progress import Progress, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.records import Records
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.segmentation import SegmentationScore
from featup_app.evaluation.tasks.common import Configuration, typical_seconds
from featup_app.evaluation.tasks.probe_kits import LabelKit, ProbeChoice
from featup_app.evaluation.tasks.probing import (
    Probed,
    fold_spread,
    measure_with_probes,
    report_settings,
    whole_split,
)

FURTHER = (("pixel accuracy", True),)


def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
    """The table of the task; arguments and errors as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`."""
    known = {"transfer": ProbeChoice(plan.probe), "trained": ProbeChoice("ridge", trained=True)}
    choices = {protocol: known[protocol] for protocol in plan.protocols}
    kit, splits = LabelKit(plan), whole_split(plan)
    probed = measure_with_probes(plan, kit, choices, splits, records, folder, progress)
    rows = tuple(_row(plan, configuration, probed) for configuration in probed.found)
    settings = report_settings(plan, probed, choices, splits)
    failures = tuple(probed.failures.items())
    return Report("seg", "mIoU", f"{plan.folds} folds", True, rows, failures, settings, FURTHER)


def score_of(probed: Probed, configuration: Configuration) -> SegmentationScore:
    """The score of a configuration."""
    return SegmentationScore(np.array([values["confusions"] for values in probed.found[configuration]]))


def details_of(plan: Plan, configuration: Configuration, score: SegmentationScore) -> Values:
    """Further numbers of a row, for the report file."""
    names = plan.data.class_names
    return {
        "identity": configuration.method.identity,
        "accuracy": score.accuracy,
        "miou": score.miou,
        "fold_miou": score.fold_miou.tolist(),
        "fold_mean": float(score.fold_miou.mean()),
        "class_iou": dict(zip(names, [None if np.isnan(v) else float(v) for v in score.class_iou], strict=True)),
    }


def _row(plan: Plan, configuration: Configuration, probed: Probed) -> Row:
    score, other = score_of(probed, configuration), probed.baseline(configuration)
    difference, interval, details = None, None, details_of(plan, configuration, score)
    if other is not None:
        baseline = score_of(probed, other)
        difference = score.miou - baseline.miou
        resampled = score.bootstrapped_miou(seed=plan.seed) - baseline.bootstrapped_miou(seed=plan.seed)
        interval = statistics.interval(resampled)
        paired = score.fold_miou - baseline.fold_miou
        details |= {"fold_differences": paired.tolist(), "fold_difference_spread": statistics.spread(paired)}
    found = probed.found[configuration]
    return Row(
        method=configuration.method.label,
        protocol=configuration.protocol,
        figure=score.miou,
        spread=fold_spread(score.fold_miou.tolist()),
        difference=difference,
        interval=interval,
        seconds=typical_seconds(found),
        pictures=len(found),
        details=details,
        further={"pixel accuracy": score.accuracy},
    )
