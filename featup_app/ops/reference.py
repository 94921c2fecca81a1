"""The operators in plain torch, differentiable by autograd: used without the compiled library, and as a reference in tests.

All of them loop over the taps of the window. The published form gathers k * k copies of the features (and of the keys of the
range kernel) first, which needs k * k times the memory. Arguments have been checked by ``ops.operators``. Source of the
operations: FeatUp (Fu, Hamilton et al., ICLR 2024), joint bilateral upsampling.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor


def _taps(padded: Tensor, kernel_size: int) -> Iterator[Tensor]:
    """Views (..., height, width) of a padded tensor, one for each tap of the window, row by row."""
    height, width = padded.shape[-2] - kernel_size + 1, padded.shape[-1] - kernel_size + 1
    for dy in range(kernel_size):
        for dx in range(kernel_size):
            yield padded[..., dy : dy + height, dx : dx + width]


def _middle(padded: Tensor, kernel_size: int) -> Tensor:
    radius = kernel_size // 2
    return padded[..., radius : padded.shape[-2] - radius, radius : padded.shape[-1] - radius]


def window_sum(padded: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    """See ``ops.window_sum``."""
    if padded.dtype in (torch.float16, torch.bfloat16):
        return window_sum(padded.float(), weights.float(), kernel_size).to(padded.dtype)
    batch, _, height, width = weights.shape
    total = padded.new_zeros((batch, padded.shape[1], height, width))
    for tap, view in enumerate(_taps(padded, kernel_size)):
        total.addcmul_(view, weights[:, tap : tap + 1].to(padded.dtype))
    return total


def window_dot(padded: Tensor, centre: Tensor, kernel_size: int) -> Tensor:
    """See ``ops.window_dot``."""
    return torch.stack([(centre * view).sum(dim=1) for view in _taps(padded, kernel_size)], dim=1)


def range_weights(keys: Tensor, temperature: Tensor, bias: Tensor, kernel_size: int) -> Tensor:
    """Softmax over the taps of ``temperature`` times the products of keys, plus a ``bias`` for each tap (k * k)."""
    centre = _middle(keys, kernel_size)
    logits = window_dot(keys, centre, kernel_size)
    return torch.softmax(temperature * logits + bias[:, None, None], dim=1)


def spatial_logarithm(sigma: Tensor | float, kernel_size: int, like: Tensor) -> Tensor:
    """Logarithm of a Gaussian over a window whose side runs from -1 to 1: (k * k), 0 at the centre."""
    line = torch.linspace(-1, 1, kernel_size) if kernel_size > 1 else torch.zeros(1)
    line = line.to(like)
    squared = (line[:, None] ** 2 + line[None, :] ** 2).flatten()
    return -squared / (2 * sigma**2)


def bilateral_weights(guidance: Tensor, sigma_spatial: float, sigma_range: float, kernel_size: int) -> Tensor:
    """See ``ops.bilateral_weights``.

    Sums are computed plane by plane. Torch's reductions add in another order at the end of a row, so that a pixel's weights
    would depend on the strip that they are computed in.
    """
    middle = _middle(guidance, kernel_size)
    spatial = spatial_logarithm(sigma_spatial, kernel_size, torch.zeros((), dtype=torch.float64)).tolist()
    scale = -0.5 / sigma_range**2
    planes, total = [], torch.zeros_like(middle[:, 0])
    for tap, view in enumerate(_taps(guidance, kernel_size)):
        distance = torch.zeros_like(total)
        for plane in (view - middle).square().unbind(dim=1):
            distance = distance + plane
        planes.append(torch.exp(distance * scale + spatial[tap]))
        total = total + planes[-1]
    return torch.stack(planes, dim=1).div_(total[:, None])


def _cells_of_taps(cells: Tensor, kernel_size: int, length: int) -> list[tuple[Tensor, Tensor]]:
    """For each tap along one side: the cell that every line reads, and whether it exists; one that does not is replaced."""
    taps = [cells + (tap - kernel_size // 2) for tap in range(kernel_size)]
    return [(tap.clamp(0, length - 1), (tap >= 0) & (tap < length)) for tap in taps]


def cell_attention_weights(
    queries: Tensor, keys: Tensor, row_logits: Tensor, column_logits: Tensor, row_cells: Tensor, column_cells: Tensor
) -> Tensor:
    """See ``ops.cell_attention_weights``; sums are computed plane by plane for the reason that ``bilateral_weights`` gives."""
    kernel_size = row_logits.shape[1]
    across = _cells_of_taps(column_cells, kernel_size, keys.shape[3])
    logits = []
    for i, (rows, row_there) in enumerate(_cells_of_taps(row_cells, kernel_size, keys.shape[2])):
        lines = keys.index_select(2, rows)
        for j, (columns, column_there) in enumerate(across):
            logit = (row_logits[:, i, None] + column_logits[:, j]).expand(queries.shape[0], -1, -1)
            for query, key in zip(queries.unbind(1), lines.index_select(3, columns).unbind(1), strict=True):
                logit = logit + query * key
            logits.append(logit.masked_fill(~(row_there[:, None] & column_there), -math.inf))
    most = functools.reduce(torch.maximum, (logit.detach() for logit in logits))
    shares = [torch.exp(logit - most) for logit in logits]
    total = functools.reduce(torch.add, shares)
    return torch.stack(shares, dim=1) / total[:, None]


def cell_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    row_logits: Tensor,
    column_logits: Tensor,
    row_cells: Tensor,
    column_cells: Tensor,
) -> Tensor:
    """See ``ops.cell_attention``."""
    weights = cell_attention_weights(queries, keys, row_logits, column_logits, row_cells, column_cells)
    kernel_size = row_logits.shape[1]
    across = _cells_of_taps(column_cells, kernel_size, keys.shape[3])
    result = values.new_zeros((*values.shape[:2], *queries.shape[2:]))
    for i, (rows, _) in enumerate(_cells_of_taps(row_cells, kernel_size, keys.shape[2])):
        lines = values.index_select(2, rows)
        for j, (columns, _) in enumerate(across):
            tap = i * kernel_size + j
            result.addcmul_(lines.index_select(3, columns), weights[:, tap : tap + 1])
    return result
