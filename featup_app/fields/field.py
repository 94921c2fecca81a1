"""The feature field: features at any size, computed as the few linear functionals that a lens needs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from featup_app.base.progress import Progress, part_of, silent
from featup_app.features import FeatureMap, Geometry, Point, Region, Size

DEFAULT_TILE_BUDGET = 256 * 2**20
_NORMS_KEPT = 4
_CELLS_AT_ONCE = 256


class FeatureField(ABC):
    """Features of one image at any point and any size (ARCHITECTURE.md shows where it stands).

    A field never holds the full map. All outputs cover the whole image; ``size`` is (H, W) and ``region`` a part of it in
    output pixels (default: all of it). Results are float32 on the field's device.
    """

    method: str
    """Registered name of the upsampling method."""

    coarse: FeatureMap
    """The low-resolution map in the space of this field: that of the backbone's own grid, whatever finer map the field was made
    of, and normalised where the upsampler normalises its features first."""

    channels: int
    """C, the number of feature channels."""

    geometry: Geometry
    """How the feature grid lies on the image."""

    def __init__(self, coarse: FeatureMap) -> None:
        self.coarse = coarse
        self.channels = coarse.channels
        self.geometry = coarse.geometry
        self._norms: OrderedDict[Size, Tensor] = OrderedDict()

    @abstractmethod
    def project(
        self,
        matrix: Tensor,
        bias: Tensor | None = None,
        *,
        size: Size,
        region: Region | None = None,
        progress: Progress = silent,
    ) -> Tensor:
        """Linear functionals of the upsampled features, at a cost that grows with K and not with C.

        Args:
            matrix: (K, C).
            bias: (K), added to the result.

        Returns:
            (K, H, W): ``matrix @ features + bias`` at each output pixel, up to rounding.

        Raises:
            ValueError: if the matrix does not have C columns, or the region lies outside of the output.
        """

    def _check_matrix(self, matrix: Tensor) -> None:
        """Raises ValueError unless the matrix of a projection has C columns."""
        if matrix.dim() != 2 or matrix.shape[1] != self.channels:
            raise ValueError(f"matrix has shape {tuple(matrix.shape)}; expected (K, {self.channels})")

    @abstractmethod
    def features(self, *, size: Size, region: Region | None = None, progress: Progress = silent) -> Tensor:
        """All C channels of a region: (C, H, W). For exports and norms; lenses use :meth:`project`."""

    @abstractmethod
    def bytes_per_pixel(self, channels: int) -> float:
        """Working memory for computing this many channels, in bytes per output pixel of the region."""

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """The method's parameters, JSON-able, for exports."""

    def fixed_bytes(self, size: Size) -> int:
        """Memory for this output size that does not depend on the number of channels, in bytes."""
        return size[0] * size[1] * 4

    def tiles(
        self, *, size: Size, memory_budget: int = DEFAULT_TILE_BUDGET, progress: Progress = silent
    ) -> Iterator[tuple[Region, Tensor]]:
        """The full features, region by region, for exports.

        Args:
            size: (H, W) of the whole output.
            memory_budget: bytes that one tile may use while it is computed.

        Yields:
            (region, (C, region.height, region.width)), regions row by row; together they cover the output once.
        """
        regions = list(self.tile_regions(size, memory_budget))
        for index, region in enumerate(regions):
            progress("upsampling all channels", index, len(regions))
            part = part_of(progress, index, len(regions), words="upsampling all channels")
            yield region, self.features(size=size, region=region, progress=part)
        progress("upsampling all channels", len(regions), len(regions))

    def tile_regions(self, size: Size, memory_budget: int) -> Iterator[Region]:
        """The regions into which :meth:`tiles` cuts an output of this size."""
        pixels = max(256.0, memory_budget / self.bytes_per_pixel(self.channels))
        rows = max(1, math.isqrt(int(pixels)))
        columns = max(1, int(pixels) // min(rows, size[0]))
        return Region.split(size, rows, columns)

    def norms(self, *, size: Size, region: Region | None = None, progress: Progress = silent) -> Tensor:
        """Euclidean length of the feature at each output pixel, (H, W). Computed in tiles; whole maps are kept."""
        region = Region.within(size, region)
        known = self._norms.get(size)
        if known is not None:
            self._norms.move_to_end(size)
            return known[region.rows, region.columns]
        if region != Region.whole(size):
            return _lengths(self.features(size=size, region=region, progress=progress))
        norms: Tensor | None = None
        regions = list(self.tile_regions(size, DEFAULT_TILE_BUDGET))
        for index, part in enumerate(regions):
            progress("measuring feature lengths", index, len(regions))
            inner = part_of(progress, index, len(regions), words="measuring feature lengths")
            values = _lengths(self.features(size=size, region=part, progress=inner))
            norms = values.new_empty(size) if norms is None else norms
            norms[part.rows, part.columns] = values
        assert norms is not None
        self._norms[size] = norms
        while len(self._norms) > _NORMS_KEPT:
            self._norms.popitem(last=False)
        return norms

    def sample(self, points: Sequence[Point] | Tensor, *, size: Size | None = None) -> Tensor:
        """The features under image points.

        Args:
            points: N points (x, y) in original image pixels; points outside are moved to the nearest pixel inside.
            size: of the output whose pixels are sampled; the size of the image if not given.

        Returns:
            (N, C): the feature of the output pixel that holds each point.
        """
        size = size or self.geometry.image_hw
        columns = []
        for x, y in [(float(point[0]), float(point[1])) for point in points]:
            row, column = self.geometry.pixel_of((x, y), size)
            columns.append(self.features(size=size, region=Region(row, column, 1, 1))[:, 0, 0])
        return torch.stack(columns) if columns else torch.zeros(0, self.channels)


def _lengths(features: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(features, dim=0)
    return lengths


class LinearField(FeatureField):
    """A field that is linear in the low-resolution features, with weights that depend on the image alone.

    Linear maps commute, so a projection is applied to the small map first and only its K channels are upsampled.
    """

    @abstractmethod
    def _upsample(self, source: Tensor, size: Size, region: Region, progress: Progress) -> Tensor:
        """(K, h, w) map -> new (K, region.height, region.width), the same linear map for every channel."""

    def carry(self, values: Tensor, *, size: Size, region: Region | None = None, progress: Progress = silent) -> Tensor:
        """Any map on the cells brought to the output with the weights of this field, without its corrections of features.

        Args:
            values: (K, h, w) float32, on the grid of :attr:`coarse`.
            size, region: of the output, as in :meth:`project`.
            progress: may cancel.

        Returns:
            (K, region.height, region.width).
        """
        with torch.no_grad():
            return self._upsample(values, size, Region.within(size, region), progress)

    def _sharpened(self, low: Tensor, size: Size) -> Tensor:
        """A correction of the coarse map that is the same linear map between cells for every channel: (K, h, w) -> the same.

        It commutes with projections, so that it costs as little as their few channels.
        """
        return low

    def _corrected(self) -> tuple[Tensor, Tensor | None]:
        """The coarse map after all corrections by the method, and the bias (C) to add at the end.

        A final 1x1 map of the channels is applied here too: it commutes with the upsampling, and costs almost nothing before
        it.
        """
        return self.coarse.data, None

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
        region = Region.within(size, region)
        data, offset = self._corrected()
        matrix = matrix.to(data)
        bias = data.new_zeros(matrix.shape[0]) if bias is None else bias.to(data)
        with torch.no_grad():
            if offset is not None:
                bias = bias + matrix @ offset
            low = self._sharpened(times(matrix, data), size)
            return self._upsample(low, size, region, progress) + bias[:, None, None]

    def kernel(self, row: int, column: int, *, size: Size) -> Tensor:
        """The weights with which the feature of one output pixel is made of the cells of the corrected coarse map, (h, w)."""
        rows, columns = self.geometry.grid_hw
        region, parts = Region(row, column, 1, 1), []
        with torch.no_grad():
            for first in range(0, rows * columns, _CELLS_AT_ONCE):
                count = min(_CELLS_AT_ONCE, rows * columns - first)
                each = self.coarse.data.new_zeros(count, rows * columns, dtype=torch.float32)
                each[torch.arange(count), first + torch.arange(count)] = 1
                low = self._sharpened(each.view(count, rows, columns), size)
                parts.append(self._upsample(low, size, region, silent).flatten())
        return torch.cat(parts).view(rows, columns)

    def features(self, *, size: Size, region: Region | None = None, progress: Progress = silent) -> Tensor:
        region = Region.within(size, region)
        with torch.no_grad():
            data, offset = self._corrected()
            result = self._upsample(self._sharpened(data, size), size, region, progress)
            return result if offset is None else result.add_(offset[:, None, None])


def times(matrix: Tensor, values: Tensor) -> Tensor:
    """(K, C) times (C, rows, columns) -> (K, rows, columns)."""
    return (matrix @ values.flatten(1)).view(matrix.shape[0], *values.shape[1:])


def check_channels(feat_dim: int, features: FeatureMap) -> None:
    """Raises ValueError if an upsampler for ``feat_dim`` channels does not fit the features."""
    if feat_dim != features.channels:
        raise ValueError(f"the upsampler is for {feat_dim} channels, the features have {features.channels}")


def output_positions(size: Size, region: Region, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Grid positions (rows, columns), in continuous cells, of the centres of a region's output pixels."""
    rows = torch.arange(region.top, region.bottom, dtype=torch.float64) + 0.5
    columns = torch.arange(region.left, region.right, dtype=torch.float64) + 0.5
    rows = rows * (geometry.grid_hw[0] / size[0]) - geometry.offset_xy[1]
    columns = columns * (geometry.grid_hw[1] / size[1]) - geometry.offset_xy[0]
    return rows, columns
