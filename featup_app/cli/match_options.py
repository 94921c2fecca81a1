"""The options that only ``featup-app match`` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_app.cli.options import given_path
from featup_app.fields import DEFAULT_METHOD, METHODS

One = Annotated[
    Path, typer.Argument(parser=given_path, metavar="IMAGE_A", help="An image; photo.tif#page=3 chooses a page.")
]
Other = Annotated[Path, typer.Argument(parser=given_path, metavar="IMAGE_B", help="The image to match it with.")]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        parser=given_path,
        metavar="DIR|FILE",
        help="A file that ends in .csv, .png or .svg, or a folder for all three; made if there is none.",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        help=f"Upsampling method on which matches are refined, one of: "
        f"{', '.join(method.name for method in METHODS if not method.takes_fit)}; {DEFAULT_METHOD} if not given.",
    ),
]
Count = Annotated[int, typer.Option("--count", metavar="N", min=1, help="Matches, at most.")]
At = Annotated[
    str | None,
    typer.Option("--point", metavar="X,Y", help="Only the match of this point of IMAGE_A, in its pixels."),
]
Refine = Annotated[
    bool, typer.Option("--refine/--no-refine", help="Whether matches are refined on the upsampled features.")
]
