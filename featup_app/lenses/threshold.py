"""The threshold that is proposed for a map, so that one click gives a region and not only colours."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 256
"""Number of levels of the histogram."""


def proposed_threshold(values: Tensor) -> float:
    """The value that best separates high from low values of a map; a region holds the pixels at or above it.

    Otsu (1979): the threshold with the largest variance between the means of the two groups, over a histogram of
    :data:`LEVELS` equal levels from the least to the largest value. Among equally good thresholds, such as those between two
    separate groups of values, it is the middle one.

    Args:
        values: (H, W) floating point, finite.

    Returns:
        A value from the least to the largest of the map; that value itself where all are equal.

    Raises:
        ValueError: if the map has no values.
    """
    if not values.numel():
        raise ValueError("a map without values has no threshold")
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return low
    counts = torch.histc(values.float(), LEVELS, low, high).double().cpu()
    levels = torch.arange(LEVELS, dtype=torch.float64) + 0.5
    below = counts.cumsum(0)[:-1] / counts.sum()
    moment = (counts * levels).cumsum(0) / counts.sum()
    between = (moment[-1] * below - moment[:-1]).square() / (below * (1 - below))
    best = (between == between.max()).nonzero().double().mean()  # level n ends at n + 1 levels above the least value
    return low + (high - low) * float(best + 1) / LEVELS
