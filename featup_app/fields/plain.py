"""The two upsamplers without guidance: nearest cell and bilinear interpolation."""

from __future__ import annotations

from torch import Tensor

from featup_app.features import Region, Size
from featup_app.fields.field import LinearField, output_positions
from featup_app.ops.resampling import bilinear, nearest
from featup_app.progress import Progress


class LowResField(LinearField):
    """The features as the backbone gives them: each output pixel takes those of the cell that holds it."""

    method = "lowres"

    def _upsample(self, source: Tensor, size: Size, region: Region, progress: Progress) -> Tensor:
        return nearest(source, *output_positions(size, region, self.geometry))

    def bytes_per_pixel(self, channels: int) -> float:
        return 8.0 * channels

    def settings(self) -> dict[str, object]:
        return {"interpolation": "nearest cell"}


class BilinearField(LinearField):
    """Linear interpolation between the centres of the cells."""

    method = "bilinear"

    def _upsample(self, source: Tensor, size: Size, region: Region, progress: Progress) -> Tensor:
        return bilinear(source, *output_positions(size, region, self.geometry))

    def bytes_per_pixel(self, channels: int) -> float:
        return 16.0 * channels

    def settings(self) -> dict[str, object]:
        return {"interpolation": "bilinear"}
