"""Separable resampling of a map at chosen rows and columns, so that any region can be computed on its own.

Positions are continuous cell coordinates in the convention of ``features``: the centre of the first cell is 0.5. Outside of
the map the nearest edge cell counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUBIC_A = -0.75
"""The sharpness of the cubic kernel, as in torch's bicubic interpolation, which the published stack uses."""


def reflect_indices(start: int, stop: int, length: int) -> Tensor:
    """Indices ``start .. stop`` mirrored into ``0 .. length``, the edge cell not repeated (as "reflect" padding).

    Any distance outside works, also for maps smaller than the padding.
    """
    indices = torch.arange(start, stop)
    if length == 1:
        return torch.zeros_like(indices)
    period = 2 * (length - 1)
    folded = indices.remainder(period)
    return torch.minimum(folded, period - folded)


def _gather(source: Tensor, indices: Tensor, dim: int) -> Tensor:
    return source.index_select(dim, indices.to(source.device))


def nearest(source: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(K, h, w) -> (K, R, C): the cell that holds each position."""
    row_index = rows.floor().long().clamp(0, source.shape[1] - 1)
    column_index = columns.floor().long().clamp(0, source.shape[2] - 1)
    return _gather(_gather(source, row_index, 1), column_index, 2)


def bilinear(source: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(K, h, w) -> (K, R, C): linear interpolation between the centres of the cells."""
    return _linear_along(_linear_along(source, rows, 1), columns, 2)


def _linear_along(source: Tensor, positions: Tensor, dim: int) -> Tensor:
    length = source.shape[dim]
    centred = (positions - 0.5).clamp(0, length - 1)
    low = centred.floor()
    shape = [1, 1, 1]
    shape[dim] = -1
    weight = (centred - low).to(source).view(shape)
    low = low.long()
    high = (low + 1).clamp(max=length - 1)
    return torch.lerp(_gather(source, low, dim), _gather(source, high, dim), weight)


def linear_span(positions: Tensor, length: int) -> tuple[int, int]:
    """First and one past the last cell that :func:`bilinear` reads for these positions."""
    centred = (positions - 0.5).clamp(0, length - 1)
    return int(centred.min().floor()), min(int(centred.max().floor()) + 2, length)


def _double_taps(indices: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The four source cells (4, N) and whether each output index is the odd one (N) of a bicubic doubling."""
    first = torch.div(indices - 1, 2, rounding_mode="floor") - 1
    cells = torch.stack([(first + tap).clamp(0, length - 1) for tap in range(4)])
    return cells, indices.remainder(2) == 1


def double_span(indices: Tensor, length: int) -> tuple[int, int]:
    """First and one past the last source cell that :func:`bicubic_double` reads for these output indices."""
    cells, _ = _double_taps(indices, length)
    return int(cells.min()), int(cells.max()) + 1


def bicubic_double(
    source: Tensor, rows: Tensor, columns: Tensor, *, origin: tuple[int, int], lengths: tuple[int, int]
) -> Tensor:
    """Rows and columns of the bicubic doubling of a map of which only a part is at hand.

    Args:
        source: (K, r, c), the part of the map that begins at row and column ``origin``.
        rows, columns: output indices in ``0 .. 2 * length``, in any order, repeats allowed.
        lengths: rows and columns of the whole map.

    Returns:
        (K, len(rows), len(columns)), equal to those rows and columns of torch's ``interpolate(scale_factor=2,
        mode="bicubic", align_corners=False)`` of the whole map.
    """
    part = _double_along(source, rows, 1, origin[0], lengths[0])
    return _double_along(part, columns, 2, origin[1], lengths[1])


def _double_along(source: Tensor, indices: Tensor, dim: int, origin: int, length: int) -> Tensor:
    cells, odd = _double_taps(indices, length)
    even_weights, odd_weights = _cubic_weights(0.75), _cubic_weights(0.25)
    shape = [1, 1, 1]
    shape[dim] = -1
    result: Tensor | None = None
    for tap in range(4):
        weight = torch.where(odd, odd_weights[tap], even_weights[tap]).to(source).view(shape)
        term = _gather(source, cells[tap] - origin, dim)
        result = term.mul_(weight) if result is None else result.addcmul_(term, weight)
    assert result is not None
    return result


def _cubic_weights(fraction: float) -> list[float]:
    """Weights of the cells at -1, 0, 1, 2 for a position ``fraction`` of a cell behind cell 0 (Keys 1981)."""

    def inner(x: float) -> float:
        return ((CUBIC_A + 2) * x - (CUBIC_A + 3)) * x * x + 1

    def outer(x: float) -> float:
        return ((CUBIC_A * x - 5 * CUBIC_A) * x + 8 * CUBIC_A) * x - 4 * CUBIC_A

    return [outer(1 + fraction), inner(fraction), inner(1 - fraction), outer(2 - fraction)]
