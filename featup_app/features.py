"""Feature maps and the geometry that ties them to the pixels of the original image.

Coordinate convention of the whole program: points are ``(x, y)`` in *original image pixels*, x to the right, y down, the
centre of the top left pixel at (0.5, 0.5). Sizes are ``(height, width)``. Grids (feature maps, output pictures) cover the
whole image, whatever their size: cell ``j`` of ``w`` cells has its centre at ``(j + 0.5) / w`` of the width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from featup_app.images import Image

Size = tuple[int, int]
"""(height, width)."""

Point = tuple[float, float]
"""(x, y) in original image pixels."""


@dataclass(frozen=True)
class Region:
    """A rectangle of output pixels: rows ``top .. top + height``, columns ``left .. left + width``."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        return self.top + self.height

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)

    @staticmethod
    def whole(size: Size) -> Region:
        """The region that is all of an output of this size."""
        return Region(0, 0, *size)

    @staticmethod
    def within(size: Size, region: Region | None) -> Region:
        """The region of an output of this size that is meant: all of it if None. Raises ValueError if it lies outside."""
        region = region or Region.whole(size)
        region.check_inside(size)
        return region

    def check_inside(self, size: Size) -> None:
        """Raises ValueError unless this region is not empty and lies inside an output of this size."""
        inside = 0 <= self.top < self.bottom <= size[0] and 0 <= self.left < self.right <= size[1]
        if not inside:
            raise ValueError(f"{self} does not lie inside an output of {size[0]}x{size[1]} pixels")

    @staticmethod
    def split(size: Size, rows: int, columns: int) -> Iterator[Region]:
        """Cover an output with regions of at most ``rows`` x ``columns`` pixels, row by row."""
        for top in range(0, size[0], rows):
            for left in range(0, size[1], columns):
                yield Region(top, left, min(rows, size[0] - top), min(columns, size[1] - left))


@dataclass(frozen=True)
class Geometry:
    """How the cells of a feature map lie on the original image.

    Attributes:
        image_hw: height and width of the original image in pixels.
        input_hw: height and width that the image was resized to for the backbone (never cropped, aspect nearly kept).
        grid_hw: rows and columns of the feature map.
        offset_xy: how far, in cells, the receptive fields' centres lie right of and below the cells' centres. Zero for
            vision transformers; strided convolutions with one-sided padding look a little to one side.
    """

    image_hw: Size
    input_hw: Size
    grid_hw: Size
    offset_xy: tuple[float, float] = (0.0, 0.0)

    @property
    def cell_size_xy(self) -> tuple[float, float]:
        """Width and height of one cell in original image pixels."""
        return self.image_hw[1] / self.grid_hw[1], self.image_hw[0] / self.grid_hw[0]

    def cell_to_image(self, column: float, row: float) -> Point:
        """The image point seen by the continuous grid position (the centre of the first cell is (0.5, 0.5))."""
        width, height = self.cell_size_xy
        return (column + self.offset_xy[0]) * width, (row + self.offset_xy[1]) * height

    def image_to_cell(self, x: float, y: float) -> tuple[float, float]:
        """Continuous grid position (column, row) of an image point; inverse of :meth:`cell_to_image`."""
        width, height = self.cell_size_xy
        return x / width - self.offset_xy[0], y / height - self.offset_xy[1]

    def pixel_of(self, point: Point, size: Size) -> tuple[int, int]:
        """Row and column of the output pixel (of an output of ``size``) that holds an image point, clamped inside."""
        row = int(point[1] * size[0] / self.image_hw[0])
        column = int(point[0] * size[1] / self.image_hw[1])
        return min(max(row, 0), size[0] - 1), min(max(column, 0), size[1] - 1)


@dataclass(frozen=True)
class FeatureMap:
    """The features of one image from one layer of one backbone.

    Attributes:
        data: (C, h, w) float32, on the device of the backbone.
        geometry: where the cells lie on the image.
        layer: name of the layer, as in ``backbone.layers``.
        backbone: the :class:`~featup_app.backbones.Backbone` that made it; methods that need features of other views of the
            image run it again. None for a map read from a file.
        image: the picture that it was made of.
        provenance: JSON-able facts for exports: backbone name, weights and their hash, preprocessing, layer. A record only:
            nothing is decided by it.
        normalised: whether an upsampler has normalised the channels of each cell, so that the values are not those of the
            backbone.
        backbone_name: name of the backbone in the catalogue, by which weights are chosen; that of ``backbone`` if not given,
            None if neither is known.
    """

    data: torch.Tensor
    geometry: Geometry
    layer: str
    image: Image
    backbone: Any = None
    provenance: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    normalised: bool = False
    backbone_name: str | None = None

    def __post_init__(self) -> None:
        if self.backbone_name is None:
            object.__setattr__(self, "backbone_name", getattr(self.backbone, "name", None))
        shape = tuple(self.data.shape)
        if len(shape) != 3 or shape[1:] != self.geometry.grid_hw:
            raise ValueError(
                f"FeatureMap.data has shape {shape}; expected (C, {self.geometry.grid_hw[0]}, {self.geometry.grid_hw[1]})"
            )

    @property
    def channels(self) -> int:
        return int(self.data.shape[0])
