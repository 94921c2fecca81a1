"""The options that only ``featup-app fit`` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_app.cli.options import given_path
from featup_app.fields.implicit.recipe import FIT_RECIPES

Image = Annotated[Path, typer.Argument(parser=given_path, metavar="IMAGE", help="The image.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", parser=given_path, metavar="FILE", help="Fit to write, .safetensors.")
]
Recipe = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME",
        help=f"Settings of the fit, one of: {', '.join(FIT_RECIPES)}. The published one takes hours without a graphics card.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", min=1, help="Steps of the fit; those of the recipe if not given."),
]
Seconds = Annotated[
    float | None,
    typer.Option("--seconds", metavar="S", help="Stop after so many seconds, not counting preparation."),
]
Views = Annotated[
    int | None,
    typer.Option("--views", metavar="N", min=1, help="Jittered views to fit to; those of the recipe if not given."),
]
Smaller = Annotated[
    bool, typer.Option("--smaller", help="Where memory is short, use a smaller setting instead of refusing.")
]
AsJSONLines = Annotated[
    bool,
    typer.Option("--json", help="Print a line of JSON for each measured step, and a last one with the result."),
]
