"""Weighted sums over the patches of a map, without ever cutting the patches out.

A grid of (n_h, n_w) patches of k x k pixels lies on a map so that the first patch begins at one edge and the last ends at the
other (FeatUp section 3.2); patches may overlap. Unfolding them copies the map k * k / stride² times, which is gigabytes for the
implicit network's 29 x 29 patches. Here one row of patches is read at a time through a view.
"""

from __future__ import annotations

import itertools
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.features import Size


def patch_starts(length: int, kernel_size: int, count: int) -> tuple[int, ...]:
    """First pixels of ``count`` patches spread over one side, as evenly as whole pixels allow.

    Args:
        length: pixels of the side.
        kernel_size: k, pixels of a patch.
        count: how many patches; a single one lies in the middle.

    Returns:
        ``count`` starts; the first is 0 and the last ``length - kernel_size``.

    Raises:
        ValueError: if a patch is longer than the side, or ``count`` is less than 1.
    """
    free = length - kernel_size
    if kernel_size < 1 or free < 0 or count < 1:
        raise ValueError(f"{count} patches of {kernel_size} pixels do not fit on a side of {length} pixels")
    if count == 1:
        return (free // 2,)
    return tuple((2 * index * free + count - 1) // (2 * (count - 1)) for index in range(count))


def patches(plane: Tensor, kernel_size: int, grid_hw: Size) -> Tensor:
    """The patches of one channel, cut out: (B, H, W) -> (B, n_h, n_w, k, k). Never for all channels of a map."""
    height, width = plane.shape[-2:]
    rows = pixels_of(patch_starts(height, kernel_size, grid_hw[0]), kernel_size, plane.device)
    columns = pixels_of(patch_starts(width, kernel_size, grid_hw[1]), kernel_size, plane.device)
    cut = plane.index_select(-2, rows).index_select(-1, columns)
    return cut.view(-1, grid_hw[0], kernel_size, grid_hw[1], kernel_size).transpose(2, 3)


def patch_sum(features: Tensor, weights: Tensor) -> Tensor:
    """Each patch's weighted sum, with the same weights for all channels.

    Kept for the gradient are the features and the weights themselves, nothing of the size of all patches.

    Args:
        features: (B, C, H, W) floating point.
        weights: (B, n_h, n_w, k, k) of the same type, or expanded to that.

    Returns:
        (B, C, n_h, n_w).

    Raises:
        ValueError: if the patches are larger than the map.
    """
    rows, columns, kernel_size = weights.shape[1], weights.shape[2], weights.shape[3]
    row_starts = patch_starts(features.shape[2], kernel_size, rows)
    column_starts = patch_starts(features.shape[3], kernel_size, columns)
    apply = cast(Any, _PatchSum.apply)
    return cast(Tensor, apply(features, weights, row_starts, column_starts))


class _PatchSum(torch.autograd.Function):
    """:func:`patch_sum` one row of patches at a time, forwards and backwards."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weights: Tensor, row_starts: tuple[int, ...], column_starts: tuple[int, ...]
    ) -> Tensor:
        ctx.save_for_backward(features, weights)
        ctx.starts = row_starts, column_starts
        size = weights.shape[3]
        sums = [
            (_row_of_patches(features, start, column_starts, size) * _beside(weights[:, row])).sum((2, 4))
            for row, start in enumerate(row_starts)
        ]
        return torch.stack(sums, dim=2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        features, weights = ctx.saved_tensors
        row_starts, column_starts = ctx.starts
        size = weights.shape[3]
        to_features = torch.zeros_like(features) if ctx.needs_input_grad[0] else None
        to_weights = []
        for row, start in enumerate(row_starts):
            here = gradient[:, :, row]
            if to_features is not None:
                shares = here[:, :, None, :, None] * _beside(weights[:, row])
                _add_row_of_patches(to_features, start, column_starts, shares)
            if ctx.needs_input_grad[1]:
                slab = _row_of_patches(features, start, column_starts, size)
                to_weights.append(torch.einsum("bcrqs,bcq->bqrs", slab, here))
        return to_features, torch.stack(to_weights, dim=1) if to_weights else None, None, None


def pixels_of(starts: tuple[int, ...], kernel_size: int, device: torch.device) -> Tensor:
    """Indices of all pixels of the patches along one side, patch after patch: (count * k)."""
    first = torch.tensor(starts, device=device)
    return (first[:, None] + torch.arange(kernel_size, device=device)).flatten()


def _beside(weights: Tensor) -> Tensor:
    """(B, n_w, k, k) -> (B, 1, k, n_w, k), as a row of patches lies in the map."""
    return weights.transpose(1, 2)[:, None]


def _even_step(starts: tuple[int, ...]) -> int | None:
    """The one distance between neighbouring patches, or None if it varies."""
    steps = {after - before for before, after in itertools.pairwise(starts)} or {1}
    step = steps.pop()
    return step if not steps and step > 0 else None


def _row_of_patches(features: Tensor, top: int, column_starts: tuple[int, ...], size: int) -> Tensor:
    """One row of patches, (B, C, k, n_w, k): a view where they are evenly spaced, else a copy of this row alone."""
    slab = features[:, :, top : top + size]
    step = _even_step(column_starts)
    if step is not None:
        return slab[..., column_starts[0] : column_starts[-1] + size].unfold(3, size, step)
    columns = pixels_of(column_starts, size, features.device)
    return slab.index_select(3, columns).view(*slab.shape[:3], len(column_starts), size)


def _add_row_of_patches(total: Tensor, top: int, column_starts: tuple[int, ...], shares: Tensor) -> None:
    """Add (B, C, k, n_w, k) where a row of patches lies in ``total`` (B, C, H, W); overlaps add up."""
    size = shares.shape[-1]
    slab = total[:, :, top : top + size]
    step = _even_step(column_starts)
    if step is None:
        slab.index_add_(3, pixels_of(column_starts, size, total.device), shares.flatten(3))
        return
    view = slab[..., column_starts[0] : column_starts[-1] + size].unfold(3, size, step)
    apart = -(-size // step)
    # Patches so many steps apart do not overlap, so that adding in place meets each pixel once.
    for first in range(min(apart, len(column_starts))):
        view[:, :, :, first::apart] += shares[:, :, :, first::apart]


def box_average(features: Tensor, grid_hw: Size) -> Tensor:
    """The plain average over each cell's own area (decision 0032).

    Args:
        features: (..., C, H, W) floating point.
        grid_hw: (n_h, n_w); the cells divide the map evenly, and a pixel that two cells share counts for each with the
            share of its area.

    Returns:
        (..., C, n_h, n_w).
    """
    height, width = features.shape[-2:]
    if height % grid_hw[0] == 0 and width % grid_hw[1] == 0:
        flat = features.reshape(1, -1, height, width)
        return F.adaptive_avg_pool2d(flat, grid_hw).reshape(*features.shape[:-2], *grid_hw)
    rows = area_shares(height, grid_hw[0]).to(features)
    columns = area_shares(width, grid_hw[1]).to(features)
    return rows @ (features @ columns.T)


def area_shares(length: int, count: int) -> Tensor:
    """Which part of each of ``count`` equal cells each of ``length`` pixels covers: (count, length) float64, rows sum to 1."""
    edges = torch.arange(count + 1, dtype=torch.float64) * (length / count)
    pixels = torch.arange(length, dtype=torch.float64)
    begin = torch.maximum(edges[:-1, None], pixels)
    end = torch.minimum(edges[1:, None], pixels + 1)
    return (end - begin).clamp(min=0) * (count / length)
