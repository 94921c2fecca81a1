"""Readings of a picture: values along a line, a feature beside those of queries, and the cells that a pixel is made of.

Imports no torch by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featup_app.base.errors import LensError
from featup_app.features import Point, Size
from featup_app.lenses.lens import Values
from featup_app.lenses.pictures import numbers_of
from featup_app.lenses.queries import Query

if TYPE_CHECKING:
    from featup_app.fields.field import FeatureField


@dataclass(frozen=True, eq=False)
class Profile:
    """Values along a line.

    Attributes:
        points: (N, 2) float64, x and y in pixels of the image.
        distances: (N) float64 from the first point, in pixels of the image.
        values: (N) float32; (K, N) of several maps.
    """

    points: NDArray[np.float64]
    distances: NDArray[np.float64]
    values: Values


def profile(values: Values, start: Point, end: Point, *, image_hw: Size) -> Profile:
    """Values of maps along a line, interpolated between the centres of pixels (bilinear) and constant beyond the outermost ones.

    Args:
        values: (H, W), or (K, H, W); the maps show the whole image.
        start, end: of the line, (x, y) in pixels of the image; they may be equal or outside.
        image_hw: height and width of the image in pixels.

    Returns:
        About one value for each pixel that the line crosses, and both ends.
    """
    height, width = values.shape[-2:]
    scale = np.array([width / image_hw[1], height / image_hw[0]])
    ends = np.array([start, end], np.float64)
    count = max(2, math.ceil(float(np.abs((ends[1] - ends[0]) * scale).max())) + 1)
    points = ends[0] + np.linspace(0, 1, count)[:, None] * (ends[1] - ends[0])
    x, y = (np.clip(points * scale - 0.5, 0, (width - 1, height - 1))).T
    left, top = np.minimum(x.astype(int), max(0, width - 2)), np.minimum(y.astype(int), max(0, height - 2))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = x - left, y - top
    upper = values[..., top, left] * (1 - across) + values[..., top, right] * across
    lower = values[..., bottom, left] * (1 - across) + values[..., bottom, right] * across
    distances = np.hypot(*(points - points[0]).T)
    return Profile(points, distances, (upper * (1 - down) + lower * down).astype(np.float32))


@dataclass(frozen=True, eq=False)
class ComparedFeatures:
    """The feature under a point beside those of queries.

    Attributes:
        feature: (C) float32.
        queries: (N, C) float32, of unit length.
        cosines: (N) float32, of the feature with each query.
    """

    feature: Values
    queries: Values
    cosines: Values


def compared_features(field: FeatureField, point: Point, queries: Sequence[Query], *, size: Size) -> ComparedFeatures:
    """The feature under an image point and those of queries.

    Args:
        field: of the features.
        point: (x, y) in pixels of the image; outside counts as the nearest pixel inside.
        queries: none or more, also hidden ones.
        size: (H, W) of the output whose pixels are read.

    Raises:
        LensError: if a query was made with another backbone or layer.
        MarkError: if a mark lies outside of the picture.
    """
    import torch

    from featup_app.lenses.query_vectors import direction

    feature = field.sample([point], size=size)
    asked = torch.cat(
        [feature.new_zeros(0, field.channels), *(direction(field, query, size=size) for query in queries)]
    )
    cosines = asked @ (feature[0] / feature.norm().clamp(min=1e-12))
    return ComparedFeatures(numbers_of(feature[0]), numbers_of(asked), numbers_of(cosines))


def kernel(field: FeatureField, point: Point, *, size: Size) -> Values:
    """The weights with which an output pixel's feature is made of the coarse cells: the kernel of the upsampler there.

    Args:
        field: a :class:`~featup_app.fields.field.LinearField`; others have no such weights.
        point: (x, y) in pixels of the image; outside counts as the nearest pixel inside.
        size: (H, W) of the output.

    Returns:
        (h, w) float32. They sum to one for all methods that keep a constant map as it is.

    Raises:
        LensError: if the method is not linear in the cells.
    """
    from featup_app.fields.field import LinearField

    if not isinstance(field, LinearField):
        raise LensError(
            f"The method {field.method} makes no feature as a weighted mean of coarse cells, so there are no weights to show; "
            "choose another method."
        )
    return numbers_of(field.kernel(*field.geometry.pixel_of(point, size), size=size))
