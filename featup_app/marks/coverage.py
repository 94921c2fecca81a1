"""The pixels that a mark covers, at any size of the output: those whose centres lie in it, but at least one.

Rows are filled exactly: what lies between two crossings of an outline and a row (polygons), or between the ends of the part of a
row that is near to a segment (strokes), is found for all segments and rows together, so that the effort grows with the rows that
a mark crosses and with the pixels of the rectangle around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featup_app.base.errors import MarkError
from featup_app.features import Size
from featup_app.marks.shapes import BoxMark, Mark, PointMark, PolygonMark, StrokeMark

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]

_CHECKED = 512
"""Pixels along a side, at most, at which it is found out whether a mark lies outside."""


def coverage(mark: Mark, size: Size, image_hw: Size) -> Mask:
    """The pixels of an output that a mark covers.

    A point covers the pixel that holds it; a stroke the pixels whose centres it reaches, and is never thinner than one pixel; a
    box or a polygon the pixels whose centres lie inside. What covers no centre has the pixels that hold it. What lies outside of
    the image is cut off.

    Args:
        mark: in pixels of the image.
        size: (H, W) of the output, which shows the whole image.
        image_hw: height and width of the image in pixels.

    Returns:
        (H, W) bool with at least one True.

    Raises:
        MarkError: if the mark lies outside of the image as a whole.
    """
    result = np.zeros(size, np.bool_)
    result[covered_pixels(mark, size, image_hw)] = True
    return result


def covered_pixels(mark: Mark, size: Size, image_hw: Size) -> tuple[Indices, Indices]:
    """Rows and columns, (N) int64 each, of the pixels of :func:`coverage`, in reading order. Raises MarkError like that."""
    rows, columns = _drawn(mark, size, image_hw)
    if rows.size:
        return rows, columns
    fine = (rows, columns) if size == image_hw else _drawn(mark, image_hw, image_hw)
    if not fine[0].size:  # between the centres of pixels, or outside
        fine = _thin(mark, image_hw, image_hw)
    if not fine[0].size:
        raise MarkError(
            f"The {mark.words} lies outside of the picture, which is {image_hw[1]} pixels wide and {image_hw[0]} high."
        )
    centres = np.stack([fine[1] + 0.5, fine[0] + 0.5], 1)
    return _union(size, _holding(centres, size, image_hw))


def check_inside(mark: Mark, image_hw: Size) -> None:
    """Raises MarkError if the mark lies outside of an image as a whole."""
    height, width = image_hw
    covered_pixels(mark, (min(height, _CHECKED), min(width, _CHECKED)), image_hw)


def neighbourhood(mark: Mark, radius: float, size: Size, image_hw: Size) -> Mask:
    """The pixels whose centres are no farther from a mark than a radius.

    Args:
        mark: in pixels of the image; it may lie outside, as a whole too.
        radius: in pixels of the image; 0 or more.
        size, image_hw: as in :func:`coverage`.

    Returns:
        (H, W) bool.
    """
    result = np.zeros(size, np.bool_)
    if isinstance(mark, BoxMark | PolygonMark):
        result[_drawn(mark, size, image_hw)] = True
    width = mark.width if isinstance(mark, StrokeMark) else 0.0
    result[_band(_line(mark), width / 2 + radius, size, _step(size, image_hw))] = True
    return result


def _step(size: Size, image_hw: Size) -> tuple[float, float]:
    """Width and height of an output pixel in pixels of the image."""
    return image_hw[1] / size[1], image_hw[0] / size[0]


def _drawn(mark: Mark, size: Size, image_hw: Size) -> tuple[Indices, Indices]:
    """Rows and columns of what is covered, maybe nothing."""
    step = _step(size, image_hw)
    if isinstance(mark, PointMark):
        return _holding(np.array([mark.point]), size, image_hw)
    if isinstance(mark, BoxMark | PolygonMark):
        return _inside(np.array(mark.path), size, step)
    return _union(size, _band(_line(mark), mark.width / 2, size, step), _thin(mark, size, image_hw))


def _thin(mark: Mark, size: Size, image_hw: Size) -> tuple[Indices, Indices]:
    """The pixels along the path of a mark, without gaps, and those that hold its points."""
    band = _band(_line(mark) / _step(size, image_hw), 0.5, size, (1.0, 1.0))
    return _union(size, band, _holding(np.array(mark.path), size, image_hw))


def _line(mark: Mark) -> Numbers:
    """(N, 2): its path, of at least two points."""
    return np.array(mark.path if len(mark.path) > 1 else mark.path * 2)


def _union(size: Size, *parts: tuple[Indices, Indices]) -> tuple[Indices, Indices]:
    """Rows and columns that are in one of the parts, in reading order."""
    flat = np.unique(np.concatenate([rows * size[1] + columns for rows, columns in parts]))
    return flat // size[1], flat % size[1]


def _holding(points: Numbers, size: Size, image_hw: Size) -> tuple[Indices, Indices]:
    """The pixels that hold those of the points (N, 2) that lie in the image; its edge belongs to it."""
    x, y = points[np.all((points >= 0) & (points <= (image_hw[1], image_hw[0])), axis=1)].T
    rows = (y * size[0] / image_hw[0]).astype(np.int64)
    columns = (x * size[1] / image_hw[1]).astype(np.int64)
    return np.minimum(rows, size[0] - 1), np.minimum(columns, size[1] - 1)


@dataclass(frozen=True)
class _Part:
    """A rectangle of output pixels; it may be empty."""

    top: int
    left: int
    rows: int
    columns: int

    @staticmethod
    def around(points: Numbers, margin: float, size: Size, step: tuple[float, float]) -> _Part:
        """The pixels that can be reached by what is no farther from the points than a margin."""
        low, high = (points.min(0) - margin) / step - 1, (points.max(0) + margin) / step + 1
        left, top = np.clip(np.floor(low), 0, (size[1], size[0])).astype(int)
        right, bottom = np.clip(np.ceil(high), 0, (size[1], size[0])).astype(int)
        return _Part(int(top), int(left), int(bottom - top), int(right - left))

    @property
    def empty(self) -> bool:
        return self.rows <= 0 or self.columns <= 0

    def filled(self, rows: Indices, first: Numbers, last: Numbers, weight: NDArray[np.int32]) -> NDArray[np.int32]:
        """(rows, columns): sums of weights over runs of columns from ``first`` up to ``last``, not included."""
        changes = np.zeros((self.rows, self.columns + 1), np.int32)
        for edges, sign in ((first, 1), (last, -1)):
            columns = np.clip(edges - self.left, 0, self.columns).astype(np.int64)
            np.add.at(changes, (rows, columns), sign * weight)
        return np.cumsum(changes, axis=1)[:, :-1]

    def places(self, mask: Mask) -> tuple[Indices, Indices]:
        rows, columns = np.nonzero(mask)
        return rows + self.top, columns + self.left


_NOTHING = np.zeros(0, np.int64), np.zeros(0, np.int64)


def _inside(path: Numbers, size: Size, step: tuple[float, float]) -> tuple[Indices, Indices]:
    """The pixels whose centres lie in a closed path (N, 2), by the even-odd rule."""
    part = _Part.around(path, 0, size, step)
    if part.empty:
        return _NOTHING
    start, end = path[:-1], path[1:]
    # An edge crosses the rows whose centres lie from its upper end on, and above its lower end.
    first = np.ceil(np.minimum(start[:, 1], end[:, 1]) / step[1] - 0.5)
    last = np.ceil(np.maximum(start[:, 1], end[:, 1]) / step[1] - 0.5)
    edges, rows = _runs(first, last, part)
    a, b = start[edges], end[edges]
    share = ((rows + 0.5) * step[1] - a[:, 1]) / (b[:, 1] - a[:, 1])
    crossing = np.ceil((a[:, 0] + share * (b[:, 0] - a[:, 0])) / step[0] - 0.5)
    ends = np.full(len(crossing), float(part.left + part.columns))
    counts = part.filled(rows - part.top, crossing, ends, np.ones(len(rows), np.int32))
    return part.places(counts % 2 == 1)


def _band(line: Numbers, radius: float, size: Size, step: tuple[float, float]) -> tuple[Indices, Indices]:
    """The pixels whose centres are no farther than a radius from a line through the points (N, 2), N at least 2."""
    part = _Part.around(line, radius, size, step)
    if part.empty:
        return _NOTHING
    start, end = line[:-1], line[1:]
    first = np.ceil((np.minimum(start[:, 1], end[:, 1]) - radius) / step[1] - 0.5)
    last = np.floor((np.maximum(start[:, 1], end[:, 1]) + radius) / step[1] - 0.5) + 1
    segments, rows = _runs(first, last, part)
    if not rows.size:
        return _NOTHING
    left, right = _reach(start[segments], end[segments], (rows + 0.5) * step[1], radius)
    first, last = np.ceil(left / step[0] - 0.5), np.floor(right / step[0] - 0.5) + 1
    counts = part.filled(rows - part.top, first, np.maximum(first, last), np.ones(len(rows), np.int32))
    return part.places(counts > 0)


def _runs(first: Numbers, last: Numbers, part: _Part) -> tuple[Indices, Indices]:
    """For rows from ``first`` up to ``last``, not included, of each segment, as far as they lie in a part: segment and row."""
    low = np.clip(first, part.top, part.top + part.rows).astype(np.int64)
    counts = np.clip(last, part.top, part.top + part.rows).astype(np.int64) - low
    counts = np.maximum(counts, 0)
    segments = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(len(segments)) - np.repeat(np.cumsum(counts) - counts, counts)
    return segments, low[segments] + offsets


def _reach(a: Numbers, b: Numbers, rows: NDArray[np.floating[Any]], radius: float) -> tuple[Numbers, Numbers]:
    """Ends of the part of each row (N) that is no farther than a radius from the segment from a to b, (N, 2); it is one part.

    It is what two discs and the rectangle between them have of the row. Right of left where the row is not reached.
    """
    left, right = np.full(len(rows), np.inf), np.full(len(rows), -np.inf)
    for centre in (a, b):
        square = radius**2 - (rows - centre[:, 1]) ** 2
        half = np.sqrt(np.maximum(square, 0))
        left = np.where(square >= 0, np.minimum(left, centre[:, 0] - half), left)
        right = np.where(square >= 0, np.maximum(right, centre[:, 0] + half), right)
    along = b - a
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-12)[:, None]
    across = radius * np.stack([-along[:, 1], along[:, 0]], 1) / length
    corners = (a + across, b + across, b - across, a - across)
    for p, q in zip(corners, (*corners[1:], corners[0]), strict=True):
        rise = q[:, 1] - p[:, 1]
        steep = np.abs(rise) > 1e-9  # the ends of a level side belong to the next ones
        crosses = (np.minimum(p[:, 1], q[:, 1]) <= rows) & (rows <= np.maximum(p[:, 1], q[:, 1])) & steep
        share = np.clip((rows - p[:, 1]) / np.where(steep, rise, 1), 0, 1)
        x = p[:, 0] + share * (q[:, 0] - p[:, 0])
        left = np.where(crosses, np.minimum(left, x), left)
        right = np.where(crosses, np.maximum(right, x), right)
    return left, right
