"""The operators in plain torch, differentiable by autograd.

All of them walk over the taps of the window and never unfold it: the published form gathers k * k copies of the features
(and of the keys of the range kernel) first, which needs k * k times the memory. Source of the operations: FeatUp
(Fu, Hamilton et al., ICLR 2024), joint bilateral upsampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def _taps(padded: Tensor, kernel_size: int, height: int, width: int) -> Iterator[Tensor]:
    """Views (..., height, width) of a padded tensor, one for each tap of the window, row by row."""
    for dy in range(kernel_size):
        for dx in range(kernel_size):
            yield padded[..., dy : dy + height, dx : dx + width]


def window_sum(padded: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over a window around each pixel, with weights of its own for each pixel.

    Args:
        padded: (B, C, H + k - 1, W + k - 1) input, already padded.
        weights: (B, k * k, H, W), one plane for each tap, taps row by row; the same for all channels.

    Returns:
        (B, C, H, W) in the dtype of ``padded``.

    Raises:
        RuntimeError: if the shapes do not fit each other, naming the argument.
    """
    if weights.dim() != 4:
        raise RuntimeError(f"weights has shape {tuple(weights.shape)}; expected (B, k * k, H, W)")
    if padded.dim() != 4:
        raise RuntimeError(f"padded has shape {tuple(padded.shape)}; expected (B, C, H + k - 1, W + k - 1)")
    batch, taps, height, width = weights.shape
    kernel_size = math.isqrt(taps)
    if kernel_size * kernel_size != taps or kernel_size % 2 == 0:
        raise RuntimeError(f"weights has {taps} taps; expected the square of an odd kernel size")
    expected = (batch, padded.shape[1], height + kernel_size - 1, width + kernel_size - 1)
    if tuple(padded.shape) != expected:
        raise RuntimeError(
            f"padded has shape {tuple(padded.shape)}; the weights {tuple(weights.shape)} need {expected}"
        )
    total = padded.new_zeros((batch, padded.shape[1], height, width))
    for tap, view in enumerate(_taps(padded, kernel_size, height, width)):
        total.addcmul_(view, weights[:, tap : tap + 1])
    return total


def adaptive_conv(input: Tensor, filters: Tensor) -> Tensor:
    """Convolution with a filter of its own for each pixel, without padding.

    Args:
        input: (B, C, H + k - 1, W + k - 1).
        filters: (B, H, W, k, k), the same for all channels; k odd.

    Returns:
        (B, C, H, W). Differentiable with respect to both arguments, all k * k taps.

    Raises:
        RuntimeError: if the shapes do not fit each other, naming the argument.
    """
    if filters.dim() != 5 or filters.shape[3] != filters.shape[4] or filters.shape[3] % 2 == 0:
        raise RuntimeError(f"filters has shape {tuple(filters.shape)}; expected (B, H, W, k, k) with an odd k")
    if input.dim() != 4:
        raise RuntimeError(f"input has shape {tuple(input.shape)}; expected (B, C, H + k - 1, W + k - 1)")
    batch, height, width, kernel_size, _ = filters.shape
    expected = (batch, input.shape[1], height + kernel_size - 1, width + kernel_size - 1)
    if tuple(input.shape) != expected:
        raise RuntimeError(f"input has shape {tuple(input.shape)}; the filters {tuple(filters.shape)} need {expected}")
    return window_sum(input, filters.flatten(3).permute(0, 3, 1, 2))


def range_softmax(keys: Tensor, temperature: Tensor | float, kernel_size: int) -> Tensor:
    """How alike each pixel's neighbours are to it: softmax over the window of scaled products of keys.

    Args:
        keys: (B, D, H + k - 1, W + k - 1), already padded.
        temperature: factor of the products.
        kernel_size: k, odd.

    Returns:
        (B, k * k, H, W), positive, summing to one over the taps; taps row by row.

    Raises:
        RuntimeError: if the kernel size is even or the keys are smaller than the window, naming the argument.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise RuntimeError(f"kernel_size is {kernel_size}; expected an odd number")
    if keys.dim() != 4 or min(keys.shape[2:]) < kernel_size:
        raise RuntimeError(
            f"keys has shape {tuple(keys.shape)}; expected (B, D, H + {kernel_size - 1}, W + {kernel_size - 1})"
        )
    radius = kernel_size // 2
    height, width = keys.shape[2] - 2 * radius, keys.shape[3] - 2 * radius
    centre = keys[..., radius : radius + height, radius : radius + width]
    logits = torch.stack([(centre * view).sum(dim=1) for view in _taps(keys, kernel_size, height, width)], dim=1)
    return torch.softmax(temperature * logits, dim=1)
