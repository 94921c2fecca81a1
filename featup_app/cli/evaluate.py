"""``featup-app evaluate``: methods side by side on pictures with known answers, or with none at all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_app.cli.options import UpsamplerChoice
from featup_app.cli.terminal import complain, progress_bar, say, say_json
from featup_app.errors import EvaluationError
from featup_app.evaluation.datasets import labelled_images, photos, rgbd_images
from featup_app.evaluation.methods import parse_methods
from featup_app.evaluation.report import Report, write_report
from featup_app.evaluation.tasks import DEPTHS, LABELS, PHOTOS, TASKS, find_task

_LAYOUTS = {PHOTOS: photos, LABELS: labelled_images, DEPTHS: rgbd_images}


def evaluate(
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
            help="Pictures to measure on. quality: any folder of pictures; seg: with images/ and labels/.",
        ),
    ],
    task: Annotated[
        str,
        typer.Option(metavar="TASK", help="; ".join(f"{entry.name}: {entry.title}" for entry in TASKS) + "."),
    ] = "quality",
    methods: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Methods separated by commas, such as lowres,bilinear,jbu. jbu=classical and jbu=FILE choose its "
            "weights, so that several stand in one table.",
        ),
    ] = "lowres,bilinear,jbu",
    train: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="seg: labelled pictures to fit the probes on; laid out as --data."),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="seg: transfer (probe of the low-res features, applied unchanged), trained (probe of each method's "
            "own features), or both: transfer,trained.",
        ),
    ] = "",
    probe: Annotated[
        str, typer.Option(metavar="KIND", help="seg, transfer: ridge (least squares) or logistic (cross-entropy).")
    ] = "",
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
    folds: Annotated[int, typer.Option(min=2, help="seg: parts of the training pictures, left out in turn.")] = 3,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Use at most so many pictures, evenly spread, of each folder."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of views, samples and bootstrap.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what an earlier run has measured.")] = False,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda or cuda:1; CUDA if there is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare upsampling methods on a folder of pictures.

    Prints a table and writes report.json and report.csv. The result of every picture is kept in results.jsonl at once: a
    run that was stopped goes on when the same command is given again. Pictures that fail are listed and passed over.
    """
    chosen = find_task(task)
    if chosen.trains and train is None:
        raise EvaluationError(f"The task {task} fits probes; name the folder of training pictures with --train.")
    if not chosen.trains and train is not None:
        raise EvaluationError(f"The task {task} fits nothing; leave out --train, or choose --task seg.")
    choices = parse_methods(methods, upsampler=upsampler)
    layout = _LAYOUTS[chosen.kinds[0]]
    pictures = layout(data).limited(limit)
    training = None if train is None else layout(train).limited(limit)
    try:
        with progress_bar() as progress:
            progress("starting", 0, 0)
            from featup_app.backbones import load_backbone
            from featup_app.evaluation.plan import Plan
            from featup_app.evaluation.records import Records

            plan = Plan(
                backbone=load_backbone(backbone, device=device),
                methods=choices,
                data=pictures,
                train=training,
                size=size,
                layer=layer,
                seed=seed,
                folds=folds,
                probe=probe,
                protocols=tuple(dict.fromkeys(part.strip() for part in protocol.split(",") if part.strip())),
            )
            with Records(output, fresh=fresh) as records:
                report = chosen.evaluate(plan, records, output, progress=progress)
    except KeyboardInterrupt:
        complain("Cancelled; what is measured is kept, and the same command goes on from there.")
        raise typer.Exit(130) from None
    files = write_report(report, output)
    for picture, reason in report.failures:
        complain(f"{picture} was passed over: {reason}")
    if as_json:
        say_json(report.as_dict())
        return
    _print_table(report)
    for path in files:
        say(str(path))


def _print_table(report: Report) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    better = "higher" if report.higher_is_better else "lower"
    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(
        ("method", "protocol", f"{report.figure_name} ({better} is better)", f"± over {report.spread_name}",
         "to bilinear", "95 %", "s/picture", "pictures", *(name for name, _ in report.further))
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
        )
    width = None if sys.stdout.isatty() else 200  # in a file or a pipe no line is broken
    Console(width=width).print(table)
