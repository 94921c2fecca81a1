"""Which places of two pictures show the same: mutual nearest neighbours of their cells, refined on the upsampled features.

Mutual nearest neighbours and the ratio of the distances to the best and the second best candidate are after D. Lowe,
"Distinctive image features from scale-invariant keypoints" (2004); candidates next to the best one are left out of the second,
since neighbouring cells see nearly the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress, silent
from featup_app.features import Geometry, Point, Region, Size
from featup_app.fields.field import FeatureField
from featup_app.lenses.feature_spaces import space_of
from featup_app.lenses.pictures import numbers_of

COUNT = 200
"""Matches that are given, at most."""

STEPS = 8
"""Output pixels along a side of a cell on which matches are refined."""

_TEMPLATE = 8
"""Output pixels on each side of a point that are compared with another picture when a match is refined."""

_COMPONENTS = 128
"""Principal components that are compared, at most."""

_FLOOR = 0.1
"""Variance that is added to that of each component before it is divided by it, as a share of the mean of the channels."""

_CELLS_AT_ONCE = 1024
_SMALLEST = 1e-12
_WORDS = "refining the matches"


@dataclass(frozen=True, eq=False)
class Matches:
    """Points of two pictures that correspond, the most confident first.

    Attributes:
        one, other: (N, 2) float64 each, (x, y) in pixels of the original image of either picture.
        similarity: (N) float32, cosine of the whitened features of the two cells, from 0 to 1; lower ones count as 0.
        confidence: (N) float32 from 0 to 1: one minus the ratio of the distance (1 - cosine) of the match to that of the best
            candidate beyond the neighbouring cells; 0 where that one is as near. Of both directions, the smaller.
    """

    one: NDArray[np.float64]
    other: NDArray[np.float64]
    similarity: NDArray[np.float32]
    confidence: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.one)


@dataclass(frozen=True, eq=False)
class PointMatch:
    """Where another picture shows what is under a point.

    Attributes:
        point: (x, y) in pixels of the other original image.
        similarity, confidence: as those of :class:`Matches`, of this direction alone.
        map: (h, w) float32, on the grid of the other picture: cosine of each cell's whitened feature with that of the point.
    """

    point: Point
    similarity: float
    confidence: float
    map: NDArray[np.float32]

    def as_matches(self, asked: Point) -> Matches:
        """This match of a point as the only one of two pictures."""
        known = (np.array([value], np.float32) for value in (self.similarity, self.confidence))
        return Matches(np.array([asked], np.float64), np.array([self.point], np.float64), *known)


def correspond(
    one: FeatureField,
    other: FeatureField,
    *,
    count: int = COUNT,
    refine: bool = True,
    mask: NDArray[np.bool_] | None = None,
    progress: Progress = silent,
) -> Matches:
    """Matches of two pictures: cells that are each other's nearest by the cosine of their features.

    Features are whitened over the cells of both pictures first. A match is refined from both sides: the upsampled features
    around the centre of either cell are laid on those around the other one, where they agree best, and the middle of the two
    pairs of points is taken, which is exact where one picture is locally an affine map of the other, and the same if the
    pictures are swapped.

    Args:
        one, other: fields of two pictures whose features mean the same.
        count: how many matches, at most.
        refine: whether points are refined; otherwise they are centres of cells.
        mask: (H, W) of any size, laid over the first picture: only cells whose centres it holds are matched.
        progress: may cancel.

    Raises:
        LensError: if the features are of different spaces, or the mask holds no centre of a cell.
        ValueError: if ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; at least one match has to be asked for")
    space = _Space.of(one, other)
    cells, others = space.cells(one), space.cells(other)
    progress("matching the cells", 0, 0)
    there, near, second = _nearest(cells, others, other.geometry.grid_hw, progress)
    back, _, second_back = _nearest(others, cells, one.geometry.grid_hw, progress)
    own = torch.arange(len(cells), device=cells.device)
    mutual = back[there] == own
    if mask is not None:
        mutual &= _held(mask, one.geometry).to(mutual.device)
    own = own[mutual]
    there, near = there[own], near[own]
    confidence = torch.minimum(_confidence(near, second[own]), _confidence(near, second_back[there]))
    order = torch.argsort(confidence, descending=True, stable=True)[:count]
    own, there = own[order], there[order]
    start, end = _centres(own, one.geometry), _centres(there, other.geometry)
    if refine:
        start, end = _refined((one, start), (other, end), space, progress)
    similarity = near[order].clamp(0, 1)
    return Matches(start, end, numbers_of(similarity), numbers_of(confidence[order]))


def match_point(one: FeatureField, point: Point, other: FeatureField, *, progress: Progress = silent) -> PointMatch:
    """Where another picture shows what is under a point of this one: its nearest cell, refined on the upsampled features.

    Args:
        one: field of the picture with the point.
        point: (x, y) in pixels of its original image.
        other: field of the other picture; its features mean the same.
        progress: may cancel.

    Raises:
        LensError: if the features are of different spaces, or the point lies outside of the picture.
    """
    height, width = one.geometry.image_hw
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise LensError(
            f"The point ({point[0]:g}, {point[1]:g}) lies outside of the picture, which has {width}x{height} pixels; "
            "choose one inside."
        )
    space = _Space.of(one, other)
    asked = space.directions(one.sample([point], size=refined_size(one)))
    cells = space.cells(other)
    there, near, second = _nearest(asked, cells, other.geometry.grid_hw, progress)
    centre = _centres(there, other.geometry)[0]
    found = _Window.around(other, centre, space).place_of(_Window.around(one, point, space))
    similarities = (cells @ asked[0]).view(other.geometry.grid_hw)
    return PointMatch(
        found,
        float(near.clamp(0, 1)),
        float(_confidence(near, second)),
        numbers_of(similarities),
    )


# -- cells -------------------------------------------------------------------------------------------------------------


class _Space:
    """Features whitened over the cells of both pictures, which count the same: no direction that all cells vary along decides.

    Args:
        matrix: (K, C), from centred features to whitened ones.
        bias: (K), of the mean.
    """

    def __init__(self, matrix: Tensor, bias: Tensor) -> None:
        self.matrix, self.bias = matrix, bias

    @staticmethod
    def of(one: FeatureField, other: FeatureField) -> _Space:
        """Of two fields. Raises LensError for features of different spaces."""
        mine, theirs = space_of(one), space_of(other)
        if (why := mine.difference(theirs)) is not None:
            raise LensError(
                f"Features of {mine.in_words()} cannot be matched with features of {why}; match pictures with one backbone, "
                "layer and weights."
            )
        cells = [field.coarse.data.double().flatten(1).to(one.coarse.data.device) for field in (one, other)]
        mean = (cells[0].mean(1) + cells[1].mean(1)) / 2
        centred = [each - mean[:, None] for each in cells]
        spread = sum((each @ each.t() / each.shape[1] for each in centred), torch.zeros_like(mean[:, None])) / 2
        values, vectors = torch.linalg.eigh(spread)
        values, vectors = values[-_COMPONENTS:].clamp(min=0), vectors[:, -_COMPONENTS:]
        floor = _FLOOR * spread.diagonal().mean().clamp(min=_SMALLEST)
        matrix = (vectors / (values + floor).sqrt()).t()
        return _Space(matrix.float(), -(matrix @ mean).float())

    def cells(self, field: FeatureField) -> Tensor:
        """(h w, K) directions of the cells, row by row."""
        return self.directions(field.coarse.data.float().flatten(1).t())

    def directions(self, features: Tensor) -> Tensor:
        """(N, C) features -> (N, K) of unit length."""
        return F.normalize(features @ self.matrix.to(features).t() + self.bias.to(features), dim=1, eps=_SMALLEST)

    def window(self, field: FeatureField, region: Region) -> Tensor:
        """(K, height, width) directions of a region of the output that refinement looks at."""
        found = field.project(self.matrix, self.bias, size=refined_size(field), region=region)
        return F.normalize(found.float(), dim=0, eps=_SMALLEST)


def _nearest(asked: Tensor, cells: Tensor, grid: Size, progress: Progress) -> tuple[Tensor, Tensor, Tensor]:
    """Index and cosine of the cell that is nearest to each direction, and the cosine of the best one not next to it.

    Args:
        asked: (N, C) directions.
        cells: (h w, C) directions on a grid.
        grid: (h, w).
        progress: may cancel.

    Returns:
        (N) each; -1 for the last one where all cells are next to the nearest.
    """
    parts = []
    places = torch.arange(grid[0] * grid[1], device=cells.device)
    rows, columns = places // grid[1], places % grid[1]
    for index, part in enumerate(torch.split(asked.to(cells), _CELLS_AT_ONCE)):
        progress("matching the cells", index * _CELLS_AT_ONCE, len(asked))
        cosines = part @ cells.t()
        near, there = cosines.max(1)
        beside = (rows - rows[there][:, None]).abs() <= 1
        beside &= (columns - columns[there][:, None]).abs() <= 1
        parts.append((there, near, cosines.masked_fill_(beside, -1.0).max(1).values))
    there, near, second = (torch.cat(each).to(asked.device) for each in zip(*parts, strict=True))
    return there, near, second


def _confidence(near: Tensor, second: Tensor) -> Tensor:
    """One minus the ratio of distances, from 0 to 1; 0 for matches that point away from each other."""
    ratio = (1 - near).clamp(min=0) / (1 - second).clamp(min=1e-6)
    return torch.where(near > 0, (1 - ratio).clamp(0, 1), 0.0)


def _centres(cells: Tensor, geometry: Geometry) -> NDArray[np.float64]:
    """(N, 2) points of the image at the centres of cells, by their index."""
    width = geometry.grid_hw[1]
    points = [geometry.cell_to_image(each % width + 0.5, each // width + 0.5) for each in cells.tolist()]
    return np.array(points, np.float64).reshape(-1, 2)


def _held(mask: NDArray[np.bool_], geometry: Geometry) -> Tensor:
    """(h w) bool: the cells whose centres lie in a mask. Raises LensError if there are none."""
    count = geometry.grid_hw[0] * geometry.grid_hw[1]
    pixels = [geometry.pixel_of((x, y), mask.shape) for x, y in _centres(torch.arange(count), geometry)]
    held = torch.tensor([bool(mask[row, column]) for row, column in pixels])
    if not held.any():
        raise LensError("The mask holds no centre of a cell of the features; choose a larger part of the picture.")
    return held


# -- refinement --------------------------------------------------------------------------------------------------------


def refined_size(field: FeatureField) -> Size:
    """(H, W) of the output on whose pixels matches with a picture are refined."""
    return field.geometry.grid_hw[0] * STEPS, field.geometry.grid_hw[1] * STEPS


def _refined(
    one: tuple[FeatureField, NDArray[np.float64]],
    other: tuple[FeatureField, NDArray[np.float64]],
    space: _Space,
    progress: Progress,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middle of (centre, where the other picture shows it) and the same from the other side, for each match."""
    (field, starts), (field_there, ends) = one, other
    found, found_there = starts.copy(), ends.copy()
    for index in range(len(starts)):
        progress(_WORDS, index, len(starts))
        here = _Window.around(field, starts[index], space)
        there = _Window.around(field_there, ends[index], space)
        found_there[index] = there.place_of(here)
        found[index] = here.place_of(there)
    progress(_WORDS, len(starts), len(starts))
    return (starts + found) / 2, (ends + found_there) / 2


class _Window:
    """Whitened directions of the upsampled features around a point, zero outside of the picture.

    Args:
        directions: (K, 2 R, 2 R), R being :data:`_TEMPLATE` + :data:`STEPS`.
        inside: (2 R, 2 R), 1 inside of the picture and else 0.
        corner: (x, y) of its upper left corner in output pixels.
        scale: (x, y) pixels of the image in an output pixel.
    """

    def __init__(self, directions: Tensor, inside: Tensor, corner: tuple[int, int], scale: Point) -> None:
        self.directions, self.inside, self.corner, self.scale = directions, inside, corner, scale

    @staticmethod
    def around(field: FeatureField, point: NDArray[np.float64] | Point, space: _Space) -> _Window:
        """The window whose middle is the corner of output pixels that is nearest to a point of the image."""
        size, reach = refined_size(field), _TEMPLATE + STEPS
        scale = field.geometry.image_hw[1] / size[1], field.geometry.image_hw[0] / size[0]
        left, top = (round(float(place) / each) - reach for place, each in zip(point, scale, strict=True))
        first, last = max(0, top), min(size[0], top + 2 * reach)
        start, end = max(0, left), min(size[1], left + 2 * reach)
        shown = space.window(field, Region(first, start, last - first, end - start))
        directions = shown.new_zeros(len(shown), 2 * reach, 2 * reach)
        inside = shown.new_zeros(2 * reach, 2 * reach)
        rows, columns = slice(first - top, last - top), slice(start - left, end - left)
        directions[:, rows, columns], inside[rows, columns] = shown, 1
        return _Window(directions, inside, (left, top), scale)

    def place_of(self, asked: _Window) -> Point:
        """Where this window shows the middle of another one, (x, y) in pixels of the image.

        It is where the middles of both, laid on each other, have the highest mean cosine, at most a cell away.
        """
        middle = slice(STEPS, STEPS + 2 * _TEMPLATE)
        template = asked.directions[:, middle, middle].to(self.directions)
        held = asked.inside[middle, middle].to(self.inside)
        sums = F.conv2d(self.directions[None], template[None])[0, 0]
        counts = F.conv2d(self.inside[None, None], held[None, None])[0, 0]
        values = torch.where(counts >= counts.max() / 2, sums / counts.clamp(min=1), -1.0).double()
        row, column = _peak(values)
        x, y = self.corner[0] + _TEMPLATE + column, self.corner[1] + _TEMPLATE + row
        return x * self.scale[0], y * self.scale[1]


def _peak(values: Tensor) -> tuple[float, float]:
    """Row and column of the highest value, between pixels by the parabola through its neighbours along either axis."""
    row, column = divmod(int(values.argmax()), values.shape[1])
    return row + _vertex(values[:, column], row), column + _vertex(values[row], column)


def _vertex(line: Tensor, at: int) -> float:
    if not 0 < at < len(line) - 1:
        return 0.0
    before, here, after = (float(value) for value in line[at - 1 : at + 2])
    bend = before - 2 * here + after
    return 0.0 if bend >= 0 else min(0.5, max(-0.5, 0.5 * (before - after) / bend))
