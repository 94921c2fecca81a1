"""An evaluation from the folders to the report: the command, the window and Python call :func:`run_evaluation`.

    from featup_app.evaluation.run import EvaluationRequest, run_evaluation

    result = run_evaluation(EvaluationRequest(output=Path("REPORT"), data=(Path("photos"),), methods="bilinear,jbu"))
    print(result.reports[0].rows)

Importing this module imports no torch. As a program (``python -m``), it helps another process with its evaluation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.backbones.catalogue import CLASSIFIER, DEFAULT_BACKBONE
from featup_app.base.errors import EvaluationError, FeatUpError
from featup_app.base.progress import Progress, silent
from featup_app.evaluation.datasets import Dataset
from featup_app.evaluation.helpers import Helpers, threads_each
from featup_app.evaluation.html_report import write_html
from featup_app.evaluation.layouts import AUTO
from featup_app.evaluation.methods import MethodChoice, parse_methods
from featup_app.evaluation.plan import CROSSINGS, FOLDS, REPEATS
from featup_app.evaluation.report import Report, write_report
from featup_app.evaluation.sources import Sources, parse_depth_unit, parse_limits
from featup_app.evaluation.summary import Summary, summarise, write_summary
from featup_app.evaluation.tasks import ALL, TASKS, Task, find_task
from featup_app.images.selection import parse_selection

if TYPE_CHECKING:
    from featup_app.evaluation.plan import Plan
    from featup_app.evaluation.records import Records
    from featup_app.evaluation.samples import Sample

_SHARED_PROBE = ("ridge",)
"""Default protocol of the task preserve beside other tasks: the probe that segmentation and depth use by default."""


@dataclass(frozen=True)
class EvaluationRequest:
    """The request of a person: pictures, methods and settings.

    Attributes:
        output: folder for the report. An interrupted run resumes from its files.
        data: folders of pictures to measure on; each task uses the first folder that has what it needs.
        task: name of a task, or ``all`` for every task that data and backbone allow.
        methods: separated by commas, as in ``evaluation.methods.parse_methods``.
        train: folders of pictures to fit probes on.
        cross: how depths without ``train`` are crossed: auto, frames or scenes.
        layout: how the folders are laid out; ``auto`` recognises it.
        depth_unit: readings of depth files for one metre, as in ``evaluation.sources.parse_depth_unit``.
        protocols: ways of measuring; the task's default if empty.
        probe: kind of probe; the task's default if empty.
        backbone: name of the backbone whose features are upsampled.
        checkpoint: weights for that backbone instead of its own, or None.
        cam_backbone: backbone with classes for the task cam; ``backbone`` or the bundled classifier if None.
        layer, size: of the backbone; its defaults if None.
        upsampler: weights of methods that use weights, as in ``ViewSettings``.
        folds: number of parts of the training pictures, left out in turn.
        repeats, steps: number of end-to-end trainings, and steps of each.
        limit: greatest number of pictures, as in ``evaluation.sources.parse_limits``.
        selection: page, channels and range that are read of every picture, such as ``page=2``; see
            :mod:`featup_app.images.selection`.
        seed: seed of views, samples and bootstrap.
        fresh: whether to ignore the results of earlier runs.
        device: torch device; if None, CUDA if there is one, else the CPU.
        costs: whether to measure time, memory and parameters of each method too.
        pictures: number of images to show in the HTML page, with the PCA colours of each method.
        workers: number of processes that share the work, each with its part of the processor's cores.
    """

    output: Path
    data: tuple[Path, ...]
    task: str = "quality"
    methods: str = "lowres,bilinear,jbu,attention"
    train: tuple[Path, ...] = ()
    cross: str = CROSSINGS[0]
    layout: str = AUTO
    depth_unit: str | None = None
    protocols: tuple[str, ...] = ()
    probe: str = ""
    backbone: str = DEFAULT_BACKBONE
    checkpoint: Path | None = None
    cam_backbone: str | None = None
    layer: str | None = None
    size: str | None = None
    upsampler: str | None = None
    folds: int = FOLDS
    repeats: int = REPEATS
    steps: int | None = None
    limit: str | None = None
    selection: str = ""
    seed: int = 0
    fresh: bool = False
    device: str | None = None
    costs: bool = True
    pictures: int = 2
    workers: int = 1

    def as_json(self) -> str:
        """The request as text; :meth:`from_json` is the reverse."""
        values = dataclasses.asdict(self)
        for name in ("data", "train"):
            values[name] = [str(path) for path in values[name]]
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        return json.dumps({**values, "output": str(self.output), "checkpoint": checkpoint})

    @staticmethod
    def from_json(text: str) -> EvaluationRequest:
        """The request of a text from :meth:`as_json`."""
        values = json.loads(text)
        for name in ("data", "train"):
            values[name] = tuple(Path(path) for path in values[name])
        checkpoint = None if values["checkpoint"] is None else Path(values["checkpoint"])
        values |= {"output": Path(values["output"]), "protocols": tuple(values["protocols"]), "checkpoint": checkpoint}
        return EvaluationRequest(**values)


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation.

    Attributes:
        reports: one report for each task that could be measured.
        summary: all tasks in one table; None unless all were requested.
        passed_over: (task, reason) of tasks that could not be measured.
        notes: messages about problems that changed no result, and about the weights of a checkpoint.
        files: the files that were written.
    """

    reports: tuple[Report, ...]
    summary: Summary | None
    passed_over: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Entry:
    """One task with its pictures and settings."""

    task: Task
    data: Dataset
    train: Dataset | None
    protocols: tuple[str, ...]
    probe: str


@dataclass(frozen=True)
class _Work:
    """A checked request, with its tasks, methods and data sets."""

    request: EvaluationRequest
    tasks: tuple[Task, ...]
    methods: tuple[MethodChoice, ...]
    entries: tuple[_Entry, ...]
    passed_over: list[tuple[str, FeatUpError]]

    def pass_over(self, task: Task, reason: FeatUpError) -> None:
        """Continue without a task. Raises the first reason if no task is left."""
        self.passed_over.append((task.name, reason))
        self.check()

    def check(self) -> None:
        """Raise the first reason if every task was passed over."""
        if len(self.passed_over) == len(self.tasks):
            raise self.passed_over[0][1]


@dataclass(frozen=True)
class _Measured:
    """Reports, the plan of each, and the plan that all of them share."""

    plan: Plan
    reports: list[Report]
    plans: list[Plan]


def run_evaluation(request: EvaluationRequest, *, progress: Progress = silent) -> EvaluationResult:
    """Compare upsampling methods on pictures, and write the report.

    Each result is written to the output folder at once: the same request resumes an interrupted run, and several processes with
    the same request share the work. Pictures that fail are listed and skipped.

    Args:
        request: pictures, methods and settings.
        progress: called within pictures; may cancel.

    Raises:
        EvaluationError: if the request or all of its tasks cannot be met.
        FeatUpError: the reason why the only task cannot be measured.
    """
    work = _checked(request)
    progress("starting", 0, 0)
    work.check()
    helpers = _helpers(request)
    with helpers:
        measured = _measure(work, progress)
        complaint = helpers.complaint()
    samples = _measure_extras(request, measured, progress)
    backbone = measured.plan.backbone
    notes = [f"{backbone.name}: {note}." for note in backbone.notes]
    if complaint is not None:
        notes.append(f"A helping process ended early, which cost time but no results; its last line: {complaint}")
    return _write(work, measured.reports, samples, tuple(notes))


def _checked(request: EvaluationRequest) -> _Work:
    """Parse a request and open its data sets. Raises EvaluationError, UpsamplerError."""
    tasks = tuple(TASKS) if request.task == ALL else (find_task(request.task),)
    if request.train and not any(task.trains for task in tasks):
        raise EvaluationError(f"The task {request.task} fits nothing; leave out --train, or choose another task.")
    methods = parse_methods(request.methods, upsampler=request.upsampler)
    units = None if request.depth_unit is None else parse_depth_unit(request.depth_unit)
    limits = None if request.limit is None else parse_limits(request.limit)
    sources = Sources(request.data, request.train, request.layout, units, limits, parse_selection(request.selection))
    chosen = [_protocols_and_probe(task, tasks, request.protocols, request.probe) for task in tasks]
    entries: list[_Entry] = []
    passed_over: list[tuple[str, FeatUpError]] = []
    for task, (protocols, probe) in zip(tasks, chosen, strict=True):
        try:
            entries.append(_Entry(task, *sources.open(task), protocols, probe))
        except EvaluationError as error:
            passed_over.append((task.name, error))
    return _Work(request, tasks, tuple(methods), tuple(entries), passed_over)


def _protocols_and_probe(
    task: Task, tasks: Sequence[Task], protocols: tuple[str, ...], probe: str
) -> tuple[tuple[str, ...], str]:
    """The protocols and the probe of one task. Each of several tasks uses those that it has.

    Raises:
        EvaluationError: if none of several tasks has the protocol or the probe.
    """
    if len(tasks) == 1:
        return protocols, probe
    every = {name for entry in tasks for name in entry.protocols}
    if unknown := [name for name in protocols if name not in every]:
        raise EvaluationError(f'No task has a protocol "{unknown[0]}"; there are: {", ".join(sorted(every))}.')
    kinds = {name for entry in tasks for name in entry.probes}
    if probe and probe not in kinds:
        raise EvaluationError(f'No task has a probe "{probe}"; there are: {", ".join(sorted(kinds))}.')
    own = tuple(name for name in protocols if name in task.protocols)
    if not own and task.default == ():
        own = _SHARED_PROBE  # the other tasks use this probe too, so no field is fitted a second time
    return own, probe if probe in task.probes else ""


def _measure(work: _Work, progress: Progress) -> _Measured:
    """The reports of all tasks that can be measured."""
    from featup_app.backbones import load_backbone
    from featup_app.evaluation.plan import Plan
    from featup_app.evaluation.records import Records

    request = work.request
    plan = Plan(
        backbone=load_backbone(request.backbone, device=request.device, path=request.checkpoint),
        methods=work.methods,
        data=work.entries[0].data,
        size=request.size,
        layer=request.layer,
        seed=request.seed,
        folds=request.folds,
        cross=request.cross,
        repeats=request.repeats,
        steps=request.steps,
    )
    measured = _Measured(plan, [], [])
    with Records(request.output, fresh=request.fresh) as records:
        for entry in work.entries:
            try:
                report, own = _measure_task(entry, plan, request, records, progress)
            except FeatUpError as error:
                work.pass_over(entry.task, error)
            else:
                measured.reports.append(report)
                measured.plans.append(own)
    return measured


def _measure_task(
    entry: _Entry, plan: Plan, request: EvaluationRequest, records: Records, progress: Progress
) -> tuple[Report, Plan]:
    own = dataclasses.replace(plan, data=entry.data, train=entry.train, protocols=entry.protocols, probe=entry.probe)
    left_out: tuple[tuple[str, str], ...] = ()
    if entry.task.needs_head:
        own, left_out = _for_classes(own, request.cam_backbone)
    report = entry.task.evaluate(own, records, request.output, progress=progress)
    return dataclasses.replace(report, failures=(*report.failures, *left_out)), own


def _for_classes(plan: Plan, name: str | None) -> tuple[Plan, tuple[tuple[str, str], ...]]:
    """The plan with a backbone that has a head, and (method, reason) of methods without weights for this backbone."""
    from featup_app.backbones import load_backbone

    if (name is None and plan.backbone.has_head) or name == plan.backbone.name:
        return plan, ()
    backbone = load_backbone(name or CLASSIFIER, device=str(plan.backbone.device))
    layer = backbone.layer(backbone.class_route.layer)
    usable, left_out = [], []
    for choice in plan.methods:
        try:
            choice.prepare(backbone.name, layer.name, layer.channels, for_head=True)
            usable.append(choice)
        except FeatUpError as error:
            left_out.append((choice.label, str(error)))
    if not usable:
        raise EvaluationError(f"No method can be measured with {backbone.name}; the first reason: {left_out[0][1]}")
    return dataclasses.replace(plan, backbone=backbone, methods=tuple(usable), layer=None, size=None), tuple(left_out)


def _measure_extras(request: EvaluationRequest, measured: _Measured, progress: Progress) -> tuple[Sample, ...]:
    """Add the costs to the reports, and return sample pictures for the HTML page."""
    from featup_app.evaluation.costs import Cost, measure_costs, with_costs
    from featup_app.evaluation.records import EXTRAS_FILE, Records
    from featup_app.evaluation.samples import sample_pictures

    plan = measured.plan
    with Records(request.output, fresh=request.fresh, name=EXTRAS_FILE) as extras:
        if request.costs:
            known: dict[str, Mapping[str, Cost]] = {}
            for own in (plan, *(own for own in measured.plans if own.backbone is not plan.backbone)):
                known[own.backbone.name] = measure_costs(own, extras, progress=progress)
            pairs = list(zip(measured.reports, measured.plans, strict=True))
            measured.reports[:] = [with_costs(report, known[own.backbone.name]) for report, own in pairs]
        if not request.pictures:
            return ()
        return sample_pictures(plan, extras, count=request.pictures, progress=progress)


def _write(work: _Work, reports: list[Report], samples: tuple[Sample, ...], notes: tuple[str, ...]) -> EvaluationResult:
    """Write the files of the reports; with all tasks, each in a folder of its own."""
    output, all_tasks = work.request.output, work.request.task == ALL
    files = [path for report in reports for path in write_report(report, output / report.task if all_tasks else output)]
    reasons = tuple((name, str(why)) for name, why in work.passed_over)
    summary = None
    if all_tasks:
        labels = [choice.label for choice in work.methods]
        summary = summarise(labels, [task.name for task in work.tasks], reports, dict(reasons))
        files += write_summary(summary, output)
    files.append(write_html(reports, output, summary=summary, samples=samples, passed_over=list(reasons)))
    return EvaluationResult(tuple(reports), summary, reasons, notes, tuple(files))


def _helpers(request: EvaluationRequest) -> Helpers:
    """The processes that work on the same request without writing reports."""
    threads = threads_each(request.workers)
    if request.workers > 1:
        import torch

        torch.set_num_threads(threads)
    command = [sys.executable, "-m", "featup_app.evaluation.run", request.as_json()]
    return Helpers(command, count=request.workers - 1, threads=threads)


def _help(text: str) -> None:
    """Measure everything that no other process has claimed."""
    request: Any = EvaluationRequest.from_json(text)
    work = _checked(dataclasses.replace(request, workers=1, fresh=False))
    with contextlib.suppress(KeyboardInterrupt):
        _measure(work, silent)


if __name__ == "__main__":
    try:
        _help(sys.argv[1])
    except FeatUpError as error:
        sys.exit(f"featup-app: {error}")
