"""The stack as training runs it: all doublings of a few projected channels, written as matrix products.

The same function as ``JBUStack.forward`` (a test holds the two together), in forms that are fast forward and backward on a
CPU. Doubling and reflect padding are one fixed linear map of each axis; the 1x1 layers are products of small matrices with
(channels, pixels); the temperature is folded into the keys, which spares a window operator in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.fields.guidance import IMAGENET_MEAN, IMAGENET_STD
from featup_app.fields.registry import STAGES
from featup_app.fields.window_kernels import CORRECTION_WEIGHT, BilateralKernel, LearnedKernel
from featup_app.ops import jbu_weights, window_sum
from featup_app.ops.doubling import KERNEL_SIZE, RADIUS
from featup_app.training.correction import corrected

UPSAMPLING = 2**STAGES
PUBLISHED_TAPS = (0, 1, 4, 9, 16, 25, 36)
"""Taps of the window that the published CUDA operator gives a gradient: it takes the square of a block index as tap."""

Weigh = Callable[[int, Tensor], Tensor]
"""(level 0 .. 3, padded guidance (B, 3, H + 6, W + 6)) -> (B, 49, H, W) window weights."""


def pyramid(guidance: Tensor, *, normalise: bool = True) -> tuple[Tensor, ...]:
    """The guidance of each doubling, coarsest first, with the padding that the windows need.

    Args:
        guidance: (B, 3, 16 h, 16 w) uint8.
        normalise: with the ImageNet mean and deviation; otherwise 0 .. 1.

    Returns:
        Four tensors (B, 3, 2^n h + 6, 2^n w + 6) float32, n = 1 .. 4.
    """
    colours = guidance.float() / 255
    if normalise:
        mean = colours.new_tensor(IMAGENET_MEAN)[:, None, None]
        deviation = colours.new_tensor(IMAGENET_STD)[:, None, None]
        colours = (colours - mean) / deviation
    levels = [colours]
    for _ in range(STAGES - 1):
        levels.insert(0, F.avg_pool2d(levels[0], 2))
    return tuple(F.pad(level, (RADIUS,) * 4, mode="reflect") for level in levels)


@lru_cache(maxsize=64)
def _doubling(length: int) -> Tensor:
    """(2 length + 6, length): bicubic doubling, then reflect padding, along one axis."""
    identity = torch.eye(length)[None, None]
    doubled = F.interpolate(identity, (2 * length, length), mode="bicubic", align_corners=False)
    return F.pad(doubled, (0, 0, RADIUS, RADIUS), mode="reflect")[0, 0]


def doubled(source: Tensor) -> Tensor:
    """(B, K, h, w) -> (B, K, 2 h + 6, 2 w + 6): bicubic doubling and reflect padding by 3."""
    rows, columns = (_doubling(length).to(source) for length in source.shape[-2:])
    return rows @ (source @ columns.T)


def upsample(source: Tensor, levels: Sequence[Tensor], weigh: Weigh) -> Tensor:
    """(B, K, h, w) and the :func:`pyramid` -> (B, K, 16 h, 16 w)."""
    for level, padded in enumerate(levels):
        source = window_sum(doubled(source), weigh(level, padded))
    return source


def classical_weights() -> Weigh:
    """The untrained weights that a learned stack is compared with; the pyramid is not normalised."""
    from featup_app.fields.jbu import SIGMA_RANGE, SIGMA_SPATIAL

    kernel = BilateralKernel(sigma_spatial=SIGMA_SPATIAL, sigma_range=SIGMA_RANGE)
    return lambda level, padded: kernel.window_weights(padded)


def learned_weights(
    kernels: Sequence[LearnedKernel], *, correction: bool = True, reference_gradient: bool = False
) -> Weigh:
    """The weights of a learned stack, differentiable.

    Args:
        kernels: the stages, in training mode if dropout is to act.
        correction: whether the per-pixel correction takes part; without it, it is taken to be zero.
        reference_gradient: whether only the :data:`PUBLISHED_TAPS` get a gradient.
    """

    def weigh(level: int, padded: Tensor) -> Tensor:
        weights = _window_weights(kernels[level], padded, correction=correction)
        if reference_gradient and weights.requires_grad:
            cast(Any, weights).register_hook(_published_gradient)
        return weights

    return weigh


def _published_gradient(gradient: Tensor) -> Tensor:
    kept = torch.zeros_like(gradient)
    taps = list(PUBLISHED_TAPS)
    kept[:, taps] = gradient[:, taps]
    return kept


def _layer(sequence: nn.Sequential, index: int) -> tuple[Tensor, Tensor]:
    """Matrix (out, in) and bias (out) of a 1x1 convolution."""
    layer = cast(nn.Conv2d, sequence[index])
    assert layer.bias is not None
    return layer.weight[:, :, 0, 0], layer.bias


def _product(matrix: Tensor, values: Tensor, addend: Tensor) -> Tensor:
    """(out, in) times (B, in, N), plus what broadcasts to (B, out, N)."""
    batch = values.shape[0]
    return torch.baddbmm(addend.expand(batch, -1, -1), matrix.expand(batch, -1, -1), values)


def _window_weights(kernel: LearnedKernel, padded: Tensor, *, correction: bool) -> Tensor:
    """``LearnedKernel.window_weights`` in matrix products."""
    first, first_bias = _layer(kernel.range_proj, 0)
    second, second_bias = _layer(kernel.range_proj, 3)
    # Channels last: the window operators read a pixel's key in one go.
    hidden = F.gelu(F.linear(padded.permute(0, 2, 3, 1), first, first_bias))
    if kernel.range_proj[2].training:
        hidden = kernel.range_proj[2](hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    root = (0.5 * kernel.range_temp).exp().clamp(1e-2, 1e2)
    keys = F.linear(hidden, root * second, root * second_bias).permute(0, 3, 1, 2)
    weights = jbu_weights(keys, 1.0, kernel.sigma_spatial, KERNEL_SIZE)
    if not correction:
        return weights
    flat = weights.flatten(2)
    colours = padded[..., RADIUS:-RADIUS, RADIUS:-RADIUS].flatten(2)
    first, first_bias = _layer(kernel.fixup_proj, 0)
    second, second_bias = _layer(kernel.fixup_proj, 3)
    taps = flat.shape[1]
    if not kernel.fixup_proj[2].training:
        factor = CORRECTION_WEIGHT
        return corrected(flat, colours, first, first_bias, factor * second, factor * second_bias).view_as(weights)
    hidden = F.gelu(_product(first[:, :taps], flat, _product(first[:, taps:], colours, first_bias[:, None])))
    hidden = kernel.fixup_proj[2](hidden.view_as(weights)).flatten(2)
    return _product(CORRECTION_WEIGHT * second, hidden, flat + CORRECTION_WEIGHT * second_bias[:, None]).view_as(
        weights
    )
