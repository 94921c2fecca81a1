"""The options that only ``featup-app train`` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featup_app.cli.options import given_path

Images = Annotated[
    list[Path], typer.Argument(parser=given_path, metavar="IMAGES", help="Images, or folders of images.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", parser=given_path, metavar="FILE", help="Weights to write, .safetensors.")
]
Backbones = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="Pretrained model to train for; given several times, one universal upsampler learns from all of them.",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method", metavar="NAME", help="Upsampling method: jbu, carafe, sapa or resize_conv (one backbone only)."
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", metavar="N", help="Steps to train; 2000 if not given.")]
Minutes = Annotated[
    float | None, typer.Option("--minutes", metavar="M", help="Minutes to train, not counting preparation.")
]
Size = Annotated[int, typer.Option("--size", metavar="PIXELS", help="Shorter side of the backbone's input.")]
Crops = Annotated[
    int, typer.Option("--crops", metavar="N", min=0, help="Random crops of each image, in addition to the whole.")
]
Views = Annotated[int, typer.Option("--views", metavar="N", min=1, help="Jittered views of each picture.")]
Recipe = Annotated[str, typer.Option("--recipe", metavar="NAME", help="Settings of the training: default or paper.")]
Restoration = Annotated[
    float | None,
    typer.Option(
        "--restoration",
        metavar="WEIGHT",
        help="Weight of keeping the coarse features when their detail is restored (jbu, one backbone): larger is sharper, 0 "
        "is no restoration. If not given, the largest whose held-out error is below that of bilinear interpolation.",
    ),
]
Validation = Annotated[
    Path | None,
    typer.Option(
        "--val", parser=given_path, metavar="FOLDER", help="Images to validate on; a tenth of the others if not given."
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        parser=given_path,
        metavar="FILE",
        help="Resume from the .training.pt file of an interrupted training.",
    ),
]
CacheBudget = Annotated[
    int, typer.Option("--cache-budget", metavar="MB", min=1, help="Megabytes of disk for cached features.")
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        parser=given_path,
        metavar="FOLDER",
        help="Where features are cached; a folder of the system if not given.",
    ),
]
Data = Annotated[
    str | None, typer.Option("--data", metavar="TEXT", help="What the images are, for people who use the weights.")
]
