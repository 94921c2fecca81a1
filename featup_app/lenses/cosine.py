"""Similarity: how alike each pixel's feature is to that of one chosen pixel."""

from __future__ import annotations

from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.features import Point, Size
from featup_app.fields.field import FeatureField

_SMALLEST_NORM = 1e-12


def similarity(field: FeatureField, point: Point, *, size: Size, progress: Progress = silent) -> Tensor:
    """Cosine between the feature under an image point and the feature of every output pixel.

    Exact: the dot product is one projected channel, divided by the true lengths of the upsampled features.

    Args:
        point: (x, y) in original image pixels; outside counts as the nearest pixel inside.
        size: (H, W) of the output.

    Returns:
        (H, W) in -1 .. 1; the pixel that holds the point is 1 (0 where a feature is all zero).
    """
    norms = field.norms(size=size, progress=progress)
    query = field.sample([point], size=size)
    query = query / query.norm().clamp(min=_SMALLEST_NORM)
    dots = field.project(query, size=size, progress=progress)[0]
    return (dots / norms.clamp(min=_SMALLEST_NORM)).clamp(-1, 1)
