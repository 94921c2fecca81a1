"""Restoration of a coarse map before it is upsampled: what the backbone's cells have mixed is parted again, or noise is calmed.

A cell of a feature map is a mean over its surroundings, more so in some directions of the features than in others, and
upsampling blurs a little further. Each direction has an amount of its own by which the difference between a cell and its
neighbourhood is made larger or smaller, all of them together one matrix between channels. Training solves for it
(:mod:`featup_app.training.restoration`). It is linear in the features and acts on the coarse map alone, so projections commute
with it and it costs next to nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_WIDTH = 1.0
"""Deviation of the neighbourhood's Gaussian, in cells."""

_RADIUS = 3


def detail(features: Tensor) -> Tensor:
    """How each cell differs from its neighbourhood: (..., C, h, w) -> the same. Beyond its edges the map is continued by
    its outermost cells."""
    rows, columns = features.shape[-2:]
    places = torch.arange(-_RADIUS, _RADIUS + 1, device=features.device, dtype=features.dtype)
    weights = torch.exp(-0.5 * (places / BLUR_WIDTH).square())
    weights = weights / weights.sum()
    planes = F.pad(features.reshape(-1, 1, rows, columns), (_RADIUS,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return features - blurred.view_as(features)


def restored(features: Tensor, matrix: Tensor) -> Tensor:
    """The map with its detail changed.

    Args:
        features: (C, h, w).
        matrix: (C, C), what is added of the detail; zero leaves the map as it is.

    Returns:
        (C, h, w).
    """
    return features + (matrix.to(features) @ detail(features).flatten(1)).view_as(features)
