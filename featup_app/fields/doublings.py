"""Levels of repeated doublings over a feature grid: how many an output needs, and which part of each a region reads.

Level 0 is the feature grid; level ``n`` has ``2 ** n`` times its rows and columns. Levels and output cover the image as the
grid does. Spans count whole cells of one level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from featup_app.features import Geometry, Region, Size
from featup_app.fields.field import output_positions
from featup_app.ops.resampling import bilinear, linear_span

MAX_FINAL_ENLARGEMENT = 1.125
"""A final bilinear enlargement by up to an eighth is not visible, and saves a doubling, which costs four times as much."""


class Span(NamedTuple):
    """Rows ``top .. bottom`` and columns ``left .. right`` of one level."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> Size:
        """(rows, columns)."""
        return self.bottom - self.top, self.right - self.left

    @staticmethod
    def whole(size: Size) -> Span:
        """All of a level."""
        return Span(0, size[0], 0, size[1])

    def parents(self) -> Span:
        """The cells of the coarser level that these lie in."""
        return Span(self.top // 2, (self.bottom + 1) // 2, self.left // 2, (self.right + 1) // 2)

    def children(self) -> Span:
        """The cells of the finer level that lie in these."""
        return Span(2 * self.top, 2 * self.bottom, 2 * self.left, 2 * self.right)

    def widened(self, margin: int, size: Size) -> Span:
        """With a margin on all sides, clipped to the level."""
        return Span(
            max(self.top - margin, 0),
            min(self.bottom + margin, size[0]),
            max(self.left - margin, 0),
            min(self.right + margin, size[1]),
        )

    def of(self, values: Tensor, inside: Span) -> Tensor:
        """This part of (..., rows, columns) that cover the span ``inside``."""
        rows = slice(self.top - inside.top, self.bottom - inside.top)
        return values[..., rows, self.left - inside.left : self.right - inside.left]

    def blocks(self, side: int) -> Iterator[Span]:
        """Parts of at most ``side`` x ``side`` cells that cover this span once, row by row."""
        for region in Region.split(self.shape, side, side):
            top, left = self.top + region.top, self.left + region.left
            yield Span(top, top + region.height, left, left + region.width)


def padded(values: Tensor, inside: Span, wanted: Span, margin: int, size: Size) -> Tensor:
    """A span with a margin all around; outside of the level the nearest cell is repeated.

    Args:
        values: (..., rows, columns) that cover ``inside``.
        inside: at least ``wanted.widened(margin, size)``.
        wanted: the span.
        margin: in cells.
        size: of the whole level.

    Returns:
        (..., rows of ``wanted`` + 2 margin, columns + 2 margin).
    """
    rows = torch.arange(wanted.top - margin, wanted.bottom + margin).clamp(0, size[0] - 1) - inside.top
    columns = torch.arange(wanted.left - margin, wanted.right + margin).clamp(0, size[1] - 1) - inside.left
    return values.index_select(-2, rows.to(values.device)).index_select(-1, columns.to(values.device))


def level_size(grid_hw: Size, level: int) -> Size:
    """(rows, columns) of a level."""
    return grid_hw[0] << level, grid_hw[1] << level


def levels_for(size: Size, grid_hw: Size) -> int:
    """The first level that reaches an output of this size, up to an eighth short of it."""
    factor = max(size[0] / grid_hw[0], size[1] / grid_hw[1]) / MAX_FINAL_ENLARGEMENT
    return max(0, math.ceil(math.log2(factor))) if factor > 1 else 0


class Landing:
    """How a region of an output reads a level.

    Attributes:
        span: of the level that it reads.

    Args:
        size: (H, W) of the output.
        region: part of it.
        geometry: of the features.
        level: number of the level.
    """

    span: Span

    def __init__(self, size: Size, region: Region, geometry: Geometry, level: int) -> None:
        scale = float(1 << level)
        self._rows, self._columns = (positions * scale for positions in output_positions(size, region, geometry))
        height, width = level_size(geometry.grid_hw, level)
        self._exact = size == (height, width) and geometry.offset_xy == (0.0, 0.0)
        if self._exact:
            self.span = Span(region.top, region.bottom, region.left, region.right)
        else:
            self.span = Span(*linear_span(self._rows, height), *linear_span(self._columns, width))

    def read(self, values: Tensor) -> Tensor:
        """(K, rows, columns) of the span -> (K, region.height, region.width), bilinear."""
        return values if self._exact else bilinear(values, self._rows - self.span.top, self._columns - self.span.left)
