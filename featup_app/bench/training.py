"""Training steps per second, and how much projecting the features first saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.bench.measures import Case, Machine, Row, compare
from featup_app.multiview import random_jitter
from featup_app.training.chain import pyramid
from featup_app.training.objective import Example, Objective
from featup_app.training.recipes import DEFAULT, Recipe

CHANNELS = 384
GRID = 16
SIZE = 224
TAPS = 49


def bench_train(machine: Machine, repeats: int, progress: Progress = silent, *, grid: int = GRID) -> Iterator[Row]:
    """Measure a step of the default recipe on one picture with its jittered views, on projected and on all channels.

    Times include loss, gradients and the optimizer's step, not the backbone, whose features are computed once and cached.
    """
    with_correction = replace(DEFAULT, learn_kernel_correction=True)
    for name, recipe in (
        ("step, 30 directions", DEFAULT),
        ("step, kernel correction", with_correction),
        ("step, all channels", replace(DEFAULT, directions=0)),
    ):
        channels = recipe.directions or CHANNELS
        # Forward, the gradient to the features, and the gradient to the weights.
        operations = 3 * 2.0 * TAPS * channels * sum((grid << level) ** 2 for level in range(1, 5))
        shape = f"{SIZE} px, {recipe.views} views"
        case = Case(name, shape, operations, partial(_step, recipe, grid, machine.device))
        row = compare(case, machine, repeats, progress)
        yield replace(row, steps_per_second=1e3 / row.native_ms)


def _step(recipe: Recipe, grid: int, device: str) -> Callable[[], Tensor]:
    """A function that trains one step on random features."""
    generator = torch.Generator().manual_seed(0)
    objective = Objective([CHANNELS], recipe, generator).to(device)
    optimizer = torch.optim.NAdam(objective.parameter_groups(), lr=1e-3)
    side = 16 * grid
    guidance = torch.randint(0, 256, (1, 3, side, side), generator=generator, dtype=torch.uint8)
    size = (SIZE, SIZE)
    jitters = tuple(
        random_jitter(generator, size, max_padding=recipe.max_padding, max_zoom=recipe.max_zoom)
        for _ in range(recipe.views)
    )
    example = Example(
        member=0,
        levels=pyramid(guidance.to(device)),
        features=torch.randn(1, CHANNELS, grid, grid, generator=generator).to(device),
        views=torch.randn(1, recipe.views, CHANNELS, grid, grid, generator=generator).to(device),
        jitters=(jitters,),
    )

    def step() -> Tensor:
        with torch.enable_grad():
            loss, error = objective(example, generator)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
        result: Tensor = error
        return result

    return step
