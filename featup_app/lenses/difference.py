"""How far the features of two fields point apart, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress, part_of, silent
from featup_app.features import Size
from featup_app.fields.field import DEFAULT_TILE_BUDGET, FeatureField
from featup_app.lenses.feature_spaces import space_of

_WORDS = "comparing all channels"


def cosine_distance(
    one: FeatureField,
    other: FeatureField,
    *,
    size: Size,
    memory_budget: int = DEFAULT_TILE_BUDGET,
    progress: Progress = silent,
) -> Tensor:
    """Cosine distance between the features of two fields at each output pixel, over all channels.

    It is computed as half the squared distance of the normalised features, which equals one minus their cosine, and is exactly
    zero for equal features however it is rounded. All channels are computed tile by tile.

    Args:
        one, other: fields of one image whose features mean the same.
        size: (H, W) of the output.
        memory_budget: bytes that the tiles of both fields and their directions may use together.
        progress: may cancel.

    Returns:
        (H, W) float32, from 0 (the same direction) to 2 (the opposite one); 1 where only one of the features is all zero, and 0
        where both are.

    Raises:
        LensError: if their features are of different spaces.
    """
    mine, theirs = space_of(one), space_of(other)
    if (why := mine.difference(theirs)) is not None:
        raise LensError(
            f"Features of {mine.in_words()} cannot be compared with features of {why}; compare columns of one backbone, "
            "layer and weights."
        )
    widest = max(one, other, key=lambda field: field.bytes_per_pixel(field.channels))
    regions = list(widest.tile_regions(size, memory_budget // 4))
    result: Tensor | None = None
    for index, region in enumerate(regions):
        progress(_WORDS, 2 * index, 2 * len(regions))
        inner = part_of(progress, 2 * index, 2 * len(regions), words=_WORDS)
        directions = _normalised(one.features(size=size, region=region, progress=inner))
        inner = part_of(progress, 2 * index + 1, 2 * len(regions), words=_WORDS)
        others = _normalised(other.features(size=size, region=region, progress=inner)).to(directions)
        empty = directions.any(dim=0) != others.any(dim=0)
        distance = directions.sub_(others).square_().sum(dim=0) / 2
        result = distance.new_empty(size) if result is None else result
        result[region.rows, region.columns] = torch.where(empty, 1.0, distance)
    progress(_WORDS, 2 * len(regions), 2 * len(regions))
    assert result is not None
    return result


def _normalised(features: Tensor) -> Tensor:
    """(C, H, W) with features of length 1, or 0, in one order in memory, so that sums are rounded the same for all methods."""
    return torch.nn.functional.normalize(features.float(), dim=0, eps=1e-12).contiguous()
