"""From numbers to colours: heat pictures and overlays, the same for window, files and command line. Imports no torch."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from featup_app.images import resized

if TYPE_CHECKING:
    from torch import Tensor

COLORMAPS: tuple[str, ...] = ("viridis", "inferno", "magma", "turbo", "grey", "blue-white-red")
"""Names of the colour maps: perceptually even ones first, then the rainbow, grey, and the diverging one for signed values."""

DIVERGING = "blue-white-red"
"""The colour map for signed values; blue and red differ for every common kind of colour blindness."""

_DIVERGING = ((24, 60, 140), (120, 170, 215), (247, 247, 247), (236, 150, 115), (140, 20, 38))


@lru_cache
def lookup_table(colormap: str) -> NDArray[np.uint8]:
    """(256, 3) uint8 RGB colours of a map, from the lowest value to the highest.

    Raises:
        ValueError: for a name that is not in :data:`COLORMAPS`.
    """
    if colormap not in COLORMAPS:
        raise ValueError(f'there is no colour map "{colormap}"; choose one of: {", ".join(COLORMAPS)}')
    ramp = np.arange(256, dtype=np.uint8)
    if colormap == "grey":
        table = np.repeat(ramp[:, None], 3, axis=1)
    elif colormap == DIVERGING:
        anchors = np.array(_DIVERGING, np.uint8)[None]
        lab = cv2.cvtColor(anchors.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]
        places = np.linspace(0, 255, len(_DIVERGING))
        line = np.stack([np.interp(ramp, places, lab[:, channel]) for channel in range(3)], axis=1)
        rgb = cv2.cvtColor(line[None].astype(np.float32), cv2.COLOR_Lab2RGB)[0]
        table = np.clip(np.round(rgb * 255), 0, 255).astype(np.uint8)
    else:
        code = getattr(cv2, f"COLORMAP_{colormap.upper()}")
        table = np.asarray(cv2.applyColorMap(ramp[:, None], code), np.uint8)[:, 0, ::-1]
    table = np.ascontiguousarray(table)
    table.setflags(write=False)
    return table


def heat_picture(values: NDArray[np.float32], *, colormap: str, limits: tuple[float, float]) -> NDArray[np.uint8]:
    """(H, W) values -> (H, W, 3) uint8 RGB; values at or beyond the limits get the first or last colour."""
    low, high = limits
    scale = 255 / (high - low) if high > low else 0.0
    indices = np.clip(np.round((values - low) * scale), 0, 255).astype(np.uint8)
    return lookup_table(colormap)[indices]


def laid_over(picture: NDArray[np.uint8], below: NDArray[np.uint8], opacity: float) -> NDArray[np.uint8]:
    """A picture over another one that is brought to its size.

    Args:
        picture: (H, W, 3) uint8 RGB.
        below: uint8 RGB of any size.
        opacity: 1 is the picture alone, itself and not a copy; 0 is what is below.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if opacity >= 1:
        return picture
    height, width = picture.shape[:2]
    return np.asarray(cv2.addWeighted(picture, opacity, resized(below, (height, width)), 1 - opacity, 0), np.uint8)


def similarity_limits(values: NDArray[np.float32]) -> tuple[float, float]:
    """Colour limits of a similarity map: from its first percentile to 1, so that contrast suits the image."""
    return min(float(np.percentile(values, 1)), 0.99), 1.0


def evidence_limits(values: NDArray[np.float32]) -> tuple[float, float]:
    """Colour limits of a class activation map: from 0 (negative evidence is not shown) to its largest value."""
    return 0.0, max(float(values.max()), 1e-6)


def symmetric_limits(values: NDArray[np.float32]) -> tuple[float, float]:
    """Colour limits of a difference: as far below 0 as above, so that :data:`DIVERGING` shows 0 in its middle."""
    largest = max(float(np.abs(values).max()), 1e-6)
    return -largest, largest


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The closed curves around a region and its holes, through the centres of its outermost pixels.

    Args:
        mask: (H, W).

    Returns:
        (N, 2) each: x and y in pixels of the mask, from its top left corner.
    """
    curves, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [curve[:, 0].astype(np.float64) + 0.5 for curve in curves]


def overlay(picture: NDArray[np.uint8], image: NDArray[np.uint8], opacity: float) -> NDArray[np.uint8]:
    """Lay a picture over an image of the same size: opacity 0 shows the image alone, 1 the picture alone."""
    blended = image.astype(np.float32) * (1 - opacity) + picture.astype(np.float32) * opacity
    return np.round(blended).astype(np.uint8)


def numbers_of(values: Tensor) -> NDArray[np.float32]:
    """A tensor on any device as a contiguous float32 array."""
    return np.ascontiguousarray(values.detach().cpu().numpy(), dtype=np.float32)


def decimals(limits: tuple[float, float]) -> int:
    """Digits behind the point with which values between limits are told apart: two, or more where both are near 0."""
    largest = max(abs(limit) for limit in limits)
    return 2 if largest == 0 or not math.isfinite(largest) else min(9, max(2, 1 - math.floor(math.log10(largest))))


def signed(value: float, digits: int) -> str:
    """A number with its sign, as a status bar shows it: +0.52, −1.30."""
    return f"{value:+.{digits}f}".replace("-", "−")
