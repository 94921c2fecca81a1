"""What a view sees of an upsampled map, when its pixels are averaged over the patches of the backbone.

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
from featup_app.multiview import Jitter


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
    matrices = [_matrices(jitter, grid_hw, (features.shape[1], features.shape[2])) for jitter in jitters]
    rows = torch.stack([row for row, _ in matrices]).to(features)
    columns = torch.cat([column for _, column in matrices]).to(features)
    narrow = (features @ columns.T).view(*features.shape[:2], len(jitters), grid_hw[1])
    seen: Tensor = rows[:, None] @ narrow.permute(2, 0, 1, 3)
    return seen


@lru_cache(maxsize=4096)
def _matrices(jitter: Jitter, grid_hw: Size, map_hw: Size) -> tuple[Tensor, Tensor]:
    """((n_h, H), (n_w, W)): which rows and columns of the map each patch of the view averages, in float32."""
    places = jitter.coordinates(jitter.size_hw)
    return (
        _averages(places[:, 0, 1], grid_hw[0], map_hw[0]),
        _averages(places[0, :, 0], grid_hw[1], map_hw[1]),
    )


def _averages(places: Tensor, count: int, length: int) -> Tensor:
    """(n) places as fractions of an axis of ``length`` cells, averaged in ``count`` groups -> (count, length)."""
    centred = (places * length - 0.5).clamp(0, length - 1)
    low = centred.floor().long().clamp(max=max(0, length - 2))
    share = (centred - low)[:, None]
    result = torch.zeros(len(places), length)
    result.scatter_(1, low[:, None], 1 - share)
    if length > 1:
        result.scatter_(1, low[:, None] + 1, share)
    return F.adaptive_avg_pool2d(result[None], (count, length))[0]


def sampled_views(features: Tensor, jitters: Sequence[Jitter], size: Size) -> Tensor:
    """The views themselves, drawn at a size: (K, H, W) -> (V, K, h, w). Differentiable."""
    places = torch.cat([jitter.coordinates(size) for jitter in jitters])
    grid = (2 * places - 1).to(features)
    found = F.grid_sample(features[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return found.view(features.shape[0], len(jitters), *size).transpose(0, 1)
