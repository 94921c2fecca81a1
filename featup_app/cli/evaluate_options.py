"""The options that only ``featup-app evaluate`` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_app.backbones.catalogue import CLASSIFIER
from featup_app.cli.options import given_path
from featup_app.evaluation.layouts import AUTO, LAYOUTS
from featup_app.evaluation.tasks import ALL, TASKS

_TASK_TITLES = "; ".join(f"{task.name}: {task.title}" for task in TASKS)
_PROTOCOLS = "; ".join(f"{task.name}: {', '.join(task.protocols)}" for task in TASKS if task.protocols)
_PROBES = "; ".join(f"{task.name}: {', '.join(task.probes)}" for task in TASKS if task.probes)

Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        parser=given_path,
        metavar="DIR",
        help="Folder for the report; an interrupted run resumes from it.",
    ),
]
Data = Annotated[
    list[Path],
    typer.Option(
        "--data",
        parser=given_path,
        metavar="DIR",
        help="Pictures to measure on: any folder of pictures, or a data set as it was unpacked, for tasks that need to "
        "know what the pictures show. Nothing is downloaded. May be given several times: each task uses the first "
        "folder that has what it needs.",
    ),
]
TaskName = Annotated[
    str,
    typer.Option("--task", metavar="TASK", help=f"{_TASK_TITLES}; {ALL}: every task that data and backbone allow."),
]
Methods = Annotated[
    str,
    typer.Option(
        "--methods",
        metavar="LIST",
        help="Methods separated by commas, such as lowres,bilinear,jbu. jbu=classical and jbu=FILE choose its "
        "weights, so that one table can compare several; implicit=FILE uses a fit of `featup-app fit`, for its image alone; "
        "implicit:steps=6 or dip:steps=60 limits the steps of a fit. all: the ten methods of the paper's table; one that the "
        "list also names is used as written there.",
    ),
]
TrainFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--train",
        parser=given_path,
        metavar="DIR",
        help="Pictures to fit probes on; may be given several times, as --data. Not needed where a data set has a "
        "training part, nor for depths: there each picture is measured with probes fitted to others, see --cross.",
    ),
]
Cross = Annotated[
    str,
    typer.Option(
        "--cross",
        metavar="HOW",
        help="Depths without --train: measure frames with probes of other frames, or scenes with probes of other "
        "scenes; auto uses scenes if there are at least five.",
    ),
]
Layout = Annotated[
    str,
    typer.Option(
        "--layout",
        metavar="LAYOUT",
        help=f"How the folders are laid out, if {AUTO} does not recognise it: "
        + ", ".join(entry.name for entry in LAYOUTS)
        + ".",
    ),
]
DepthUnit = Annotated[
    str | None,
    typer.Option(
        "--depth-unit",
        metavar="NUMBER|SCENE=NUMBER,...",
        help="Readings of depth files for one metre; 1000 (millimetres) if not given.",
    ),
]
Protocols = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="LIST",
        help=f"Ways of measuring, each a row for every method; the first if not given (clicks: the first two). {_PROTOCOLS}.",
    ),
]
Probe = Annotated[
    str, typer.Option("--probe", metavar="KIND", help=f"Kind of probe; the first if not given. {_PROBES}.")
]
CamBackbone = Annotated[
    str | None,
    typer.Option(
        "--cam-backbone",
        metavar="NAME",
        help=f"Pretrained model with classes, for the task cam; --backbone if it has classes, else {CLASSIFIER}. A "
        "model other than --backbone is used at its own layer and size.",
    ),
]
Folds = Annotated[int, typer.Option("--folds", min=2, help="Parts of the training pictures, left out in turn.")]
Repeats = Annotated[
    int, typer.Option("--repeats", min=1, help="end2end: trainings of each method, each with a seed of its own.")
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="end2end: steps of each training; 300 if not given.")]
Limit = Annotated[
    str | None,
    typer.Option(
        "--limit",
        metavar="N|N,TASK=N,...",
        help="At most so many pictures of each folder, evenly spread; TASK=N for a single task, train=N for the pictures "
        "to fit on.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of views, samples and bootstrap.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again what an earlier run has measured.")]
Costs = Annotated[
    bool,
    typer.Option(
        "--costs/--no-costs",
        help="Measure time, peak memory and parameters of each method once, in a process of its own.",
    ),
]
Pictures = Annotated[
    int,
    typer.Option("--pictures", min=0, metavar="N", help="Images to show in report.html as each method sees them."),
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Processes that share the work, each with its part of the processor's cores. More can join from other "
        "terminals with the same command; each may be stopped at any time.",
    ),
]
