"""``featup-app evaluate``: methods side by side on pictures with known answers, or with none at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featup_app.cli.options import UpsamplerChoice
from featup_app.cli.terminal import complain, progress_bar, say, say_json
from featup_app.errors import EvaluationError, FeatUpError
from featup_app.evaluation.datasets import Dataset
from featup_app.evaluation.helpers import Helpers, own_program, threads_each
from featup_app.evaluation.html_report import write_html
from featup_app.evaluation.layouts import AUTO, LAYOUTS
from featup_app.evaluation.methods import parse_methods
from featup_app.evaluation.plan import CROSSINGS
from featup_app.evaluation.report import Report, write_report
from featup_app.evaluation.sources import Sources, parse_depth_unit
from featup_app.evaluation.tasks import ALL, TASKS, Task, find_task

if TYPE_CHECKING:
    from featup_app.evaluation.samples import Sample

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
        Path,
        typer.Option(
            metavar="DIR",
            help="Pictures to measure on: any folder of pictures, or a data set as it was unpacked, for tasks that need to "
            "know what is in the pictures. Nothing is downloaded.",
        ),
    ],
    task: Annotated[
        str,
        typer.Option(metavar="TASK", help=f"{_TASK_TITLES}; {ALL}: every task that data and backbone allow."),
    ] = "quality",
    methods: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Methods separated by commas, such as lowres,bilinear,jbu. jbu=classical and jbu=FILE choose its "
            "weights, so that several stand in one table; implicit=FILE takes a fit of `featup-app fit`, for its image alone.",
        ),
    ] = "lowres,bilinear,jbu",
    train: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Pictures to fit probes on. Not needed where a data set has a part for that, nor for depths: there each "
            "picture is measured with probes of others, see --cross.",
        ),
    ] = None,
    cross: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="Depths without --train: measure frames with probes of other frames, or scenes with probes of other "
            "scenes; auto takes scenes if there are at least five.",
        ),
    ] = CROSSINGS[0],
    layout: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT",
            help=f"How the folders are laid out, if {AUTO} does not recognise it: "
            + ", ".join(entry.name for entry in LAYOUTS)
            + ".",
        ),
    ] = AUTO,
    depth_unit: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|SCENE=NUMBER,...",
            help="Readings of depth files for one metre; 1000 (millimetres) if not given.",
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help=f"Ways of measuring, each a row for every method; the first if not given. {_PROTOCOLS}.",
        ),
    ] = "",
    probe: Annotated[str, typer.Option(metavar="KIND", help=f"Kind of probe; the first if not given. {_PROBES}.")] = "",
    backbone: Annotated[
        str, typer.Option(metavar="NAME", help="Pretrained model; `featup-app backbones` lists them.")
    ] = "dinov2-s14-imgfocus",
    layer: Annotated[
        str | None, typer.Option(metavar="LAYER", help='Layer of the backbone: a number, or a name such as "block 10".')
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Size that pictures are resized to for the backbone: 448, 364x476 or image."),
    ] = None,
    upsampler: UpsamplerChoice = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the training pictures, left out in turn.")] = 3,
    repeats: Annotated[
        int, typer.Option(min=1, help="end2end: trainings of each method, from seeds of their own.")
    ] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="end2end: steps of each training; 300 if not given.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Use at most so many pictures, evenly spread, of each folder."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of views, samples and bootstrap.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what an earlier run has measured.")] = False,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda or cuda:1; CUDA if there is one.")
    ] = None,
    costs: Annotated[
        bool,
        typer.Option(help="Measure time, peak memory and parameters of each method once, in a process of its own."),
    ] = True,
    pictures: Annotated[
        int, typer.Option(min=0, metavar="N", help="Images to show in report.html as each method sees them.")
    ] = 2,
    workers: Annotated[
        int,
        typer.Option(
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
    if train is not None and not any(entry.trains for entry in chosen):
        raise EvaluationError(f"The task {task} fits nothing; leave out --train, or choose another task.")
    choices = parse_methods(methods, upsampler=upsampler)
    units = None if depth_unit is None else parse_depth_unit(depth_unit)
    sources = Sources(data, train, layout, units, limit)
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
                probe=probe,
                protocols=tuple(dict.fromkeys(part.strip() for part in protocol.split(",") if part.strip())),
                repeats=repeats,
                steps=steps,
            )
            helpers = _helpers(context, 0 if helper else workers - 1, threads_each(workers))
            with Records(output, fresh=fresh) as records, helpers:
                for entry, measured, training in found:
                    own = dataclasses.replace(plan, data=measured, train=training)
                    try:
                        reports.append(entry.evaluate(own, records, output, progress=progress))
                    except FeatUpError as error:
                        passed_over.append((entry.name, error))
                        _stop_if_nothing_is_left(chosen, passed_over)
                if (complaint := helpers.complaint()) is not None:
                    complain(f"A helping process ended early, which cost time but no results; it said: {complaint}")
            samples: tuple[Sample, ...] = ()
            if not helper:
                with Records(output, fresh=fresh, name=EXTRAS_FILE) as extras:
                    if costs:
                        known = measure_costs(plan, extras, progress=progress)
                        reports = [with_costs(report, known) for report in reports]
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
    files.append(write_html(reports, output, samples=samples, passed_over=reasons))
    for name, why in passed_over:
        complain(f"The task {name} was passed over: {why}")
    for report in reports:
        for picture, reason in report.failures:
            complain(f"{picture} was passed over{f' by {report.task}' if task == ALL else ''}: {reason}")
    if as_json:
        say_json([report.as_dict() for report in reports] if task == ALL else reports[0].as_dict())
        return
    for report in reports:
        if task == ALL:
            say(f"{report.task}: {find_task(report.task).title}")
        _print_table(report)
    for path in files:
        say(str(path))


def _helpers(context: typer.Context, count: int, threads: int) -> Helpers:
    """Processes that run the same command for the same folder, and write no report."""
    words = []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.name not in ("fresh", "as_json") and value is not None and value != parameter.default:
            words += [parameter.opts[0]] if value is True else [parameter.opts[0], str(value)]
    if count:
        import torch

        torch.set_num_threads(threads)
    return Helpers([*own_program(), "evaluate", *words, "--helper"], count=count, threads=threads)


def _stop_if_nothing_is_left(chosen: Sequence[Task], passed_over: Sequence[tuple[str, FeatUpError]]) -> None:
    """Raise the first reason if every task was passed over."""
    if len(passed_over) == len(chosen):
        raise passed_over[0][1]


def _print_table(report: Report) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    better = "higher" if report.higher_is_better else "lower"
    extra = ("peak MB", "parameters") if any(row.parameters is not None for row in report.rows) else ()
    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(
        ("method", "protocol", f"{report.figure_name} ({better} is better)", f"± over {report.spread_name}",
         "to bilinear", "95 %", "s/picture", "pictures", *(name for name, _ in report.further), *extra)
    ):  # fmt: skip
        table.add_column(title, justify="left" if index < 2 else "right", no_wrap=index == 0)
    for row in report.rows:
        table.add_row(
            row.method,
            row.protocol,
            f"{row.figure:.4f}",
            f"{row.spread:.4f}",
            "-" if row.difference is None else f"{row.difference:+.4f}",
            "-" if row.interval is None else f"{row.interval[0]:+.4f} .. {row.interval[1]:+.4f}",
            f"{row.seconds:.2f}",
            str(row.pictures),
            *("-" if row.further[name] is None else f"{row.further[name]:.4f}" for name, _ in report.further),
            *("-" if value is None else f"{value:,.0f}" for value in (row.memory_mb, row.parameters)[: len(extra)]),
        )
    width = None if sys.stdout.isatty() else 200  # in a file or a pipe no line is broken
    Console(width=width).print(table)
