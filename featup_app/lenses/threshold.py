"""The threshold that is proposed for a map, so that one click gives a region and not only colours."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 31
"""Thresholds that are tried, between the mean of the map and its largest value."""

LOWEST, HIGHEST = 0.2, 0.95
"""The first and the last of them, as parts of the way from the mean to the largest value."""

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
    low, high = float(numbers.mean()), float(numbers.max())
    if not high > low:
        return high
    levels = low + (high - low) * torch.linspace(LOWEST, HIGHEST, LEVELS, dtype=torch.float64)
    ordered = numbers.sort().values
    areas = (len(ordered) - torch.searchsorted(ordered, levels)).double().clamp(min=1)
    change = (areas[: -2 * MARGIN] - areas[2 * MARGIN :]) / areas[MARGIN:-MARGIN]
    return float(levels[MARGIN + int(change.argmin())])
