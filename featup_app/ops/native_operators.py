"""The compiled operators as torch operators, for CPU and CUDA tensors, differentiable and known to torch.compile.

The gradients of each of the three window operators are the other two, so that derivatives of any order are compiled:

- ``window_sum``: padded input and weights -> sum over the window;
- ``window_sum_grad_input``: its gradient to the padded input, from the gradient of the result and the weights;
- ``window_sum_grad_weights``: its gradient to the weights, from the padded input and the gradient of the result.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from featup_app.ops import cuda
from featup_app.ops.calls import call, threads_for
from featup_app.ops.layout import FEW_CHANNELS, at_least_float32, empty_in_layout_of, with_adjacent_columns

_GRAD_INPUT_PLANES = 64
"""Up to so many channels the gradient to the input is computed in planes. As kGradInputPlanes in native/cpu/variant.hpp."""

_Gradient = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""A rule of a gradient: gradient of the result, both operands, kernel size -> gradient to one operand."""


def _sum_shape(padded: Tensor, kernel_size: int) -> tuple[int, int, int, int]:
    batch, channels, height, width = padded.shape
    return batch, channels, height - kernel_size + 1, width - kernel_size + 1


@torch.library.custom_op("featup::window_sum", mutates_args=(), device_types="cpu")
def window_sum(padded: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    """See ``featup_app.ops.window_sum``."""
    result = empty_in_layout_of(padded, _sum_shape(padded, kernel_size))
    target, source = result, padded
    if padded.shape[1] <= FEW_CHANNELS:
        # A few channels are small compared with the weights, so a copy in the fastest layout pays off.
        source = with_adjacent_columns(at_least_float32(padded))
        target = result if result.dtype == source.dtype else result.to(source.dtype)
    threads = threads_for(padded.shape[1] * weights.numel())
    call("featup_window_sum", source, weights, target, kernel_size, threads)
    return result if target is result else result.copy_(target)


@window_sum.register_kernel("cuda")
def _window_sum_cuda(padded: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    return cuda.window_sum(padded, weights)


@window_sum.register_fake
def _(padded: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    return empty_in_layout_of(padded, _sum_shape(padded, kernel_size))


@torch.library.custom_op("featup::window_sum_grad_input", mutates_args=(), device_types="cpu")
def window_sum_grad_input(gradient: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    """(B, C, H, W) and (B, k * k, H, W) -> (B, C, H + k - 1, W + k - 1)."""
    gradient = _for_grad_input(gradient)
    result = empty_in_layout_of(gradient, _sum_shape(gradient, 2 - kernel_size))
    threads = threads_for(gradient.shape[1] * weights.numel())
    call("featup_window_sum_grad_input", gradient, weights, result, kernel_size, threads)
    return result


@window_sum_grad_input.register_kernel("cuda")
def _window_sum_grad_input_cuda(gradient: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    return cuda.window_sum_grad_input(gradient, weights)


def _for_grad_input(gradient: Tensor) -> Tensor:
    few = gradient.device.type == "cpu" and gradient.shape[1] <= _GRAD_INPUT_PLANES
    return with_adjacent_columns(gradient) if few else gradient


@window_sum_grad_input.register_fake
def _(gradient: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    gradient = _for_grad_input(gradient)
    return empty_in_layout_of(gradient, _sum_shape(gradient, 2 - kernel_size))


@torch.library.custom_op("featup::window_sum_grad_weights", mutates_args=(), device_types="cpu")
def window_sum_grad_weights(padded: Tensor, gradient: Tensor, kernel_size: int) -> Tensor:
    """(B, C, H + k - 1, W + k - 1) and (B, C, H, W) -> (B, k * k, H, W)."""
    batch, _, height, width = gradient.shape
    result = padded.new_empty((batch, kernel_size**2, height, width))
    threads = threads_for(gradient.numel() * kernel_size**2)
    call("featup_window_sum_grad_weights", padded, gradient, result, kernel_size, threads)
    return result


@window_sum_grad_weights.register_kernel("cuda")
def _window_sum_grad_weights_cuda(padded: Tensor, gradient: Tensor, kernel_size: int) -> Tensor:
    return cuda.window_sum_grad_weights(padded, gradient, kernel_size)


@window_sum_grad_weights.register_fake
def _(padded: Tensor, gradient: Tensor, kernel_size: int) -> Tensor:
    batch, _, height, width = gradient.shape
    return padded.new_empty((batch, kernel_size**2, height, width))


def _register_gradients(operator: Any, to_first: _Gradient, to_second: _Gradient) -> None:
    """Make an operator of two tensors differentiable; each rule gives the gradient to one of them."""

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        first, second, ctx.kernel_size = inputs
        ctx.save_for_backward(first, second)

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        first, second = ctx.saved_tensors
        found = [
            rule(gradient, first, second, ctx.kernel_size).to(operand.dtype) if needed else None
            for rule, operand, needed in zip(
                (to_first, to_second), (first, second), ctx.needs_input_grad[:2], strict=True
            )
        ]
        return found[0], found[1], None

    operator.register_autograd(backward, setup_context=keep)


_register_gradients(
    window_sum,
    lambda gradient, padded, weights, size: window_sum_grad_input(gradient, weights, size),
    lambda gradient, padded, weights, size: window_sum_grad_weights(padded, gradient, size),
)
_register_gradients(
    window_sum_grad_input,
    lambda gradient, source, weights, size: window_sum(gradient, weights, size),
    lambda gradient, source, weights, size: window_sum_grad_weights(gradient, source, size),
)
_register_gradients(
    window_sum_grad_weights,
    lambda gradient, padded, centre, size: window_sum_grad_input(centre, gradient, size),
    lambda gradient, padded, centre, size: window_sum(padded, gradient, size),
)


@torch.library.custom_op("featup::range_weights", mutates_args=(), device_types="cpu")
def range_weights(keys: Tensor, temperature: Tensor, bias: Tensor, kernel_size: int) -> Tensor:
    """Softmax over the taps of temperature * products of keys + bias; float32 or float64."""
    batch, _, height, width = _sum_shape(keys, kernel_size)
    source = with_adjacent_columns(keys)
    result = keys.new_empty((batch, kernel_size**2, height, width))
    taps = (ctypes.c_double * kernel_size**2)(*bias.tolist())
    threads = threads_for(result.numel() * max(1, keys.shape[1]))
    call("featup_range_softmax", source, float(temperature), taps, result, kernel_size, threads)
    return result


@range_weights.register_kernel("cuda")
def _range_weights_cuda(keys: Tensor, temperature: Tensor, bias: Tensor, kernel_size: int) -> Tensor:
    return cuda.range_softmax(keys, temperature, kernel_size, bias)


@range_weights.register_fake
def _(keys: Tensor, temperature: Tensor, bias: Tensor, kernel_size: int) -> Tensor:
    batch, _, height, width = _sum_shape(keys, kernel_size)
    return keys.new_empty((batch, kernel_size**2, height, width))


def _keep_weights(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    keys, temperature, _, ctx.kernel_size = inputs
    ctx.save_for_backward(keys, temperature, output)


def _range_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    keys, temperature, weights = ctx.saved_tensors
    size: int = ctx.kernel_size
    # The gradient to the logits in one pass over the planes; the formula written out would need four.
    through = torch.ops.aten._softmax_backward_data(gradient, weights, 1, weights.dtype)
    radius = size // 2
    centre = keys[..., radius : keys.shape[2] - radius, radius : keys.shape[3] - radius]
    to_keys = to_temperature = to_bias = None
    if ctx.needs_input_grad[0]:
        own = window_sum(keys, through, size)
        to_keys = temperature * (
            window_sum_grad_input(centre, through, size) + torch.nn.functional.pad(own, (radius,) * 4)
        )
    if ctx.needs_input_grad[1]:
        to_temperature = (through * window_sum_grad_weights(keys, centre, size)).sum()
    if ctx.needs_input_grad[2]:
        to_bias = through.sum(dim=(0, 2, 3))
    return to_keys, to_temperature, to_bias, None


range_weights.register_autograd(_range_backward, setup_context=_keep_weights)


@torch.library.custom_op("featup::bilateral_weights", mutates_args=(), device_types="cpu")
def bilateral_weights(guidance: Tensor, sigma_spatial: float, sigma_range: float, kernel_size: int) -> Tensor:
    """See ``featup_app.ops.bilateral_weights``; not differentiable."""
    batch, _, height, width = _sum_shape(guidance, kernel_size)
    source = with_adjacent_columns(guidance)
    result = guidance.new_empty((batch, kernel_size**2, height, width))
    radius = kernel_size // 2
    line = [(tap - radius) / max(radius, 1) for tap in range(kernel_size)]
    bias = [-(y * y + x * x) / (2 * sigma_spatial**2) for y in line for x in line]
    taps, scale = (ctypes.c_double * len(bias))(*bias), -0.5 / sigma_range**2
    threads = threads_for(3 * result.numel())
    call("featup_bilateral_weights", source, scale, taps, result, kernel_size, threads)
    return result


@bilateral_weights.register_kernel("cuda")
def _bilateral_weights_cuda(guidance: Tensor, sigma_spatial: float, sigma_range: float, kernel_size: int) -> Tensor:
    return cuda.bilateral_weights(guidance, sigma_spatial, sigma_range, kernel_size)


@bilateral_weights.register_fake
def _(guidance: Tensor, sigma_spatial: float, sigma_range: float, kernel_size: int) -> Tensor:
    batch, _, height, width = _sum_shape(guidance, kernel_size)
    return guidance.new_empty((batch, kernel_size**2, height, width))
