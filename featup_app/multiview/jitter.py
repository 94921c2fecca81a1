"""Jitter: slightly different views of one image, and the exact map of their places back into the image.

A view is reflect padding, a bilinear zoom, a crop of the image's own size and a horizontal flip (FeatUp section 3.1). The
published code moves pictures and full feature maps alike through these steps. As they are one known map of coordinates, a
candidate of any resolution can instead be looked up where the view looks, without padding or zooming it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.features import Size


@dataclass(frozen=True)
class Jitter:
    """One view: reflect padding, zoom, crop to the size of the image, horizontal flip (paper section 3.1).

    Attributes:
        size_hw: (H, W) of the image that the view was drawn for, in pixels.
        padding: pixels of reflect padding on each side, fewer than the shorter side of the image has.
        zoom: enlargement of the padded image, at least 1.
        top, left: upper left corner of the crop in the padded and zoomed image, in its pixels.
        flip: whether the crop is mirrored from left to right.

    Raises:
        ValueError: if the padding, the zoom or the place of the crop does not fit the image.
    """

    size_hw: Size
    padding: int
    zoom: float
    top: int
    left: int
    flip: bool

    def __post_init__(self) -> None:
        if not 0 <= self.padding < min(self.size_hw):
            raise ValueError(f"a padding of {self.padding} cannot be mirrored from an image of {self.size_hw}")
        if not 1 <= self.zoom < math.inf:
            raise ValueError(f"the zoom of a view is at least 1, not {self.zoom}")
        free = _free_offsets(self.size_hw, self.padding, self.zoom)
        if not (0 <= self.top <= free[0] and 0 <= self.left <= free[1]):
            raise ValueError(f"the crop at ({self.top}, {self.left}) leaves the padded image; the last is at {free}")

    def pixels(self, image: Tensor) -> Tensor:
        """The view of a picture or a map of the image's size, step by step as published.

        Args:
            image: (..., C, H, W) floating point, (H, W) = ``size_hw``.

        Returns:
            A tensor of the same shape and type.

        Raises:
            ValueError: if the picture is not of ``size_hw``.
        """
        height, width = self.size_hw
        if tuple(image.shape[-2:]) != self.size_hw:
            raise ValueError(f"a view drawn for {self.size_hw} does not fit a picture of {tuple(image.shape[-2:])}")
        view = F.pad(image.reshape(1, -1, height, width), [self.padding] * 4, mode="reflect")
        if self.zoom > 1:
            view = F.interpolate(view, scale_factor=self.zoom, mode="bilinear", align_corners=False)
        view = view[..., self.top : self.top + height, self.left : self.left + width]
        if self.flip:
            view = view.flip(-1)
        return view.reshape(image.shape)

    def coordinates(self, size: Size) -> Tensor:
        """Where the pixel centres of the view, drawn at any size, look in the image.

        Args:
            size: (h, w), how many rows and columns the whole view is drawn with.

        Returns:
            (h, w, 2) float32: (x, y) as fractions of the image's width and height, with the image's edges at 0 and 1 and
            the centre of pixel i of n at (i + 0.5) / n; mirrored into the image where the view sees padding. Looking up
            the image bilinearly here gives :meth:`pixels` exactly, as mirroring and interpolation commute.
        """
        return self._places(size).float()

    def sample(self, features: Tensor, size: Size) -> Tensor:
        """The view of a map of any resolution, by bilinear look-up; differentiable with respect to the map.

        Args:
            features: (..., C, h, w), a map over the whole image.
            size: (h', w'), how many rows and columns the view is drawn with.

        Returns:
            (..., C, h', w') of the type of the map.
        """
        precise = features.to(torch.promote_types(features.dtype, torch.float32))
        grid = (2 * self._places(size) - 1).to(precise)
        flat = precise.reshape(1, -1, *features.shape[-2:])
        view = F.grid_sample(flat, grid[None], mode="bilinear", padding_mode="border", align_corners=False)
        return view.reshape(*features.shape[:-2], *size).to(features.dtype)

    def seen(self, size: Size) -> tuple[Tensor, Tensor]:
        """Where the view shows the pixels of the image, the reverse of :meth:`coordinates`.

        Args:
            size: (h, w), how many rows and columns the image is drawn with.

        Returns:
            (h, w, 2) float32: (x, y) of each pixel centre of the image as fractions of the view's width and height, and (h, w)
            bool: whether it is in the view.
        """
        rows = self._back(self.top, self.size_hw[0], size[0])
        columns = self._back(self.left, self.size_hw[1], size[1])
        if self.flip:
            columns = 1 - columns
        inside = ((rows >= 0) & (rows <= 1))[:, None] & ((columns >= 0) & (columns <= 1))
        return torch.stack([columns.expand(size), rows[:, None].expand(size)], dim=-1).float(), inside

    def _places(self, size: Size) -> Tensor:
        """:meth:`coordinates` in float64, since at large sizes single precision is a visible part of a pixel."""
        rows = self._along(self.top, self.size_hw[0], size[0])
        columns = self._along(self.left, self.size_hw[1], size[1])
        if self.flip:
            columns = columns.flip(0)
        return torch.stack([columns.expand(size), rows[:, None].expand(size)], dim=-1)

    def _along(self, offset: int, length: int, count: int) -> Tensor:
        """Places, as fractions of one side of ``length`` pixels, of ``count`` pixel centres of the view: (count) float64."""
        view_pixels = (torch.arange(count, dtype=torch.float64) + 0.5) * (length / count)
        # Zooming interpolates between the centres of the padded pixels; beyond the last centre the last pixel counts.
        padded_length = length + 2 * self.padding
        padded = ((view_pixels + offset) / self._zoom_along(length)).clamp(0.5, padded_length - 0.5)
        # Reflect padding mirrors at the centre of the edge pixel, which it does not repeat.
        centres = (padded - self.padding - 0.5).abs()
        centres = (length - 1) - ((length - 1) - centres).abs()
        return (centres + 0.5) / length

    def _back(self, offset: int, length: int, count: int) -> Tensor:
        """Places, as fractions of one side of the view, of ``count`` pixel centres of the image: (count) float64."""
        pixels = (torch.arange(count, dtype=torch.float64) + 0.5) * (length / count)
        return ((pixels + self.padding) * self._zoom_along(length) - offset) / length

    def _zoom_along(self, length: int) -> float:
        """The enlargement of a side: one that gains no whole pixel by the zoom is copied by torch's interpolation."""
        padded_length = length + 2 * self.padding
        return self.zoom if int(padded_length * self.zoom) > padded_length else 1.0


def identity_jitter(size_hw: Size) -> Jitter:
    """The view that is the image itself."""
    return Jitter(size_hw=size_hw, padding=0, zoom=1.0, top=0, left=0, flip=False)


def random_jitter(generator: torch.Generator, size_hw: Size, *, max_padding: int, max_zoom: float) -> Jitter:
    """Draw a view as published: zoom and flip each with probability one half, every place of the crop equally likely.

    Args:
        generator: every view draws five numbers from it.
        size_hw: (H, W) of the image in pixels.
        max_padding: pixels of padding on each side, the same for all views; an image whose shorter side is no longer
            than that gets what can be mirrored.
        max_zoom: zooms are uniform in 1 .. ``max_zoom``.

    Raises:
        ValueError: if ``max_padding`` is negative or ``max_zoom`` is less than 1.
    """
    if max_padding < 0 or not max_zoom >= 1:
        raise ValueError(f"padding {max_padding} must not be negative, and zoom {max_zoom} not less than 1")
    zooms, amount, row, column, flips = torch.rand(
        5, generator=generator, device=generator.device, dtype=torch.float64
    ).tolist()
    padding = min(max_padding, min(size_hw) - 1)
    zoom = 1 + amount * (max_zoom - 1) if zooms < 0.5 else 1.0
    free = _free_offsets(size_hw, padding, zoom)
    return Jitter(
        size_hw=size_hw,
        padding=padding,
        zoom=zoom,
        top=int(row * (free[0] + 1)),
        left=int(column * (free[1] + 1)),
        flip=flips < 0.5,
    )


def _free_offsets(size_hw: Size, padding: int, zoom: float) -> tuple[int, int]:
    """The last row and column at which a crop of the image's size fits into the padded and zoomed image."""
    height, width = size_hw
    return int((height + 2 * padding) * zoom) - height, int((width + 2 * padding) * zoom) - width
