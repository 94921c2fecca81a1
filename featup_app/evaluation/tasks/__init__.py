"""The tasks of ``featup-app evaluate`` by name. Imports no torch, so that help texts and menus need not wait for it.

A new task is one module in this package and one entry in :data:`TASKS`. The module has one public function::

    def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report

which names everything that a result depends on, measures one picture at a time through ``common.measure_all`` (each result is
kept at once, failing pictures are listed and skipped), and turns the results into rows.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featup_app.base.errors import EvaluationError
from featup_app.base.progress import Progress, silent
from featup_app.evaluation.datasets import DEPTHS, LABELS, PHOTOS, REGIONS

if TYPE_CHECKING:
    from featup_app.evaluation.plan import Plan
    from featup_app.evaluation.records import Records
    from featup_app.evaluation.report import Report


@dataclass(frozen=True)
class Task:
    """One kind of measurement, which gives one table.

    Attributes:
        name: for commands, records and files.
        title: a few words for people.
        module: inside this package.
        kinds: kinds of data sets that it can measure on, the usual one first; :data:`PHOTOS` means any pictures.
        trains: whether it fits probes or networks on training pictures.
        protocols: ways of measuring to choose from; each gives a row per method.
        default: the protocols if none is chosen; None for the first, empty if they depend on the data.
        probes: kinds of probes to choose from; the first is the default.
        needs_head: whether the backbone needs a head for classes.
    """

    name: str
    title: str
    module: str
    kinds: tuple[str, ...]
    trains: bool = False
    protocols: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    default: tuple[str, ...] | None = None
    needs_head: bool = False

    def completed(self, plan: Plan) -> Plan:
        """The plan with the task's defaults where it leaves protocols and probe open.

        Raises:
            EvaluationError: if the plan asks for a protocol or a probe that the task does not have.
        """
        unknown = [protocol for protocol in plan.protocols if protocol not in self.protocols]
        if unknown:
            raise EvaluationError(_no_choice("protocol", unknown[0], self.name, self.protocols))
        if plan.probe and plan.probe not in self.probes:
            raise EvaluationError(_no_choice("probe", plan.probe, self.name, self.probes))
        return dataclasses.replace(
            plan,
            protocols=plan.protocols or (self.protocols[:1] if self.default is None else self.default),
            probe=plan.probe or next(iter(self.probes), ""),
        )

    def evaluate(self, plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report:
        """Measure every method of a plan on every picture.

        Args:
            plan: with pictures of one of the task's kinds.
            records: the store of results, those of earlier runs included.
            folder: the store of fitted probes, those of earlier runs included.
            progress: called within pictures; may cancel.

        Raises:
            EvaluationError: if the plan does not fit the task, or no picture could be measured.
            UpsamplerError: if weights do not fit the backbone.
        """
        module = importlib.import_module(f"{__name__}.{self.module}")
        report: Report = module.evaluate(self.completed(plan), records, folder, progress=progress)
        return report


TASKS: tuple[Task, ...] = (
    Task("quality", "held-out reprojection error", "quality", (PHOTOS,)),
    Task(
        "seg",
        "linear-probe segmentation",
        "segmentation",
        (LABELS,),
        trains=True,
        protocols=("transfer", "trained"),
        probes=("ridge", "logistic"),
    ),
    Task(
        "depth",
        "linear-probe depth",
        "depth",
        (DEPTHS,),
        trains=True,
        protocols=("transfer", "trained", "metric"),
        probes=("ridge", "gradient"),
    ),
    Task(
        "preserve",
        "whether features keep their meaning: probes of low-res features, applied unchanged",
        "preserve",
        (LABELS, DEPTHS),
        trains=True,
        protocols=("ridge", "logistic", "gradient"),
        default=(),
    ),
    Task(
        "cam",
        "class activation maps, judged by the classifier",
        "cam",
        (PHOTOS,),
        protocols=(
            "hard",
            "soft",
            "hard-mean",
            "soft-mean",
            "hard-odds",
            "soft-odds",
            "hard-odds-mean",
            "soft-odds-mean",
        ),
        needs_head=True,
    ),
    Task(
        "clicks",
        "what one click is worth: the region that it finds",
        "clicks",
        (REGIONS, LABELS),
        protocols=("region", "class", "region-raw", "class-raw"),
        default=("region", "class"),
    ),
    Task("end2end", "segmentation with the upsampler trained inside the network", "end_to_end", (LABELS,), trains=True),
)


ALL = "all"
"""Name for every task that data and backbone allow."""


def find_task(name: str) -> Task:
    """The task of this name.

    Raises:
        EvaluationError: if there is none; the message lists the tasks.
    """
    for task in TASKS:
        if task.name == name:
            return task
    raise EvaluationError(f'There is no task "{name}"; choose one of: {", ".join(task.name for task in TASKS)}, {ALL}.')


def _no_choice(what: str, name: str, task: str, choices: tuple[str, ...]) -> str:
    if not choices:
        return f'The task {task} has no {what} to choose; leave out "{name}".'
    return f'The task {task} has no {what} "{name}"; choose among: {", ".join(choices)}.'
