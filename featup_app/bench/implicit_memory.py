"""Peak memory of the fit of an implicit network, in a process of its own, beside the fit's own estimate.

``python -m featup_app.bench.implicit_memory`` reads from its standard input which fit to measure and prints the figures, both
as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featup_app.backbones import load_backbone
from featup_app.base.child_process import child_facts
from featup_app.base.peak_memory import extra_megabytes
from featup_app.base.progress import Progress, silent
from featup_app.features import Size
from featup_app.fields.implicit import ImplicitFit, find_fit_recipe
from featup_app.images import load_image

LARGE_INPUT = "448"
"""Input size that is measured beside that of the comparison."""


@dataclass(frozen=True)
class MemoryRow:
    """A fit in a process of its own.

    Attributes:
        extra_mb: peak memory beyond backbone and features (1e6 bytes); None where the system does not report it.
        predicted_mb: the fit's own estimate, made before it starts.
        seconds, steps, error: of the fit; ``error`` is the held-out reprojection error.
    """

    photo: str
    backbone: str
    recipe: str
    input_hw: Size
    extra_mb: float | None
    predicted_mb: float
    seconds: float
    steps: int
    error: float


def peak_memory(
    photo: Path, backbone: str, size: str, recipe: str = "default", progress: Progress = silent
) -> MemoryRow:
    """Fit in a process of its own, with as many threads as torch has here, and measure its memory.

    Raises:
        FeatUpError: if that process fails.
    """
    request = {
        "photo": str(photo),
        "backbone": backbone,
        "size": size,
        "recipe": recipe,
        "threads": torch.get_num_threads(),
    }
    title = f"fitting {photo.name} at {size} with {backbone}"
    facts = child_facts("featup_app.bench.implicit_memory", (), title, progress, request=request)
    return MemoryRow(**{**facts, "input_hw": tuple(facts["input_hw"])})


def _measure_here(request: Mapping[str, Any]) -> MemoryRow:
    torch.set_num_threads(request["threads"])
    features = load_backbone(request["backbone"], device="cpu").extract(
        load_image(request["photo"]), size=request["size"]
    )
    fits: list[ImplicitFit] = []

    def run() -> Tensor:
        fits.append(ImplicitFit(features, recipe=find_fit_recipe(request["recipe"])))
        fits[-1].run()
        field = fits[-1].field()
        assert field is not None
        return field.network.last.weight

    extra = extra_megabytes(run)
    if not fits:
        run()
    state = fits[-1].state
    return MemoryRow(
        photo=Path(request["photo"]).name,
        backbone=request["backbone"],
        recipe=request["recipe"],
        input_hw=features.geometry.input_hw,
        extra_mb=extra,
        predicted_mb=fits[-1].memory_bytes() / 1e6,
        seconds=state.seconds,
        steps=state.step,
        error=fits[-1].measure().mean,
    )


def _main() -> None:
    sys.stdout.write(json.dumps(dataclasses.asdict(_measure_here(json.loads(sys.stdin.read())))))


if __name__ == "__main__":
    _main()
