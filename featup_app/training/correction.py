"""The per-pixel correction of the window weights, forward and backward in blocks of pixels that fit into the cache.

It is two small matrices with a GELU between them, for every pixel. Computed one operation after the other, each of a dozen
passes would read and write 49 planes of the picture; that, and not the arithmetic, is what a step would spend its time on.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PIXELS = 8192
"""Of a block: its 49 channels are 1.6 MB, half of it for each of two cores."""


class _Correction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernel: Tensor,
        colours: Tensor,
        first: Tensor,
        first_bias: Tensor,
        second: Tensor,
        second_bias: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(kernel, colours, first, first_bias, second)
        result = torch.empty_like(kernel)
        to_kernel, to_colours = first[:, : kernel.shape[1]], first[:, kernel.shape[1] :]
        for part, values, hues in _blocks(result, kernel, colours):
            hidden = F.gelu(_hidden(values, hues, to_kernel, to_colours, first_bias))
            torch.addmm(values, second, hidden, out=part)
            part += second_bias[:, None]
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        kernel, colours, first, first_bias, second = ctx.saved_tensors
        taps = kernel.shape[1]
        to_kernel, to_colours = first[:, :taps], first[:, taps:]
        result = torch.empty_like(kernel)
        of_kernel, of_colours = torch.zeros_like(to_kernel), torch.zeros_like(to_colours)
        of_first_bias, of_second = torch.zeros_like(first_bias), torch.zeros_like(second)
        of_second_bias = first.new_zeros(second.shape[0])
        for part, values, hues, outer in _blocks(result, kernel, colours, gradient):
            before = _hidden(values, hues, to_kernel, to_colours, first_bias)
            of_second.addmm_(outer, F.gelu(before).T)
            of_second_bias += outer.sum(dim=1)
            inner = torch.ops.aten.gelu_backward(second.T @ outer, before)
            of_kernel.addmm_(inner, values.T)
            of_colours.addmm_(inner, hues.T)
            of_first_bias += inner.sum(dim=1)
            torch.addmm(outer, to_kernel.T, inner, out=part)
        return result, None, torch.cat([of_kernel, of_colours], dim=1), of_first_bias, of_second, of_second_bias


def _hidden(values: Tensor, hues: Tensor, to_kernel: Tensor, to_colours: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(torch.addmm(bias[:, None], to_colours, hues), to_kernel, values)


def _blocks(*planes: Tensor) -> Any:
    """Views (channels, pixels) of several (B, channels, N), block by block."""
    for batch in zip(*planes, strict=True):
        yield from zip(*(plane.split(PIXELS, dim=1) for plane in batch), strict=True)


def corrected(
    kernel: Tensor, colours: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor
) -> Tensor:
    """Window weights plus a correction made from them and the colours.

    Args:
        kernel: (B, 49, N) weights.
        colours: (B, 3, N) guidance; gets no gradient.
        first, first_bias: (hidden, 52) and (hidden).
        second, second_bias: (49, hidden) and (49).

    Returns:
        (B, 49, N): kernel + second GELU(first [kernel, colours] + first_bias) + second_bias. Differentiable once.
    """
    result: Tensor = _Correction.apply(
        kernel.contiguous(), colours.contiguous(), first, first_bias, second, second_bias
    )
    return result
