"""The threshold that is proposed for a map, so that one click gives a region and not only colours."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 31
"""Thresholds that are tried, in the upper half of the range of the map."""

HIGHEST = 0.95
"""The last of them, as a part of the way from the middle of the range to the largest value."""

MARGIN = 4
"""A threshold is stable if the region changes little from so many levels below it to so many above."""


def proposed_threshold(values: Tensor) -> float:
    """The value at which the region of high values changes least; a region holds the pixels at or above it.

    The region is maximally stable (Matas et al., "Robust Wide Baseline Stereo from Maximally Stable Extremal Regions", 2002): the
    change of its area over a range of thresholds, relative to the area, is least. The lowest of equally stable thresholds is
    taken.

    Args:
        values: (H, W) floating point, finite.

    Returns:
        A value from the least to the largest of the map; that value itself where all are equal.

    Raises:
        ValueError: if the map has no values.
    """
    if not values.numel():
        raise ValueError("a map without values has no threshold")
    numbers = values.detach().flatten().double().cpu()
    least, high = float(numbers.min()), float(numbers.max())
    if not high > least:
        return high
    middle = (least + high) / 2
    levels = middle + (high - middle) * torch.linspace(0, HIGHEST, LEVELS, dtype=torch.float64)
    reached = torch.bucketize(numbers, levels, right=True).bincount(minlength=LEVELS + 1)  # by the number of levels
    areas = reached.flip(0).cumsum(0).flip(0)[1:].double().clamp(min=1)
    change = (areas[: -2 * MARGIN] - areas[2 * MARGIN :]) / areas[MARGIN:-MARGIN]
    return float(levels[MARGIN + int(change.argmin())])
