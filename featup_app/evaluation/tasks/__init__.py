"""The tasks of ``featup-app evaluate`` by name. Imports no torch, so that help and menus can be filled before it is there.

A further task is one module beside this one and one entry here. The module has one public function::

    def evaluate(plan: Plan, records: Records, folder: Path, *, progress: Progress = silent) -> Report

which says what a result depends on, measures one picture at a time through ``common.measure_all``
(results are kept as they come, failing pictures are listed and passed over), and makes rows of the results.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featup_app.base.errors import EvaluationError
from featup_app.base.progress import Progress, silent
from featup_app.evaluation.datasets import DEPTHS, LABELS, PHOTOS

if TYPE_CHECKING:
    from featup_app.evaluation.plan import Plan
    from featup_app.evaluation.records import Records
    from featup_app.evaluation.report import Report


@dataclass(frozen=True)
class Task:
    """One kind of table.

    Attributes:
        name: for commands, records and files.
        title: a few words for people.
        module: inside this package.
        kinds: of data sets that it can measure on, the usual one first; :data:`PHOTOS` means that any pictures will do.
        trains: whether it fits something on training pictures.
        protocols: ways of measuring that can be asked for, each giving a row per method.
        default: the protocols that are used where none is chosen; None for the first, empty where it depends on the data.
        probes: kinds of probes to choose from; the first is the default.
        needs_head: whether the backbone has to tell classes apart.
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
        """The plan with the task's defaults in the places that were left open.

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
            records: where results are kept, and found from an earlier run.
            folder: where fitted probes are kept, and found from an earlier run.
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
    Task("end2end", "segmentation with the upsampler trained inside the network", "end_to_end", (LABELS,), trains=True),
)


ALL = "all"
"""Stands for every task that data and backbone allow."""


def find_task(name: str) -> Task:
    """The task of this name.

    Raises:
        EvaluationError: naming the tasks that there are.
    """
    for task in TASKS:
        if task.name == name:
            return task
    raise EvaluationError(f'There is no task "{name}"; choose one of: {", ".join(task.name for task in TASKS)}, {ALL}.')


def _no_choice(what: str, name: str, task: str, choices: tuple[str, ...]) -> str:
    if not choices:
        return f'The task {task} has no {what} to choose; leave out "{name}".'
    return f'The task {task} has no {what} "{name}"; choose among: {", ".join(choices)}.'
