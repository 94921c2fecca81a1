"""The image as guidance: averaged over the cells of a level of doublings, in the frame of the feature grid.

Colours are sRGB (:class:`Guidance`) or CIE L*a*b* (:class:`LabGuidance`).
"""

from __future__ import annotations

from collections.abc import Sequence

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


_FINEST_LEVEL = 5
"""Colours are turned into L*a*b* at no more than this level, 32 times the grid, and averaged from there."""

_LAB_BLOCK = 2**20


class LabGuidance:
    """The mean colours of an image in CIE L*a*b* (D65) divided by 100, at the sizes of a chain of doublings and of outputs.

    Args:
        image: the picture that guides.
        geometry: as in :class:`Guidance`.
        device: of the results.
    """

    def __init__(self, image: Image, geometry: Geometry, device: torch.device) -> None:
        self._image, self._geometry, self._device = image, geometry, device
        finest = geometry.grid_hw[0] << _FINEST_LEVEL, geometry.grid_hw[1] << _FINEST_LEVEL
        self._base = min(image.size_hw[0], finest[0]), min(image.size_hw[1], finest[1])
        self._known: dict[Size, Tensor] = {}

    def at(self, size: Size) -> Tensor:
        """(3, rows, columns) float32: the mean of L*a*b* / 100 over cells (interpolated where they are finer than pixels)."""
        known = self._known.get(size)
        if known is None:
            if size != self._base and size[0] <= self._base[0] and size[1] <= self._base[1]:
                known = F.adaptive_avg_pool2d(self.at(self._base)[None], size)[0]
            else:
                # A guidance of its own, which keeps the sRGB colours no longer than they are needed.
                known = lab(Guidance(self._image, self._geometry, self._device, normalise=False).at(size))
            self._known[size] = known
        return known

    def bytes_for(self, sizes: Sequence[Size]) -> int:
        """Memory for the colours at these sizes while they are made, with the map that they are averaged from."""
        areas = [height * width for height, width in {*sizes, self._base}]
        return (sum(areas) + max(areas)) * 3 * 4  # the largest in sRGB too


def lab(colours: Tensor) -> Tensor:
    """sRGB to CIE L*a*b* (IEC 61966-2-1; CIE 15, D65), divided by 100.

    Args:
        colours: (3, H, W) in 0 .. 1.

    Returns:
        (3, H, W): L*, a* and b* divided by 100, in the same dtype.
    """
    pixels = colours.flatten(1)
    result = torch.empty_like(pixels)
    for start in range(0, pixels.shape[1], _LAB_BLOCK):
        part = pixels[:, start : start + _LAB_BLOCK].clamp(min=0)
        linear = torch.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        ratios = part.new_tensor(_TO_XYZ) @ linear / part.new_tensor(_WHITE)[:, None]
        x, y, z = torch.where(ratios > 0.008856, ratios.clamp(min=1e-9) ** (1 / 3), 7.787 * ratios + 16 / 116)
        result[:, start : start + _LAB_BLOCK] = torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)])
    return result.view_as(colours)


_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_WHITE = (0.9505, 1.0, 1.089)
"""Tristimulus values of white, D65."""
