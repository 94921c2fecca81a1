"""``featup-app evaluate``: methods side by side on pictures with known answers, or with none at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featup_app.base.errors import EvaluationError, FeatUpError
from featup_app.cli.options import UpsamplerChoice
from featup_app.cli.tables import print_report, print_summary
from featup_app.cli.terminal import complain, progress_bar, say, say_json
from featup_app.evaluation.datasets import Dataset
from featup_app.evaluation.helpers import Helpers, own_program, threads_each
from featup_app.evaluation.html_report import write_html
from featup_app.evaluation.layouts import AUTO, LAYOUTS
from featup_app.evaluation.methods import parse_methods
from featup_app.evaluation.plan import CROSSINGS
from featup_app.evaluation.report import Report, write_report
from featup_app.evaluation.sources import Sources, parse_depth_unit, parse_limits
from featup_app.evaluation.summary import summarise, write_summary
from featup_app.evaluation.tasks import ALL, TASKS, Task, find_task

if TYPE_CHECKING:
    from featup_app.evaluation.costs import Cost
    from featup_app.evaluation.plan import Plan
    from featup_app.evaluation.samples import Sample

CLASSIFIER = "tf_efficientnet_lite0"
"""Tells the classes apart where the backbone does not."""

_SHARED_PROBE = ("ridge",)
"""Protocol of the task preserve among others, if none is chosen: the probe that segmentation and depth use by themselves."""

_TASK_TITLES = "; ".join(f"{task.name}: {task.title}" for task in TASKS)
_PROTOCOLS = "; ".join(f"{task.name}: {', '.join(task.protocols)}" for task in TASKS if task.protocols)
_PROBES = "; ".join(f"{task.name}: {', '.join(task.probes)}" for task in TASKS if task.probes)


def evaluate(
    context: typer.Context,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for the report. A run that was stopped goes on from there."
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            metavar="DIR",
            help="Pictures to measure on: any folder of pictures, or a data set as it was unpacked, for tasks that need to "
            "know what is in the pictures. Nothing is downloaded. May be given several times: each task takes the first "
            "folder that has what it needs.",
        ),
    ],
    task: Annotated[
        str,
        typer.Option("--task", metavar="TASK", help=f"{_TASK_TITLES}; {ALL}: every task that data and backbone allow."),
    ] = "quality",
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            metavar="LIST",
            help="Methods separated by commas, such as lowres,bilinear,jbu. jbu=classical and jbu=FILE choose its "
            "weights, so that several stand in one table; implicit=FILE takes a fit of `featup-app fit`, for its image alone; "
            "implicit:steps=6 or dip:steps=60 fits for a shorter time. all: the ten methods of the paper's table, those that "
            "are written out as well as they are written.",
        ),
    ] = "lowres,bilinear,jbu",
    train: Annotated[
        list[Path] | None,
        typer.Option(
            "--train",
            metavar="DIR",
            help="Pictures to fit probes on; may be given several times, as --data. Not needed where a data set has a part for "
            "that, nor for depths: there each picture is measured with probes of others, see --cross.",
        ),
    ] = None,
    cross: Annotated[
        str,
        typer.Option(
            "--cross",
            metavar="HOW",
            help="Depths without --train: measure frames with probes of other frames, or scenes with probes of other "
            "scenes; auto takes scenes if there are at least five.",
        ),
    ] = CROSSINGS[0],
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            metavar="LAYOUT",
            help=f"How the folders are laid out, if {AUTO} does not recognise it: "
            + ", ".join(entry.name for entry in LAYOUTS)
            + ".",
        ),
    ] = AUTO,
    depth_unit: Annotated[
        str | None,
        typer.Option(
            "--depth-unit",
            metavar="NUMBER|SCENE=NUMBER,...",
            help="Readings of depth files for one metre; 1000 (millimetres) if not given.",
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            metavar="LIST",
            help=f"Ways of measuring, each a row for every method; the first if not given. {_PROTOCOLS}.",
        ),
    ] = "",
    probe: Annotated[
        str, typer.Option("--probe", metavar="KIND", help=f"Kind of probe; the first if not given. {_PROBES}.")
    ] = "",
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="NAME", help="Pretrained model; `featup-app backbones` lists them.")
    ] = "dinov2-s14-imgfocus",
    cam_backbone: Annotated[
        str | None,
        typer.Option(
            "--cam-backbone",
            metavar="NAME",
            help=f"Pretrained model with classes, for the task cam; --backbone if it has some, else {CLASSIFIER}. One that is "
            "not --backbone is used at its own layer and size.",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="LAYER", help='Layer of the backbone: a number, or a name such as "block 10".'),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="SIZE", help="Size that pictures are resized to for the backbone: 448, 364x476 or image."
        ),
    ] = None,
    upsampler: UpsamplerChoice = None,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Parts of the training pictures, left out in turn.")] = 3,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="end2end: trainings of each method, from seeds of their own.")
    ] = 3,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="end2end: steps of each training; 300 if not given.")
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            "--limit",
            metavar="N|N,TASK=N,...",
            help="Use at most so many pictures, evenly spread, of each folder; other numbers for single tasks, and train=N for "
            "pictures to fit on.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of views, samples and bootstrap.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what an earlier run has measured.")] = False,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="DEVICE", help="Where to compute: cpu, cuda or cuda:1; CUDA if there is one."),
    ] = None,
    costs: Annotated[
        bool,
        typer.Option(
            "--costs/--no-costs",
            help="Measure time, peak memory and parameters of each method once, in a process of its own.",
        ),
    ] = True,
    pictures: Annotated[
        int,
        typer.Option("--pictures", min=0, metavar="N", help="Images to show in report.html as each method sees them."),
    ] = 2,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=1,
            metavar="N",
            help="Processes that share the work, each with its part of the processor's cores. More can join from other "
            "terminals with the same command; each may be stopped at any time.",
        ),
    ] = 1,
    helper: Annotated[bool, typer.Option("--helper", hidden=True)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare upsampling methods on a folder of pictures.

    Prints a table and writes report.json, report.csv and report.html, a page with the tables, plots and sample pictures that
    needs no other file. The result of every picture is kept in results.jsonl at once: a run that was stopped goes on when the
    same command is given again. Pictures that fail are listed and passed over.
    """
    chosen = TASKS if task == ALL else (find_task(task),)
    if train and not any(entry.trains for entry in chosen):
        raise EvaluationError(f"The task {task} fits nothing; leave out --train, or choose another task.")
    choices = parse_methods(methods, upsampler=upsampler)
    units = None if depth_unit is None else parse_depth_unit(depth_unit)
    limits = None if limit is None else parse_limits(limit)
    sources = Sources(tuple(data), tuple(train or ()), layout, units, limits)
    protocols = tuple(dict.fromkeys(part.strip() for part in protocol.split(",") if part.strip()))
    wishes = [_wishes_of(entry, chosen, protocols, probe) for entry in chosen]
    passed_over: list[tuple[str, FeatUpError]] = []
    found: list[tuple[Task, Dataset, Dataset | None]] = []
    for entry in chosen:
        try:
            found.append((entry, *sources.open(entry)))
        except EvaluationError as error:
            passed_over.append((entry.name, error))
    reports: list[Report] = []
    try:
        with progress_bar() as progress:
            progress("starting", 0, 0)
            _stop_if_nothing_is_left(chosen, passed_over)
            from featup_app.backbones import load_backbone
            from featup_app.evaluation.costs import measure_costs, with_costs
            from featup_app.evaluation.plan import Plan
            from featup_app.evaluation.records import EXTRAS_FILE, Records
            from featup_app.evaluation.samples import sample_pictures

            plan = Plan(
                backbone=load_backbone(backbone, device=device),
                methods=choices,
                data=found[0][1],
                size=size,
                layer=layer,
                seed=seed,
                folds=folds,
                cross=cross,
                repeats=repeats,
                steps=steps,
            )
            plans: list[Plan] = []
            helpers = _helpers(context, 0 if helper else workers - 1, threads_each(workers))
            with Records(output, fresh=fresh) as records, helpers:
                for entry, measured, training in found:
                    own_protocols, own_probe = wishes[chosen.index(entry)]
                    own = dataclasses.replace(
                        plan, data=measured, train=training, protocols=own_protocols, probe=own_probe
                    )
                    try:
                        own, left_out = _for_classes(own, cam_backbone) if entry.needs_head else (own, ())
                        report = entry.evaluate(own, records, output, progress=progress)
                        reports.append(dataclasses.replace(report, failures=(*report.failures, *left_out)))
                        plans.append(own)
                    except FeatUpError as error:
                        passed_over.append((entry.name, error))
                        _stop_if_nothing_is_left(chosen, passed_over)
                if (complaint := helpers.complaint()) is not None:
                    complain(f"A helping process ended early, which cost time but no results; it said: {complaint}")
            samples: tuple[Sample, ...] = ()
            if not helper:
                with Records(output, fresh=fresh, name=EXTRAS_FILE) as extras:
                    if costs:
                        known: dict[str, dict[str, Cost]] = {}
                        for own in (plan, *(own for own in plans if own.backbone is not plan.backbone)):
                            known[own.backbone.name] = measure_costs(own, extras, progress=progress)
                        pairs = zip(reports, plans, strict=True)
                        reports = [with_costs(report, known[own.backbone.name]) for report, own in pairs]
                    if pictures:
                        samples = sample_pictures(plan, extras, count=pictures, progress=progress)
    except KeyboardInterrupt:
        complain("Cancelled; what is measured is kept, and the same command goes on from there.")
        raise typer.Exit(130) from None
    if helper:
        return
    files = [
        path for report in reports for path in write_report(report, output / report.task if task == ALL else output)
    ]
    reasons = [(name, str(why)) for name, why in passed_over]
    summary = None
    if task == ALL:
        labels = [choice.label for choice in choices]
        summary = summarise(labels, [entry.name for entry in chosen], reports, dict(reasons))
        files += write_summary(summary, output)
    files.append(write_html(reports, output, summary=summary, samples=samples, passed_over=reasons))
    for name, why in passed_over:
        complain(f"The task {name} was passed over: {why}")
    for report in reports:
        for picture, reason in report.failures:
            complain(f"{picture} was passed over{f' by {report.task}' if task == ALL else ''}: {reason}")
    if as_json:
        told = [report.as_dict() for report in reports]
        say_json(told[0] if summary is None else {"summary": summary.as_dict(), "reports": told})
        return
    for report in reports:
        if task == ALL:
            say(f"{report.task}: {find_task(report.task).title}")
        print_report(report)
    if summary is not None:
        say("All tasks")
        print_summary(summary)
    for path in files:
        say(str(path))


def _wishes_of(
    task: Task, chosen: Sequence[Task], protocols: tuple[str, ...], probe: str
) -> tuple[tuple[str, ...], str]:
    """The protocols and the probe of one task. Of several tasks each takes those that it has.

    Raises:
        EvaluationError: if none of several tasks has what is asked for.
    """
    if len(chosen) == 1:
        return protocols, probe
    every = {name for entry in chosen for name in entry.protocols}
    if unknown := [name for name in protocols if name not in every]:
        raise EvaluationError(f'No task has a protocol "{unknown[0]}"; there are: {", ".join(sorted(every))}.')
    kinds = {name for entry in chosen for name in entry.probes}
    if probe and probe not in kinds:
        raise EvaluationError(f'No task has a probe "{probe}"; there are: {", ".join(sorted(kinds))}.')
    own = tuple(name for name in protocols if name in task.protocols)
    if not own and task.default == ():
        own = _SHARED_PROBE  # the other tasks have measured with this one: nothing is fitted to a picture a second time
    return own, probe if probe in task.probes else ""


def _for_classes(plan: Plan, name: str | None) -> tuple[Plan, tuple[tuple[str, str], ...]]:
    """The plan with a backbone that tells classes apart, and the methods that have no weights for that one, with the reason."""
    from featup_app.backbones import load_backbone

    if (name is None and plan.backbone.has_head) or name == plan.backbone.name:
        return plan, ()
    backbone = load_backbone(name or CLASSIFIER, device=str(plan.backbone.device))
    layer = backbone.layers[-1]
    usable, left_out = [], []
    for choice in plan.methods:
        try:
            choice.prepare(backbone.name, layer.name, layer.channels, for_head=True)
            usable.append(choice)
        except FeatUpError as error:
            left_out.append((choice.label, str(error)))
    if not usable:
        raise EvaluationError(f"No method can be measured with {backbone.name}; the first says: {left_out[0][1]}")
    return dataclasses.replace(plan, backbone=backbone, methods=tuple(usable), layer=None, size=None), tuple(left_out)


def _helpers(context: typer.Context, count: int, threads: int) -> Helpers:
    """Processes that run the same command for the same folder, and write no report."""
    words = []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.name in ("fresh", "as_json") or value is None or value == parameter.default:
            continue
        if isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
            continue
        for one in value if isinstance(value, list | tuple) else (value,):
            words += [parameter.opts[0], str(one)]
    if count:
        import torch

        torch.set_num_threads(threads)
    return Helpers([*own_program(), "evaluate", *words, "--helper"], count=count, threads=threads)


def _stop_if_nothing_is_left(chosen: Sequence[Task], passed_over: Sequence[tuple[str, FeatUpError]]) -> None:
    """Raise the first reason if every task was passed over."""
    if len(passed_over) == len(chosen):
        raise passed_over[0][1]
