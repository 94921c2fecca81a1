"""Separable resampling of a map at chosen rows and columns, so that any region can be computed on its own.

Positions are continuous cell coordinates in the convention of ``features``: the centre of the first cell is 0.5. Outside of
the map the value of the nearest edge cell is used.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from featup_app.ops.calls import call, handles, threads_for
from featup_app.ops.layout import empty_map, in_layout

CUBIC_A = -0.75
"""The sharpness of the cubic kernel, as in torch's bicubic interpolation, which the published stack uses."""


def reflect_indices(start: int, stop: int, length: int) -> Tensor:
    """Indices ``start .. stop`` mirrored into ``0 .. length`` without repeating the edge cell (as "reflect" padding).

    Indices may lie at any distance outside, so maps smaller than the padding work too.
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
    """(K, h, w) -> new (K, R, C): linear interpolation between the centres of the cells."""
    (low_rows, row_shares), (low_columns, column_shares) = (
        _linear_taps(positions, length) for positions, length in ((rows, source.shape[1]), (columns, source.shape[2]))
    )
    compiled = source.device.type == "cpu" and source.dtype in (torch.float32, torch.float64) and handles(source)
    if compiled and not (torch.is_grad_enabled() and source.requires_grad):
        result = empty_map(source[None], len(rows), len(columns))
        bilinear_into(in_layout(source[None]), result, low_rows, row_shares, low_columns, column_shares)
        return result[0]
    part = _linear_along(source, low_rows, row_shares, 1)
    return _linear_along(part, low_columns, column_shares, 2)


def _linear_taps(positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The lower cell of each position (int64), and the fraction of the way to the next cell (float64, 0 .. 1)."""
    centred = (positions.to(torch.float64) - 0.5).clamp(0, length - 1)
    low = centred.floor()
    return low.long(), centred - low


def _linear_along(source: Tensor, low: Tensor, shares: Tensor, dim: int) -> Tensor:
    shape = [1, 1, 1]
    shape[dim] = -1
    high = (low + 1).clamp(max=source.shape[dim] - 1)
    return torch.lerp(_gather(source, low, dim), _gather(source, high, dim), shares.to(source).view(shape))


@torch.library.custom_op("featup::bilinear_into", mutates_args=("result",), device_types="cpu")
def bilinear_into(
    source: Tensor, result: Tensor, rows: Tensor, row_shares: Tensor, columns: Tensor, column_shares: Tensor
) -> None:
    """(B, C, h, w) between the cells ``rows`` (int64) and the next, at the fractions ``row_shares`` (float64); columns alike."""

    def whole(tensor: Tensor) -> Any:
        return ctypes.cast(tensor.data_ptr(), ctypes.POINTER(ctypes.c_int64))

    def real(tensor: Tensor) -> Any:
        return ctypes.cast(tensor.data_ptr(), ctypes.POINTER(ctypes.c_double))

    kept = [tensor.contiguous() for tensor in (rows, row_shares, columns, column_shares)]
    lines = (whole(kept[0]), real(kept[1]), whole(kept[2]), real(kept[3]))
    call("featup_bilinear", source, result, *lines, threads_for(4 * result.numel()))


@bilinear_into.register_fake
def _(source: Tensor, result: Tensor, rows: Tensor, row_shares: Tensor, columns: Tensor, column_shares: Tensor) -> None:
    return None


def linear_span(positions: Tensor, length: int) -> tuple[int, int]:
    """The first cell and one past the last cell that :func:`bilinear` reads for these positions."""
    centred = (positions - 0.5).clamp(0, length - 1)
    return int(centred.min().floor()), min(int(centred.max().floor()) + 2, length)


def _double_taps(indices: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The four source cells (4, N) and whether each output index is the odd one (N) of a bicubic doubling."""
    first = torch.div(indices - 1, 2, rounding_mode="floor") - 1
    cells = torch.stack([(first + tap).clamp(0, length - 1) for tap in range(4)])
    return cells, indices.remainder(2) == 1


def bicubic_double(
    source: Tensor, rows: Tensor, columns: Tensor, *, origin: tuple[int, int], lengths: tuple[int, int]
) -> Tensor:
    """Rows and columns of the bicubic doubling of a map, computed from a part of it.

    Args:
        source: (..., r, c), the part of the map that begins at row and column ``origin``.
        rows, columns: output indices in ``0 .. 2 * length``, in any order, repeats allowed.
        lengths: rows and columns of the whole map.

    Returns:
        (..., len(rows), len(columns)), equal to those rows and columns of torch's ``interpolate(scale_factor=2,
        mode="bicubic", align_corners=False)`` of the whole map.
    """
    part = _double_along(source, rows, -2, origin[0], lengths[0])
    return _double_along(part, columns, -1, origin[1], lengths[1])


def _double_along(source: Tensor, indices: Tensor, dim: int, origin: int, length: int) -> Tensor:
    cells, odd = _double_taps(indices, length)
    even_weights, odd_weights = _cubic_weights(0.75), _cubic_weights(0.25)
    shape = [-1, 1] if dim == -2 else [1, -1]
    result: Tensor | None = None
    for tap in range(4):
        weight = torch.where(odd, odd_weights[tap], even_weights[tap]).to(source).view(shape)
        term = _gather(source, cells[tap] - origin, dim)
        result = term.mul_(weight) if result is None else result.addcmul_(term, weight)
    assert result is not None
    return result


def _cubic_weights(fraction: float) -> list[float]:
    """Weights of the cells at -1, 0, 1, 2 for a position ``fraction`` of a cell after cell 0 (Keys 1981)."""

    def inner(x: float) -> float:
        return ((CUBIC_A + 2) * x - (CUBIC_A + 3)) * x * x + 1

    def outer(x: float) -> float:
        return ((CUBIC_A * x - 5 * CUBIC_A) * x + 8 * CUBIC_A) * x - 4 * CUBIC_A

    return [outer(1 + fraction), inner(fraction), inner(1 - fraction), outer(2 - fraction)]
