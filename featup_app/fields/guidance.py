"""The image as guidance: averaged over the cells of a level of doublings, in the frame of the feature grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.features import Geometry, Size
from featup_app.images import Image
from featup_app.ops.resampling import bilinear

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Guidance:
    """The pixels of an image at the sizes of a chain of doublings; each size is computed once and kept.

    Args:
        image: the picture that guides.
        geometry: of the features. If their receptive fields have an offset from the cells, the picture is moved by it.
        device: of the results.
        normalise: whether colours are normalised with the ImageNet mean and deviation (learned upsamplers expect that) or
            left in 0 .. 1.
    """

    def __init__(self, image: Image, geometry: Geometry, device: torch.device, *, normalise: bool) -> None:
        self._image, self._geometry, self._device, self._normalise = image, geometry, device, normalise
        self._known: dict[Size, Tensor] = {}

    def at(self, size: Size) -> Tensor:
        """(3, rows, columns) float32: the image averaged over cells (interpolated where they are finer than its pixels)."""
        known = self._known.get(size)
        if known is None:
            known = self._known[size] = self._pool_image(size)
        return known

    def _pool_image(self, size: Size) -> Tensor:
        # One channel at a time: a hundred megapixels in float32 are 1.2 GB.
        pixels = torch.stack([self._pool_channel(channel, size) for channel in range(3)])
        if self._normalise:
            mean = pixels.new_tensor(IMAGENET_MEAN)[:, None, None]
            std = pixels.new_tensor(IMAGENET_STD)[:, None, None]
            pixels = (pixels - mean) / std
        return pixels

    def _pool_channel(self, channel: int, size: Size) -> Tensor:
        """(H, W) of the image -> (rows, columns) in 0 .. 1."""
        plane = torch.from_numpy(self._image.pixels[:, :, channel].copy()).to(self._device)
        plane = plane[None].to(torch.float32).div_(255)
        offset_x, offset_y = self._geometry.offset_xy
        if (offset_x, offset_y) != (0.0, 0.0):
            # The chain of doublings is in the frame of the receptive fields; the last resize moves its result back.
            cell_width, cell_height = self._geometry.cell_size_xy
            rows = torch.arange(plane.shape[1], dtype=torch.float64) + 0.5 + offset_y * cell_height
            columns = torch.arange(plane.shape[2], dtype=torch.float64) + 0.5 + offset_x * cell_width
            plane = bilinear(plane, rows, columns)
        for shape in ((size[0], plane.shape[2]), size):
            if shape[0] <= plane.shape[1] and shape[1] <= plane.shape[2]:
                plane = F.adaptive_avg_pool2d(plane[None], shape)[0]
            else:
                plane = F.interpolate(plane[None], shape, mode="bilinear", align_corners=False)[0]
        return plane[0]
