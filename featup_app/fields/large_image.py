"""The backbone on an enlarged picture: the row "large image" of the paper's table (FeatUp, ICLR 2024, section 4).

The picture is enlarged by ``factor`` before the backbone sees it, so that every cell covers less of it. If it does not fit into
memory, it is cut into overlapping tiles, each an ordinary input with its own positions, which are blended where they overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from featup_app.base.progress import Progress, part_of, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.finer import FinerField, FinerGrid, whole_number
from featup_app.images import Image

if TYPE_CHECKING:
    from featup_app.backbones import Backbone

FACTOR = 2
"""How many times as long the sides of the picture become."""

MEMORY_BUDGET = 2**30
"""Bytes that a run of the backbone may use; a larger picture is cut into tiles."""

_LARGEST_FACTOR = 8
_BYTES_PER_PIXEL = 400
"""Working memory for each pixel of the input, an upper estimate for transformers and convolutional networks of usual size."""

_OVERLAP = 4
"""Neighbouring tiles share at least this fraction of their length: one part of so many."""


def make_field(
    features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent
) -> FinerField:
    """The field, for :func:`~featup_app.fields.upsample`.

    Args:
        features: of the whole image; its backbone is run again at a larger input size.
        image: the picture.
        options: ``factor``, :data:`FACTOR` if not given, and ``memory_budget`` in bytes, :data:`MEMORY_BUDGET` if not given.
        progress: called between the blocks of the backbone; may cancel.

    Raises:
        UpsamplerError: if the factor is no whole number above 1, or the budget no number of bytes.
        SizeError: if the enlarged picture would have too many cells.
        BackboneError: if this backbone cannot work at other sizes than the one it was made for.
    """
    factor = whole_number("large_image", "factor", options.get("factor", FACTOR), least=2, most=_LARGEST_FACTOR)
    budget = options.get("memory_budget", MEMORY_BUDGET)
    budget = whole_number("large_image", "memory_budget", budget, least=1, most=2**63)
    height, width = features.geometry.input_hw
    pixels = features.backbone.resized(image, (height * factor, width * factor))
    data, tiles = tiled_features(features.backbone, pixels, features.layer, budget, progress)
    rows, columns = features.geometry.grid_hw
    settings = {
        "factor": factor,
        "input_hw": [height * factor, width * factor],
        "tiles": tiles,
        "interpolation": "bilinear",
    }
    grid = FinerGrid((data.shape[1] / rows, data.shape[2] / columns))
    return FinerField(features, data, grid, method="large_image", settings=settings)


def tiled_features(
    backbone: Backbone, pixels: Tensor, layer: str, budget: int, progress: Progress = silent
) -> tuple[Tensor, int]:
    """The features of a picture of any size, tile by tile where the backbone would use more than a budget for all of it.

    Args:
        backbone: which is run.
        pixels: (3, H, W) RGB in 0..1, sides multiples of its stride.
        layer: name of the layer.
        budget: bytes that one run may use; a tile has at least four times four strides.
        progress: called between the blocks of the backbone; may cancel.

    Returns:
        (C, rows, columns) float32, and the number of tiles.
    """
    stride = backbone.stride
    blocks = pixels.shape[1] // stride, pixels.shape[2] // stride
    tiles = list(_tiles(blocks, max(16, budget // (_BYTES_PER_PIXEL * stride**2))))
    if len(tiles) == 1:
        return backbone.features(pixels[None], layer, progress)[0], 1
    total: Tensor | None = None
    shares: Tensor | None = None
    for index, tile in enumerate(tiles):
        rows = slice(tile.top * stride, tile.bottom * stride)
        columns = slice(tile.left * stride, tile.right * stride)
        part = backbone.features(pixels[None, :, rows, columns], layer, _in_tile(progress, index, len(tiles)))[0]
        cells = part.shape[1] // tile.height  # of the layer, along one stride of the backbone
        if total is None or shares is None:
            total = part.new_zeros(part.shape[0], blocks[0] * cells, blocks[1] * cells)
            shares = part.new_zeros(total.shape[1:])
        weights = torch.outer(_ramp(part.shape[1]), _ramp(part.shape[2])).to(part)
        area = (
            slice(tile.top * cells, tile.bottom * cells),
            slice(tile.left * cells, tile.right * cells),
        )
        total[(slice(None), *area)] += part * weights
        shares[area] += weights
    assert total is not None
    assert shares is not None
    return total.div_(shares), len(tiles)


def _tiles(blocks: Size, most: int) -> Iterator[Region]:
    """Overlapping tiles of at most ``most`` blocks that cover a picture, row by row; nearly square, of equal size."""
    height = min(blocks[0], max(math.isqrt(most), most // blocks[1]))
    width = min(blocks[1], most // height)
    for top in _starts(blocks[0], height):
        for left in _starts(blocks[1], width):
            yield Region(top, left, height, width)


def _starts(length: int, tile: int) -> list[int]:
    """The starts of the tiles along a side, evenly spaced, with the required overlap."""
    if tile >= length:
        return [0]
    count = math.ceil((length - tile) / max(1, tile - max(1, tile // _OVERLAP))) + 1
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def _ramp(length: int) -> Tensor:
    """(length,): weights that grow from the ends of a tile to its middle, so that overlaps show no seam."""
    distance = torch.arange(length, dtype=torch.float32) + 0.5
    return torch.minimum(distance, length - distance)


def _in_tile(progress: Progress, index: int, count: int) -> Progress:
    return part_of(progress, words=lambda words: f"{words}, tile {index + 1} of {count}")
