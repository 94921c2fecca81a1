"""The options that only ``featup-app export`` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_app.cli.options import given_path
from featup_app.fields import DEFAULT_METHOD, METHODS
from featup_app.lenses.registry import usage

Folder = Annotated[
    Path,
    typer.Option(
        "--output", "-o", parser=given_path, metavar="DIR", help="Folder for the files; made if there is none."
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help=f"Upsampling method, one of: {', '.join(method.name for method in METHODS)}. If not given, that of the weights, or "
        f"{DEFAULT_METHOD}.",
    ),
]
OutputSize = Annotated[
    str,
    typer.Option(
        "--output-size",
        metavar="SIZE",
        help="Size of the features: 16x (times the feature grid), image (that of the image), 1024 (shorter side), "
        "480x640 (height x width) or grid.",
    ),
]
Format = Annotated[str, typer.Option("--format", metavar="FORMAT", help="Features as npz, npy or safetensors.")]
DType = Annotated[
    str, typer.Option("--dtype", metavar="TYPE", help="Values as float32, float16 or (safetensors only) bfloat16.")
]
Views = Annotated[
    str,
    typer.Option(
        "--views",
        metavar="VIEWS",
        help=f"Pictures to write as PNG, separated by commas: {usage()}.",
    ),
]
Features = Annotated[bool, typer.Option("--features/--no-features", help="Whether the features are written.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")]
