"""Options that several commands share, so that they mean the same and read the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

UpsamplerChoice = Annotated[
    str | None,
    typer.Option(
        "--upsampler",
        metavar="FILE|classical",
        help="Weights of the method: a file of `featup-app train`, of `featup-app fit` for the method implicit, or a published "
        "FeatUp checkpoint (nothing in it is executed), or classical for the untrained filter; the bundled weights if not given.",
    ),
]
