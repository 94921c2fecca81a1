"""Bilinear interpolation between the cells: the usual choice without an upsampler, and the baseline of every table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.field import LinearField, output_positions
from featup_app.images import Image
from featup_app.ops.resampling import bilinear


class BilinearField(LinearField):
    """Linear interpolation between the centres of the cells."""

    method = "bilinear"

    def _upsample(self, source: Tensor, size: Size, region: Region, progress: Progress) -> Tensor:
        return bilinear(source, *output_positions(size, region, self.geometry))

    def bytes_per_pixel(self, channels: int) -> float:
        return 16.0 * channels

    def settings(self) -> dict[str, object]:
        return {"interpolation": "bilinear"}


def make_field(
    features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent
) -> BilinearField:
    """The field, for :func:`~featup_app.fields.upsample`; there are no options, and the image is not used."""
    return BilinearField(features)
