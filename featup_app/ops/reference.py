"""The operators in plain torch, differentiable by autograd: used without the compiled library, and as a reference in tests.

All of them loop over the taps of the window. The published form gathers k * k copies of the features (and of the keys of the
range kernel) first, which needs k * k times the memory. Arguments have been checked by ``ops.operators``. Source of the
operations: FeatUp (Fu, Hamilton et al., ICLR 2024), joint bilateral upsampling.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def _taps(padded: Tensor, kernel_size: int) -> Iterator[Tensor]:
    """Views (..., height, width) of a padded tensor, one for each tap of the window, row by row."""
    height, width = padded.shape[-2] - kernel_size + 1, padded.shape[-1] - kernel_size + 1
    for dy in range(kernel_size):
        for dx in range(kernel_size):
            yield padded[..., dy : dy + height, dx : dx + width]


def _middle(padded: Tensor, kernel_size: int) -> Tensor:
    radius = kernel_size // 2
    return padded[..., radius : padded.shape[-2] - radius, radius : padded.shape[-1] - radius]


def window_sum(padded: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    """See ``ops.window_sum``."""
    if padded.dtype in (torch.float16, torch.bfloat16):
        return window_sum(padded.float(), weights.float(), kernel_size).to(padded.dtype)
    batch, _, height, width = weights.shape
    total = padded.new_zeros((batch, padded.shape[1], height, width))
    for tap, view in enumerate(_taps(padded, kernel_size)):
        total.addcmul_(view, weights[:, tap : tap + 1].to(padded.dtype))
    return total


def window_dot(padded: Tensor, centre: Tensor, kernel_size: int) -> Tensor:
    """See ``ops.window_dot``."""
    return torch.stack([(centre * view).sum(dim=1) for view in _taps(padded, kernel_size)], dim=1)


def range_weights(keys: Tensor, temperature: Tensor, bias: Tensor, kernel_size: int) -> Tensor:
    """Softmax over the taps of ``temperature`` times the products of keys, plus a ``bias`` for each tap (k * k)."""
    centre = _middle(keys, kernel_size)
    logits = window_dot(keys, centre, kernel_size)
    return torch.softmax(temperature * logits + bias[:, None, None], dim=1)


def spatial_logarithm(sigma: Tensor | float, kernel_size: int, like: Tensor) -> Tensor:
    """Logarithm of a Gaussian over a window whose side runs from -1 to 1: (k * k), 0 at the centre."""
    line = torch.linspace(-1, 1, kernel_size) if kernel_size > 1 else torch.zeros(1)
    line = line.to(like)
    squared = (line[:, None] ** 2 + line[None, :] ** 2).flatten()
    return -squared / (2 * sigma**2)


def bilateral_weights(guidance: Tensor, sigma_spatial: float, sigma_range: float, kernel_size: int) -> Tensor:
    """See ``ops.bilateral_weights``.

    Sums are computed plane by plane. Torch's reductions add in another order at the end of a row, so that a pixel's weights
    would depend on the strip that they are computed in.
    """
    middle = _middle(guidance, kernel_size)
    spatial = spatial_logarithm(sigma_spatial, kernel_size, torch.zeros((), dtype=torch.float64)).tolist()
    scale = -0.5 / sigma_range**2
    planes, total = [], torch.zeros_like(middle[:, 0])
    for tap, view in enumerate(_taps(guidance, kernel_size)):
        distance = torch.zeros_like(total)
        for plane in (view - middle).square().unbind(dim=1):
            distance = distance + plane
        planes.append(torch.exp(distance * scale + spatial[tap]))
        total = total + planes[-1]
    return torch.stack(planes, dim=1).div_(total[:, None])
