"""What an upsampled field adds that neither the photo nor the coarse map has: haze, mottling and lettering.

They are parts of the label-free scores (:mod:`featup_app.lenses.quality`), which define them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.features import Size

SMALLEST_CELL = 4
"""Least number of output pixels along a cell: smaller cells have no inside."""

NEAR = 1 / 4
"""Distance from an edge, in cells, at which haze is looked for; at least two pixels, since edges of photos are that wide."""

ALIKE = 1 / 2
"""Largest difference of colours on one side of an edge, as a share of the difference across it."""

_LUMINANCE = (0.299, 0.587, 0.114)
_LEAST_NEAR = 2


@dataclass(frozen=True, eq=False)
class ArtefactReference:
    """Where a field is searched for artefacts.

    Attributes:
        near, deep: (2, P) int64, pixels on both sides of P points on edges of the photo, a little off the edge and one cell off,
            as indices of the flattened picture.
        counted: (2, P), sides on which the photo has one colour from near to deep.
        smooth, textured: (h, w) masks of the cells where the coarse features agree with their neighbours', by whether the photo
            varies less or more there than in its median cell.
        texture: (h, w, cell, cell) luminance of the photo without the plane through each cell.
    """

    near: Tensor
    deep: Tensor
    counted: Tensor
    smooth: Tensor
    textured: Tensor
    texture: Tensor


def artefact_reference(colours: Tensor, gradient: Tensor, edges: Tensor, change: Tensor) -> ArtefactReference:
    """Find edges, smooth and textured cells of a photo.

    Args:
        colours: (3, H, W) of the photo, a little blurred, at the size at which fields are drawn.
        gradient: (H, W) length of its gradient.
        edges: (H, W) mask of its edges.
        change: (h, w) how much the coarse features change in each cell; H / h = W / w is a whole number.
    """
    grid = change.shape[0], change.shape[1]
    cell = colours.shape[1] // grid[0]
    near, deep, counted = _sides(colours, gradient, edges, cell)
    agree = change <= change.flatten().median()
    activity = F.avg_pool2d(gradient[None], cell)[0]
    varied = activity > activity.flatten().median()
    luminance = torch.einsum("c,chw->hw", colours.new_tensor(_LUMINANCE), colours)
    texture = _without_planes(_cells(luminance[None], grid))[0]
    known = min(grid) > 1 and cell >= SMALLEST_CELL  # without neighbours, or an inside, nothing is defined
    return ArtefactReference(near, deep, counted & known, agree & ~varied & known, agree & varied & known, texture)


class Artefacts:
    """Sums of a field's artefacts over blocks of its components."""

    def __init__(self, reference: ArtefactReference) -> None:
        self._reference = reference
        self._leak = torch.zeros(reference.near.shape, dtype=torch.float64, device=reference.near.device)
        self._contrast = self._leak[0].clone()
        self._excess = torch.zeros(int(reference.smooth.sum()), dtype=torch.float64, device=reference.near.device)
        self._lettered = 0.0

    def add(self, drawn: Tensor, coarse: Tensor, interpolated: Tensor) -> None:
        """Count a block of components.

        Args:
            drawn: (K, H, W) of the field.
            coarse: (K, H, W), the cell that each pixel lies in.
            interpolated: (K, H, W), the coarse map in bilinear interpolation.
        """
        own = self._reference
        flat, cells = drawn.flatten(1), coarse.flatten(1)
        across = cells[:, own.deep].diff(dim=1).double()  # from the first side to the second
        inward = flat[:, own.near].double() - flat[:, own.deep].double()
        self._leak += (inward * torch.cat([across, -across], 1)).sum(0)
        self._contrast += across[:, 0].square().sum(0)
        grid = own.smooth.shape[0], own.smooth.shape[1]
        drawn_cells, smooth_cells = _cells(drawn, grid), _cells(interpolated, grid)
        self._excess += _variation(drawn_cells[:, own.smooth]) - _variation(smooth_cells[:, own.smooth])
        rest = (drawn_cells[:, own.textured] - smooth_cells[:, own.textured]).double()
        texture = own.texture[own.textured].double()
        chance = [_explained(rest, texture.rot90(turn, (-2, -1))) for turn in (1, -1)]
        self._lettered += _explained(rest, texture) - sum(chance) / 2

    def haze(self) -> float:
        """Share of the contrast across edges that leaks over them, 0 and up; NaN without contrast."""
        weights = self._contrast * self._reference.counted
        total = float(weights.sum())
        return float((self._leak * self._reference.counted).clamp(min=0).sum()) / total if total > 0 else math.nan

    def mottling(self, variance: float) -> float:
        """Deviation in smooth cells beyond that of bilinear interpolation, in deviations of the coarse map.

        Args:
            variance: mean over positions of the coarse map's squared length.
        """
        return self._in_deviations(float(self._excess.clamp(min=0).sum()), self._reference.smooth, variance)

    def lettering(self, variance: float) -> float:
        """Deviation that the photo's texture explains in textured cells; ``variance`` as in :meth:`mottling`."""
        return self._in_deviations(max(0.0, self._lettered), self._reference.textured, variance)

    def _in_deviations(self, total: float, cells: Tensor, variance: float) -> float:
        pixels = int(cells.sum()) * self._reference.texture.shape[-1] ** 2
        return math.sqrt(total / pixels / variance) if pixels else math.nan


def _cells(values: Tensor, grid: Size) -> Tensor:
    """(K, H, W) -> (K, h, w, cell, cell)."""
    count, height, width = values.shape
    cut = values.reshape(count, grid[0], height // grid[0], grid[1], width // grid[1])
    return cut.permute(0, 1, 3, 2, 4)


def _variation(cells: Tensor) -> Tensor:
    """(K, N, cell, cell) -> (N) float64: sum of the squared differences to the mean of each cell."""
    return (cells - cells.mean((-2, -1), keepdim=True)).double().square().sum((0, -2, -1))


def _explained(cells: Tensor, texture: Tensor) -> float:
    """The part of the squared values of cells (K, N, cell, cell) that a texture (N, cell, cell) without planes explains."""
    shared = (_without_planes(cells) * texture).sum((-2, -1))
    energy = texture.square().sum((-2, -1)).clamp(min=torch.finfo(texture.dtype).tiny)
    return float((shared.square() / energy).sum())


def _without_planes(cells: Tensor) -> Tensor:
    """(..., cell, cell) without mean, slope down and slope across, by least squares."""
    size = cells.shape[-1]
    slope = torch.linspace(-1, 1, size, device=cells.device) if size > 1 else cells.new_zeros(1)
    slope = slope / slope.square().sum().mul(size).sqrt().clamp(min=1e-12)
    result = cells - cells.mean((-2, -1), keepdim=True)
    down, across = (result * slope[:, None]).sum((-2, -1)), (result * slope).sum((-2, -1))
    return result - down[..., None, None] * slope[:, None] - across[..., None, None] * slope


def _sides(colours: Tensor, gradient: Tensor, edges: Tensor, cell: int) -> tuple[Tensor, Tensor, Tensor]:
    """``near``, ``deep`` and ``counted`` of :class:`ArtefactReference`."""
    rows, columns = edges.nonzero().T
    down, across = (values[rows, columns] for values in _normals(colours))
    size = gradient.shape[0], gradient.shape[1]

    def moved(distance: float) -> tuple[Tensor, Tensor]:
        """Indices of the pixels at this distance along the normals, (N), and whether they lie inside."""
        row, column = (rows + distance * down).round().long(), (columns + distance * across).round().long()
        inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
        return row.clamp(0, size[0] - 1) * size[1] + column.clamp(0, size[1] - 1), inside

    slopes = gradient.flatten()
    crest = (slopes[moved(0)[0]] >= slopes[moved(1)[0]]) & (slopes[moved(0)[0]] >= slopes[moved(-1)[0]])
    distance = max(_LEAST_NEAR, cell * NEAR)
    near, deep = ([moved(side * far) for side in (1, -1)] for far in (distance, cell))
    inside = torch.stack([one[1] & other[1] for one, other in zip(near, deep, strict=True)]).all(0)
    pixels = [torch.stack([index for index, _ in found])[:, crest & inside] for found in (near, deep)]
    at_near, at_deep = (colours.flatten(1)[:, found] for found in pixels)
    contrast = (at_near[:, 0] - at_near[:, 1]).norm(dim=0)
    return pixels[0], pixels[1], (at_near - at_deep).norm(dim=0) <= ALIKE * contrast


def _normals(colours: Tensor) -> tuple[Tensor, Tensor]:
    """Down and across parts, (H, W) each, of unit vectors along the strongest change of colour (Di Zenzo 1986), up to sign."""
    padded = F.pad(colours[None], (1, 1, 1, 1), mode="replicate")[0]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    products = torch.stack([across.square().sum(0), down.square().sum(0), (across * down).sum(0)])
    horizontal, vertical, mixed = F.avg_pool2d(products[None], 3, stride=1, padding=1)[0]
    angle = torch.atan2(2 * mixed, horizontal - vertical) / 2
    return angle.sin(), angle.cos()
