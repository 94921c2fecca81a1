"""The options that only ``featup-app compare`` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_app.cli.options import given_path
from featup_app.lenses.registry import usage

Picture = Annotated[
    Path, typer.Argument(parser=given_path, metavar="IMAGE", help="The image; photo.tif#page=3 chooses a page.")
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        parser=given_path,
        metavar="DIR|FILE",
        help="A file that ends in .png or .svg, or a folder for both; made if there is none.",
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        metavar="LIST",
        help="Upsampling methods, separated by commas; jbu=classical and jbu=FILE choose weights, implicit=FILE a fit. If not "
        "given: three of them, or the default one where another list is given.",
    ),
]
Backbones = Annotated[
    str | None,
    typer.Option("--backbones", metavar="LIST", help="Pretrained models; `featup-app backbones` lists them."),
]
Layers = Annotated[
    str | None, typer.Option("--layers", metavar="LIST", help="Layers, for a comparison within one backbone.")
]
Sizes = Annotated[
    str | None,
    typer.Option(
        "--sizes", metavar="LIST", help="Sizes to which the image is resized for the backbone, such as 224,448."
    ),
]
Views = Annotated[
    str, typer.Option("--views", metavar="VIEWS", help=f"Rows of the sheet, separated by commas: {usage()}.")
]
Difference = Annotated[
    bool,
    typer.Option("--difference", help="A last row with the distance of each column's features to those of the first."),
]
Width = Annotated[
    int, typer.Option("--width", metavar="PIXELS", min=480, max=14400, help="Width of the PNG; text grows with it.")
]
