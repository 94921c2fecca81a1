"""Confusion matrices, figures computed from them, and confidence intervals. NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

RESAMPLES = 2000
"""Number of bootstrap samples; the ends of a 95 % interval then vary by about a twentieth of its width."""


def confusion_matrix(predicted: npt.NDArray[Any], labels: npt.NDArray[Any], classes: int) -> Counts:
    """(classes, classes) number of pixels by label (rows) and prediction (columns); negative labels do not count."""
    counted = labels >= 0
    pairs = labels[counted].astype(np.int64) * classes + predicted[counted].astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_iou(confusion: npt.NDArray[Any]) -> Floats:
    """(..., K, K) -> (..., K) intersection over union; NaN for classes that no labelled pixel has."""
    matrix = np.asarray(confusion, dtype=np.float64)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    truth, claimed = matrix.sum(-1), matrix.sum(-2)
    union = np.maximum(truth + claimed - hits, 1.0)
    result: Floats = np.where(truth > 0, hits / union, np.nan)
    return result


def mean_iou(confusion: npt.NDArray[Any]) -> Floats:
    """(..., K, K) -> (...) mean intersection over union of the classes that some labelled pixel has."""
    values = class_iou(confusion)
    there = ~np.isnan(values)
    result: Floats = np.where(there, values, 0.0).sum(-1) / np.maximum(there.sum(-1), 1)
    return result


def pixel_accuracy(confusion: npt.NDArray[Any]) -> Floats:
    """(..., K, K) -> (...) share of the labelled pixels that are predicted correctly."""
    matrix = np.asarray(confusion, dtype=np.float64)
    result: Floats = np.trace(matrix, axis1=-2, axis2=-1) / np.maximum(matrix.sum((-2, -1)), 1.0)
    return result


def resample_counts(count: int, *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """(resamples, count): how often each of ``count`` pictures is drawn in each bootstrap sample; rows sum to ``count``."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def interval(values: Floats) -> tuple[float, float]:
    """The middle 95 % of bootstrapped values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def spread(values: npt.NDArray[Any]) -> float:
    """Standard deviation of a sample; 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
