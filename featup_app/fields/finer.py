"""A field over a map that is finer than the backbone's own grid: bilinear between its cells, at any size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featup_app.base.errors import UpsamplerError
from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.field import FeatureField, output_positions, times
from featup_app.ops.resampling import bilinear, linear_span

_REGISTER_BYTES = 16.0


@dataclass(frozen=True)
class FinerGrid:
    """Where the cells of a finer map lie: position ``p`` of the ordinary grid is ``scale * p + shift`` of the finer one.

    Attributes:
        scale, shift: for rows and columns; positions are continuous, the centre of the first cell is 0.5 on both grids.
    """

    scale: tuple[float, float]
    shift: tuple[float, float] = (0.0, 0.0)

    @staticmethod
    def from_first_cells(scale: float) -> FinerGrid:
        """Cell ``i`` of the ordinary grid is the finer cell ``scale * i``, as with overlapping patches."""
        shift = 0.5 - scale / 2
        return FinerGrid((scale, scale), (shift, shift))


class FinerField(FeatureField):
    """Features on a finer grid, kept as ``weight @ values + bias`` and interpolated between its cells.

    A projection is applied before the interpolation, so that only K channels are interpolated.

    Args:
        features: the ordinary map, on the grid of the backbone.
        values: (M, rows, columns) float32.
        grid: where its cells lie.
        method: registered name.
        settings: the method's parameters, JSON-able.
        weight: (C, M), from the channels of ``values`` to features; None if they are the features.
        bias: (C), added to them.
    """

    def __init__(
        self,
        features: FeatureMap,
        values: Tensor,
        grid: FinerGrid,
        *,
        method: str,
        settings: Mapping[str, object],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__(features)
        self.method = method
        self._values, self._grid, self._settings = values, grid, dict(settings)
        self._weight, self._bias = weight, bias

    def settings(self) -> dict[str, object]:
        return dict(self._settings)

    def bytes_per_pixel(self, channels: int) -> float:
        return 4.0 * (2 * channels + (0 if self._weight is None else self._values.shape[0])) + _REGISTER_BYTES

    def project(
        self,
        matrix: Tensor,
        bias: Tensor | None = None,
        *,
        size: Size,
        region: Region | None = None,
        progress: Progress = silent,
    ) -> Tensor:
        self._check_matrix(matrix)
        with torch.no_grad():
            matrix = matrix.to(self._values)
            offset = matrix.new_zeros(matrix.shape[0]) if bias is None else bias.to(matrix)
            if self._bias is not None:
                offset = offset + matrix @ self._bias
            part, rows, columns = self._part(size, region)
            matrix = matrix if self._weight is None else matrix @ self._weight
            return bilinear(times(matrix, part), rows, columns).add_(offset[:, None, None])

    def features(self, *, size: Size, region: Region | None = None, progress: Progress = silent) -> Tensor:
        with torch.no_grad():
            result = bilinear(*self._part(size, region))
            if self._weight is not None:
                result = times(self._weight, result)
            return result if self._bias is None else result.add_(self._bias[:, None, None])

    def _part(self, size: Size, region: Region | None) -> tuple[Tensor, Tensor, Tensor]:
        """The part of the finer map that a region of the output reads, and the positions in it of the region's pixels."""
        region = Region.within(size, region)
        rows, columns = output_positions(size, region, self.geometry)
        rows, columns = (
            rows * self._grid.scale[0] + self._grid.shift[0],
            columns * self._grid.scale[1] + self._grid.shift[1],
        )
        top, bottom = linear_span(rows, self._values.shape[1])
        left, right = linear_span(columns, self._values.shape[2])
        return self._values[:, top:bottom, left:right], rows - top, columns - left


def whole_number(method: str, name: str, value: Any, *, least: int, most: int) -> int:
    """An option as a whole number within bounds.

    Raises:
        UpsamplerError: if it is not one; the message names method, option and bounds.
    """
    try:
        number = int(value)
        fits = number == float(value) and least <= number <= most
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise UpsamplerError(
            f'The option "{name}" of {method} is {value}; it must be a whole number from {least} to {most}.'
        )
    return number


def number_above_zero(method: str, name: str, value: Any) -> float:
    """An option as a finite number greater than zero.

    Raises:
        UpsamplerError: if it is not one; the message names method and option.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < math.inf:
        raise UpsamplerError(f'The option "{name}" of {method} is {value}; it must be a number greater than zero.')
    return number
