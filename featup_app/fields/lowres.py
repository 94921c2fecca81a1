"""The features of the backbone without upsampling: the first row of the paper's table, and the reference of all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.field import LinearField, output_positions
from featup_app.images import Image
from featup_app.ops.resampling import nearest


class LowResField(LinearField):
    """The features of the backbone without upsampling: each output pixel gets those of the cell that contains it."""

    method = "lowres"

    def _upsample(self, source: Tensor, size: Size, region: Region, progress: Progress) -> Tensor:
        return nearest(source, *output_positions(size, region, self.geometry))

    def bytes_per_pixel(self, channels: int) -> float:
        return 8.0 * channels

    def settings(self) -> dict[str, object]:
        return {"interpolation": "nearest cell"}


def make_field(
    features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent
) -> LowResField:
    """The field, for :func:`~featup_app.fields.upsample`; there are no options, and the image is not used."""
    return LowResField(features)
