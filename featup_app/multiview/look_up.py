"""An upsampled map seen through a jittered view whose pixels are averaged over the patches of the backbone.

Padding, zoom, crop and flip all act on rows and columns separately, and so do bilinear look-up and plain averages. Looking a
map up at all pixels of a view and averaging over its patches therefore is one small matrix for the rows and one for the
columns: exactly the same numbers, at a hundredth of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.features import Size
from featup_app.multiview.jitter import Jitter
from featup_app.multiview.patches import area_shares

STRIP_ROWS = 4
"""Rows of patches that are looked up at once."""


def box_views(features: Tensor, jitters: Sequence[Jitter], grid_hw: Size) -> Tensor:
    """The patches' averages in each view of one picture.

    Args:
        features: (K, H, W), a map over the whole picture, any resolution.
        jitters: V views.
        grid_hw: (n_h, n_w) patches of each view.

    Returns:
        (V, K, n_h, n_w), equal to ``box_average(jitter.sample(features, jitter.size_hw), grid_hw)`` for each view.
        Differentiable.
    """
    matrices = [_remembered(jitter, (features.shape[1], features.shape[2]), grid_hw) for jitter in jitters]
    rows = torch.stack([row for row, _ in matrices]).to(features)
    columns = torch.cat([column for _, column in matrices]).to(features)
    narrow = (features @ columns.T).view(*features.shape[:2], len(jitters), grid_hw[1])
    seen: Tensor = rows[:, None] @ narrow.permute(2, 0, 1, 3)
    return seen


def box_view_cells(points: Tensor, jitters: Sequence[Jitter], grid_hw: Size) -> Tensor:
    """The same for numbers that lie together point by point, as networks and fields give them.

    Each patch reads few rows of the picture, so some rows of patches at a time are multiplied with just the rows that they read.

    Args:
        points: (H, W, D), over the whole picture; copied if they are not contiguous.
        jitters: V views.
        grid_hw: (n_h, n_w) patches of each view.

    Returns:
        (V, n_h, n_w, D), contiguous. Differentiable.
    """
    height, width, count = points.shape
    lines = points.contiguous().view(height, width * count)
    views = []
    for jitter in jitters:
        strips, (columns, across) = _strips(jitter, (height, width), grid_hw)
        part = lines[:, across.start * count : across.stop * count]
        narrow = torch.cat([rows.to(points) @ part[down] for rows, down in strips])
        views.append(columns.to(points) @ narrow.view(grid_hw[0], -1, count))
    return torch.stack(views)


def view_matrices(jitter: Jitter, map_hw: Size, grid_hw: Size) -> tuple[Tensor, Tensor]:
    """((n_h, H), (n_w, W)) float32: which rows and columns of a map of ``map_hw`` cells each patch of the view averages.

    The view is looked up at each of its pixels, or at the nearest number of places that the patches share evenly.
    """
    samples = [max(1, round(pixels / cells)) * cells for pixels, cells in zip(jitter.size_hw, grid_hw, strict=True)]
    places = jitter.coordinates((samples[0], samples[1])).double()
    return _averages(places[:, 0, 1], map_hw[0], grid_hw[0]), _averages(places[0, :, 0], map_hw[1], grid_hw[1])


_remembered = lru_cache(maxsize=4096)(view_matrices)

_Strip = tuple[Tensor, slice]
"""Some rows of a matrix without the columns in which they are all zero, and which columns those are."""


@lru_cache(maxsize=256)
def _strips(jitter: Jitter, map_hw: Size, grid_hw: Size) -> tuple[tuple[_Strip, ...], _Strip]:
    """The matrices of :func:`view_matrices`: that of the rows in strips, that of the columns in one piece."""
    rows, columns = view_matrices(jitter, map_hw, grid_hw)
    return tuple(_without_zeros(part) for part in torch.split(rows, STRIP_ROWS)), _without_zeros(columns)


def _without_zeros(matrix: Tensor) -> _Strip:
    used = matrix.any(0).nonzero()
    kept = slice(int(used[0]), int(used[-1]) + 1)
    return matrix[:, kept].contiguous(), kept


def _averages(places: Tensor, length: int, count: int) -> Tensor:
    """(n) places as fractions of an axis of ``length`` cells, averaged in ``count`` groups -> (count, length) float32."""
    centred = (places * length - 0.5).clamp(0, length - 1)
    low = centred.floor().long()
    high = (low + 1).clamp(max=length - 1)
    share = centred - low
    looked_up = torch.zeros(len(places), length, dtype=torch.float64)
    numbers = torch.arange(len(places))
    looked_up.index_put_((numbers, low), 1 - share, accumulate=True)
    looked_up.index_put_((numbers, high), share, accumulate=True)
    return (area_shares(len(places), count) @ looked_up).float()


def sampled_views(features: Tensor, jitters: Sequence[Jitter], size: Size) -> Tensor:
    """The views themselves, drawn at a size: (K, H, W) -> (V, K, h, w). Differentiable."""
    places = torch.cat([jitter.coordinates(size) for jitter in jitters])
    grid = (2 * places - 1).to(features)
    found = F.grid_sample(features[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return found.view(features.shape[0], len(jitters), *size).transpose(0, 1)
