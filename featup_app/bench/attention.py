"""Speed of the attention to coarse cells, beside the chain of guided doublings that makes a map of the same size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.bench.measures import Case, Machine, Row, compare, interleaved, operators
from featup_app.features import Size
from featup_app.ops import cell_attention, cell_attention_weights, loading
from featup_app.ops.cuda import wait_for
from featup_app.ops.doubling import KERNEL_SIZE, guided_double

EMBEDDINGS = 4
"""Lightness, two colours and a constant, as the queries of an untrained attention have."""
DOUBLINGS = 4


def bench_attention(
    machine: Machine,
    repeats: int,
    progress: Progress = silent,
    *,
    grid: Size = (32, 48),
    size: Size = (448, 672),
    many: int = 384,
) -> Iterator[Row]:
    """Measure few and many channels and two windows, the gradients, and the weights alone.

    Args:
        grid: rows and columns of coarse cells that the attention reads.
        size: height and width of the result, multiples of sixteen.
        many: number of channels of a whole map.
    """
    pixels, to = size[0] * size[1], f"{size[0]}x{size[1]}"

    def row(
        name: str,
        window: int,
        channels: int,
        prepare: Callable[[], Callable[[], Tensor]],
        forward_ms: float | None = None,
    ) -> Row:
        operations = 2.0 * window**2 * (EMBEDDINGS + channels) * pixels
        case = Case(name, f"{channels} to {to}, {window}x{window}", operations, prepare)
        return compare(case, machine, repeats, progress, forward_ms=forward_ms)

    for channels in (3, many):
        for window in (5, 7):
            operands = _operands(grid, size, channels, window, machine.device)
            forward = row("cell_attention", window, channels, partial(_forward, operands))
            doublings = partial(_doublings, channels, size, machine.device)
            yield replace(forward, to_doublings=_ratio(partial(_forward, operands), doublings, repeats))
            if channels != many:  # for each tap, plain torch keeps a copy of the values of every pixel
                yield row("its gradients", window, channels, partial(_gradients, operands), forward.native_ms)
    for window in (5, 7):
        yield row("its weights", window, 0, partial(_weights, _operands(grid, size, 1, window, machine.device)))


def _ratio(one: Callable[[], Callable[[], Tensor]], other: Callable[[], Callable[[], Tensor]], repeats: int) -> float:
    """Time of a prepared function divided by that of another, both with the compiled operators and in turn."""
    with operators("require"), torch.no_grad():
        first, second = one(), other()
        functions = {"first": lambda: wait_for(first()), "second": lambda: wait_for(second())}
        seconds = interleaved(functions, repeats)
    return seconds["first"] / seconds["second"]


def _operands(grid: Size, size: Size, channels: int, window: int, device: str) -> tuple[Tensor, ...]:
    """The arguments of the attention, with random numbers."""
    generator = torch.Generator().manual_seed(0)
    shapes = (1, EMBEDDINGS, *size), (1, EMBEDDINGS, *grid), (1, channels, *grid), (size[0], window), (size[1], window)
    cells = [torch.arange(lines) * length // lines for lines, length in zip(size, grid, strict=True)]
    operands = [torch.randn(shape, generator=generator) for shape in shapes]
    return tuple(operand.to(device) for operand in (*operands, *cells))


def _forward(operands: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    queries, keys, values, row_logits, column_logits, rows, columns = operands
    return lambda: cell_attention(queries, keys, values, row_logits, column_logits, rows, columns)


def _weights(operands: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    queries, keys, _, row_logits, column_logits, rows, columns = operands
    return lambda: cell_attention_weights(queries, keys, row_logits, column_logits, rows, columns)


def _gradients(operands: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """The gradients to all five operands, through autograd as in training; that to the queries is returned."""
    with torch.enable_grad():
        leaves = [operand.detach().requires_grad_() for operand in operands[:5]]
        queries, keys, values, row_logits, column_logits = leaves
        result = cell_attention(queries, keys, values, row_logits, column_logits, *operands[5:])
    gradient = torch.empty_like(result).fill_(1.0)
    return lambda: torch.autograd.grad(result, leaves, gradient, retain_graph=True)[0]


def _doublings(channels: int, size: Size, device: str) -> Callable[[], Tensor]:
    """Doublings whose weights are there already, from the grid that they make a map of this size of."""
    generator = torch.Generator().manual_seed(0)
    grid = size[0] >> DOUBLINGS, size[1] >> DOUBLINGS
    source = torch.randn(1, channels, *grid, generator=generator).to(device)
    weights = [
        torch.rand(1, KERNEL_SIZE**2, grid[0] << level, grid[1] << level, generator=generator).to(device)
        for level in range(1, DOUBLINGS + 1)
    ]
    if loading.mode() != "off" and not source.is_cuda:
        source = source.contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        result = source
        for level in weights:
            result = guided_double(result, level)
        return result

    return run
