"""Options that several commands share, so that they mean the same and read the same everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from featup_app.base.errors import FeatUpError
from featup_app.images.selection import Selection, parse_channels, parse_page, parse_range
from featup_app.lenses import PCARequest, Request


def given_path(text: str) -> Path:
    """The path that an argument names. Raises FeatUpError for an empty one, which would mean the current folder."""
    if not str(text).strip():
        raise FeatUpError(
            "An argument that names a file or a folder is empty; write its name, or . for the current folder."
        )
    return Path(text)


UpsamplerChoice = Annotated[
    str | None,
    typer.Option(
        "--upsampler",
        metavar="FILE|classical",
        help="Weights of the method: a file of `featup-app train`, of `featup-app fit` for the method implicit, or a published "
        "FeatUp checkpoint (nothing in it is executed), or classical for the untrained filter; the bundled weights if not given.",
    ),
]

BackboneName = Annotated[
    str, typer.Option("--backbone", metavar="NAME", help="Pretrained model; `featup-app backbones` lists them.")
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        parser=given_path,
        metavar="FILE",
        help="Weights for the model of --backbone instead of its own: .safetensors, or a checkpoint of torch (nothing in it is "
        "executed).",
    ),
]
LayerName = Annotated[
    str | None,
    typer.Option("--layer", metavar="LAYER", help='Layer of the backbone: a number, or a name such as "block 10".'),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="SIZE",
        help="Size to which images are resized for the backbone: 448 (shorter side), 448x602 (height x width) or image.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help="Where to compute: cpu, cuda or cuda:1; CUDA if there is one."),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
ReportAsJSON = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of everything that is drawn at random.")]
Images = Annotated[
    list[Path],
    typer.Argument(
        parser=given_path, metavar="IMAGE", help="The images, or folders of images; photo.tif#page=3 chooses a page."
    ),
]
Page = Annotated[
    str,
    typer.Option(
        "--page", metavar="N", help="Page, frame or plane of files that hold several, from 1; the largest if not given."
    ),
]
Channels = Annotated[
    str,
    typer.Option(
        "--channels",
        metavar="R,G,B|N",
        help="Channels to see as red, green and blue, or one as grey, from 1; the first three or one if not given.",
    ),
]
Range = Annotated[
    str,
    typer.Option(
        "--range",
        metavar="LO,HI|full|auto",
        help="Values that become black and white: two numbers; full for all that the type can hold; auto for the range of "
        "nearly all values, where samples have more than 8 bits.",
    ),
]


LockedBasis = Annotated[
    Path | None,
    typer.Option(
        "--pca",
        parser=given_path,
        metavar="FILE",
        help="Principal components for the views pca, saved by this program: the same colours in all pictures of that backbone, "
        "layer and weights.",
    ),
]


def selection_of(page: str, channels: str, range: str) -> Selection:
    """The choice of three options. Raises ImageError if one cannot be read."""
    return Selection(parse_page(page), parse_channels(channels), parse_range(range))


def with_basis(requests: tuple[Request, ...], basis: Path | None) -> tuple[Request, ...]:
    """The views, with the locked components of ``--pca`` for those of principal components. Raises FeatUpError without any."""
    if basis is None:
        return requests
    if not any(isinstance(request, PCARequest) for request in requests):
        raise FeatUpError("The option --pca is for views of principal components, and there is none; add --views pca.")
    return tuple(
        replace(request, basis=str(basis)) if isinstance(request, PCARequest) else request for request in requests
    )
