"""Linear-probe depth of each method (see :mod:`featup_app.evaluation.depth`); lower is better.

Without training pictures, every picture is measured with probes fitted to other pictures, see ``probing.crossed_splits``. The
spread is over probes that were each fitted without one fold of the training pictures, the interval over resampled pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featup_app.base.progress import Progress, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.depth import FIGURES, DepthScore
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.records import Records
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.tasks.common import Configuration, typical_seconds
from featup_app.evaluation.tasks.probe_kits import DepthKit, ProbeChoice
from featup_app.evaluation.tasks.probing import (
    Probed,
    crossed_splits,
    fold_spread,
    measure_with_probes,
    report_settings,
)

FURTHER = ((FIGURES[1], False), ("within 1.25 (%)", True), (FIGURES[2], False))


def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
    """The table of the task; arguments and errors as in :meth:`~featup_app.evaluation.tasks.Task.evaluate`."""
    known = {
        "transfer": ProbeChoice(plan.probe),
        "trained": ProbeChoice("ridge", trained=True),
        "metric": ProbeChoice("ridge", metric=True),
    }
    choices = {protocol: known[protocol] for protocol in plan.protocols}
    kit, splits = DepthKit(plan), crossed_splits(plan)
    probed = measure_with_probes(plan, kit, choices, splits, records, folder, progress)
    rows = tuple(_row(plan, configuration, probed) for configuration in probed.found)
    settings = report_settings(plan, probed, choices, splits)
    failures = tuple(probed.failures.items())
    spread = f"{plan.folds} folds"
    return Report("depth", FIGURES[0], spread, False, rows, failures, settings, FURTHER, notes_of(probed))


def notes_of(probed: Probed) -> tuple[str, ...]:
    """A sentence about the pixels without readings, if there are some."""
    found = next(iter(probed.found.values()), [])
    readings, pixels = (sum(values.get(name, 0) for values in found) for name in ("readings", "pixels"))
    if readings == pixels:
        return ()
    share = 100 * readings / pixels
    return (
        f"Depths were measured at {readings:,} of {pixels:,} pixels ({share:.1f} %); the others (zero, negative, infinite or "
        "not a number) are left out.",
    )


def score_of(probed: Probed, configuration: Configuration) -> DepthScore:
    """The score of a configuration."""
    return DepthScore(np.array([values["figures"] for values in probed.found[configuration]]))


def details_of(configuration: Configuration, score: DepthScore) -> Values:
    """Further numbers of a row, for the report file."""
    return {
        "identity": configuration.method.identity,
        "per_picture": score.figures[:, 0].tolist(),
        "fold_means": score.means[1:].tolist(),
    }


def further_of(score: DepthScore) -> dict[str, float | None]:
    """Further figures of a row, with columns of their own."""
    _, above, relative = (float(value) for value in score.means[0])
    return {FIGURES[1]: above, "within 1.25 (%)": 100.0 - above, FIGURES[2]: relative}


def _row(plan: Plan, configuration: Configuration, probed: Probed) -> Row:
    score, other = score_of(probed, configuration), probed.baseline(configuration)
    difference, interval = None, None
    if other is not None:
        baseline = score_of(probed, other)
        difference = float(score.means[0, 0] - baseline.means[0, 0])
        interval = statistics.interval(score.bootstrapped(seed=plan.seed) - baseline.bootstrapped(seed=plan.seed))
    found = probed.found[configuration]
    return Row(
        method=configuration.method.label,
        protocol=configuration.protocol,
        figure=float(score.means[0, 0]),
        spread=fold_spread(score.means[1:, 0].tolist()),
        difference=difference,
        interval=interval,
        seconds=typical_seconds(found),
        pictures=len(found),
        details=details_of(configuration, score),
        further=further_of(score),
    )
