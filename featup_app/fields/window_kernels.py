"""The weights of the 7x7 window around each pixel in joint bilateral upsampling, learned or classical."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from featup_app.ops import bilateral_weights, jbu_weights, range_softmax
from featup_app.ops.doubling import KERNEL_SIZE, RADIUS
from featup_app.ops.pixel_network import pixel_network

KEY_CHANNELS = 32
CORRECTION_WEIGHT = 0.1


_STRIP_BYTES = 8 * 2**20
"""Window weights are made and used in strips of about this size, so that they stay in the processor's cache."""


def strips(top: int, bottom: int, width: int) -> Iterator[tuple[int, int]]:
    """Cut the rows ``top .. bottom`` of a level into strips whose window weights fit into the processor's cache."""
    rows = max(1, _STRIP_BYTES // (width * 4 * KERNEL_SIZE**2))
    for begin in range(top, bottom, rows):
        yield begin, min(begin + rows, bottom)


class WindowKernel(Protocol):
    """The weights of one stage, a function of the guidance alone."""

    def window_weights(self, padded_guidance: Tensor) -> Tensor:
        """(B, 3, H + 6, W + 6) guidance, padded by 3 -> (B, 49, H, W) weights, taps row by row."""


def centre(padded: Tensor) -> Tensor:
    """The map without its padding."""
    return padded[..., RADIUS:-RADIUS, RADIUS:-RADIUS]


class BilateralKernel:
    """The classical joint bilateral weights (Kopf et al. 2007): Gaussians of distance and of colour difference.

    Needs no training. A pixel's weights are the same to the last bit whichever strip they are computed in.

    Args:
        sigma_spatial: width of the spatial Gaussian, where the window's side runs from -1 to 1.
        sigma_range: width of the Gaussian on the colour difference, guidance colours in 0 .. 1.
    """

    def __init__(self, *, sigma_spatial: float, sigma_range: float) -> None:
        self.sigma_spatial = sigma_spatial
        self.sigma_range = sigma_range

    def window_weights(self, padded_guidance: Tensor) -> Tensor:
        return bilateral_weights(padded_guidance, self.sigma_spatial, self.sigma_range, KERNEL_SIZE)


class LearnedKernel(nn.Module):
    """One stage of the published joint bilateral upsampler (FeatUp, section 3.2); parameter names as published.

    Range kernel: softmax over the window of scaled products of 32-channel keys made from the guidance; times a spatial
    Gaussian of learned width; normalised; plus a tenth of a per-pixel correction made from kernel and guidance.
    """

    def __init__(self, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.range_temp = nn.Parameter(torch.tensor(0.0))
        self.range_proj = nn.Sequential(
            nn.Conv2d(3, KEY_CHANNELS, 1), nn.GELU(), nn.Dropout2d(dropout), nn.Conv2d(KEY_CHANNELS, KEY_CHANNELS, 1)
        )
        taps = KERNEL_SIZE**2
        self.fixup_proj = nn.Sequential(
            nn.Conv2d(3 + taps, taps, 1), nn.GELU(), nn.Dropout2d(dropout), nn.Conv2d(taps, taps, 1)
        )
        self.sigma_spatial = nn.Parameter(torch.tensor(1.0))

    def range_kernel(self, padded_guidance: Tensor) -> Tensor:
        """(B, 3, H + 6, W + 6) -> (B, 49, H, W), summing to one."""
        return range_softmax(self.keys(padded_guidance), self._temperature(), KERNEL_SIZE)

    def keys(self, padded_guidance: Tensor) -> Tensor:
        """(B, 3, H + 6, W + 6) -> (B, 32, H + 6, W + 6)."""
        if self.training:
            keys: Tensor = self.range_proj(padded_guidance)
            return keys
        return pixel_network(padded_guidance, None, _layers(self.range_proj))

    def _temperature(self) -> Tensor:
        return self.range_temp.exp().clamp(1e-4, 1e4)

    def window_weights(self, padded_guidance: Tensor) -> Tensor:
        kernel = jbu_weights(self.keys(padded_guidance), self._temperature(), self.sigma_spatial, KERNEL_SIZE)
        guidance = centre(padded_guidance)
        if self.training:
            correction: Tensor = self.fixup_proj(torch.cat([kernel, guidance], dim=1))
            return kernel + CORRECTION_WEIGHT * correction
        return pixel_network(kernel, guidance, _layers(self.fixup_proj), skip=True, scale=CORRECTION_WEIGHT)


def _layers(network: nn.Sequential) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The two convolutions between which there are only GELU and dropout."""
    first, second = network[0], network[3]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    return first, second
