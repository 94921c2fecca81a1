"""Does a predicted uncertainty show where a field is wrong? NumPy alone, so that any method's numbers can be passed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """How predicted scales compare with the residuals that were then found.

    Attributes:
        rank_correlation: Spearman's, between scales and absolute residuals; -1 .. 1, higher is better. Even perfectly
            predicted scales stay below 1, since residuals are draws: of Gaussian ones with one scale, 0.
        correlation: Pearson's, between scales and absolute residuals; -1 .. 1, higher is better.
        standardised: root of the mean squared (residual / scale); 0 and up, 1 is best, above 1 the field is too sure of
            itself. Scales that are right up to one factor have that factor here.
        binned_error: expected normalised calibration error (Levi et al. 2019): in :data:`BINS` bins of equal counts by
            predicted scale, the mean of |root mean squared residual - root mean squared scale| / root mean squared scale; 0
            and up, lower is better.
        bins: for each bin, (root mean squared scale, root mean squared residual): the points of a reliability diagram.
        count: number of residuals.
    """

    rank_correlation: float
    correlation: float
    standardised: float
    binned_error: float
    bins: tuple[tuple[float, float], ...]
    count: int


def uncertainty_calibration(scales: npt.ArrayLike, residuals: npt.ArrayLike, *, bins: int = BINS) -> Calibration:
    """Compare predicted scales (FeatUp section 3.1: the adaptive uncertainty) with held-out residuals.

    Args:
        scales: any shape, positive: the predicted standard deviations.
        residuals: as many, signed or absolute, in the same unit.
        bins: of the reliability diagram; fewer if there are fewer values.

    Returns:
        The comparison; correlations are NaN where one side does not vary.

    Raises:
        ValueError: if the numbers of values differ, there are fewer than two, a scale is not positive, or a number is not
            finite.
    """
    predicted = np.asarray(scales, dtype=np.float64).ravel()
    found = np.abs(np.asarray(residuals, dtype=np.float64).ravel())
    if len(predicted) != len(found) or len(found) < 2:
        raise ValueError(
            f"{len(predicted)} scales and {len(found)} residuals; as many of both are needed, at least two"
        )
    if not (np.isfinite(predicted).all() and np.isfinite(found).all() and (predicted > 0).all()):
        raise ValueError("scales must be positive and all numbers finite")
    points = []
    for part in np.array_split(np.argsort(predicted, kind="stable"), min(bins, len(found))):
        points.append((_root_mean_square(predicted[part]), _root_mean_square(found[part])))
    return Calibration(
        rank_correlation=_correlation(mean_ranks(predicted), mean_ranks(found)),
        correlation=_correlation(predicted, found),
        standardised=_root_mean_square(found / predicted),
        binned_error=float(np.mean([abs(actual - scale) / scale for scale, actual in points])),
        bins=tuple(points),
        count=len(found),
    )


def mean_ranks(values: npt.NDArray[Any]) -> Floats:
    """(N) ranks from 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def _root_mean_square(values: Floats) -> float:
    return math.sqrt(float(np.mean(np.square(values))))


def _correlation(one: Floats, other: Floats) -> float:
    one, other = one - one.mean(), other - other.mean()
    lengths = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / lengths if lengths > 0 else math.nan
