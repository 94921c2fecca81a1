"""The options that only ``featup-app bench`` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_app.cli.options import given_path

Subject = Annotated[
    str, typer.Argument(help="What to measure: adaptive-conv, attention, jbu, similarity, train, implicit or ask.")
]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Runs of each, in turn; the median counts.")]
Naive = Annotated[
    bool,
    typer.Option("--naive", help="With jbu: also run the published, unfolding form once; it needs 12 GB of memory."),
]
Photos = Annotated[
    Path | None,
    typer.Option(
        "--photos",
        parser=given_path,
        metavar="DIR",
        help="With implicit: use the first three photos of a folder, instead of the bundled ones.",
    ),
]
PaperSteps = Annotated[
    int,
    typer.Option(
        "--paper-steps",
        metavar="N",
        min=2,
        help="With implicit: gradient steps of the published recipe; its time is extrapolated if they are fewer than its 1200.",
    ),
]
Ablations = Annotated[
    bool, typer.Option("--ablations", help="With implicit: change one setting of the recipe at a time.")
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="With implicit: one photo and backbone, few views and steps, as a trial run."),
]
OperatorDevice = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="Where the operators are measured: cpu, cuda or cuda:1.")
]
