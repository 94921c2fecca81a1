"""The public operators: they check their arguments, then use the compiled library or the reference.

CPU and CUDA tensors of float16, bfloat16, float32 or float64 go to the library of their device if it can be used, all other
tensors to plain torch. Both give the same values up to rounding and raise the same errors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from featup_app.ops import native_operators, reference
from featup_app.ops.calls import handles
from featup_app.ops.checks import check_alike, check_real
from featup_app.ops.layout import at_least_float32


def window_sum(padded: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over a window around each pixel; every pixel has its own weights.

    Sums are taken in float32, of float64 tensors in float64.

    Args:
        padded: (B, C, H + k - 1, W + k - 1) input, already padded.
        weights: (B, k * k, H, W), one plane for each tap, taps row by row; the same for all channels. Their floating point
            type may differ from that of the input, but float64 only goes with float64.

    Returns:
        (B, C, H, W) in the dtype of ``padded``. Differentiable with respect to both.

    Raises:
        RuntimeError: if shape, dtype or device do not fit, naming the argument.
    """
    check_real("padded", padded)
    check_real("weights", weights)
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
    check_alike("weights", weights, "padded", padded)
    return _window_sum(padded, weights, kernel_size)


def window_dot(padded: Tensor, centre: Tensor, kernel_size: int) -> Tensor:
    """Inner products of each pixel with the pixels of another map in a window around it.

    Args:
        padded: (B, C, H + k - 1, W + k - 1), already padded.
        centre: (B, C, H, W), in the same dtype.
        kernel_size: k, odd.

    Returns:
        (B, k * k, H, W) in that dtype, taps row by row. Differentiable with respect to both maps.

    Raises:
        RuntimeError: if shape, dtype or device do not fit, naming the argument.
    """
    _check_window("padded", padded, kernel_size)
    batch, channels, height, width = padded.shape
    expected = (batch, channels, height - kernel_size + 1, width - kernel_size + 1)
    if tuple(centre.shape) != expected:
        raise RuntimeError(
            f"centre has shape {tuple(centre.shape)}; padded {tuple(padded.shape)} and a window of {kernel_size} need "
            f"{expected}"
        )
    if centre.dtype != padded.dtype:
        raise RuntimeError(f"centre has dtype {centre.dtype}; padded has {padded.dtype}")
    check_alike("centre", centre, "padded", padded)
    if handles(padded, centre):
        result: Tensor = native_operators.window_sum_grad_weights(
            at_least_float32(padded), at_least_float32(centre), kernel_size
        )
        return result.to(padded.dtype)
    return reference.window_dot(padded, centre, kernel_size)


def adaptive_conv(input: Tensor, filters: Tensor) -> Tensor:
    """Convolution without padding in which every pixel has its own filter.

    Args:
        input: (B, C, H + k - 1, W + k - 1).
        filters: (B, H, W, k, k), the same for all channels; k odd.

    Returns:
        (B, C, H, W). Differentiable with respect to both arguments, all k * k taps.

    Raises:
        RuntimeError: if shape, dtype or device do not fit, naming the argument.
    """
    check_real("input", input)
    check_real("filters", filters)
    if filters.dim() != 5 or filters.shape[3] != filters.shape[4] or filters.shape[3] % 2 == 0:
        raise RuntimeError(f"filters has shape {tuple(filters.shape)}; expected (B, H, W, k, k) with an odd k")
    if input.dim() != 4:
        raise RuntimeError(f"input has shape {tuple(input.shape)}; expected (B, C, H + k - 1, W + k - 1)")
    batch, height, width, kernel_size, _ = filters.shape
    expected = (batch, input.shape[1], height + kernel_size - 1, width + kernel_size - 1)
    if tuple(input.shape) != expected:
        raise RuntimeError(f"input has shape {tuple(input.shape)}; the filters {tuple(filters.shape)} need {expected}")
    check_alike("filters", filters, "input", input)
    return _window_sum(input, filters.flatten(3).permute(0, 3, 1, 2), kernel_size)


def range_softmax(keys: Tensor, temperature: Tensor | float, kernel_size: int) -> Tensor:
    """How alike each pixel's neighbours are to it: softmax over the window of scaled products of keys.

    Args:
        keys: (B, D, H + k - 1, W + k - 1), already padded.
        temperature: factor of the products, a number or a tensor of one.
        kernel_size: k, odd.

    Returns:
        (B, k * k, H, W), positive, summing to one over the taps; taps row by row. Differentiable.

    Raises:
        RuntimeError: if shape, dtype or device do not fit, naming the argument.
    """
    _check_window("keys", keys, kernel_size)
    factor = _temperature(temperature, keys)
    return _range_weights(keys, factor, keys.new_zeros(kernel_size**2), kernel_size)


def jbu_weights(keys: Tensor, temperature: Tensor | float, sigma_spatial: Tensor | float, kernel_size: int) -> Tensor:
    """Weights of the joint bilateral upsampler: :func:`range_softmax` times a Gaussian of distance, summing to one.

    The Gaussian's logarithm is added to the scaled products, so that a single softmax is enough.

    Args:
        keys, temperature, kernel_size: as in :func:`range_softmax`.
        sigma_spatial: width of the Gaussian, where the window's side runs from -1 to 1.

    Returns:
        (B, k * k, H, W). Differentiable with respect to keys, temperature and sigma.

    Raises:
        RuntimeError: if shape, dtype or device do not fit, naming the argument.
    """
    _check_window("keys", keys, kernel_size)
    factor = _temperature(temperature, keys)
    bias = reference.spatial_logarithm(sigma_spatial, kernel_size, keys)
    return _range_weights(keys, factor, bias, kernel_size)


def bilateral_weights(guidance: Tensor, sigma_spatial: float, sigma_range: float, kernel_size: int = 7) -> Tensor:
    """The classical joint bilateral weights: Gaussians of distance and of the difference of colours, summing to one.

    Args:
        guidance: (B, D, H + k - 1, W + k - 1), already padded.
        sigma_spatial: width of the Gaussian of distance, where the window's side runs from -1 to 1.
        sigma_range: width of the Gaussian of the Euclidean difference of colours.
        kernel_size: k, odd.

    Returns:
        (B, k * k, H, W). A pixel's weights depend to the last bit on its window alone, not on the size of the tensor.

    Raises:
        RuntimeError: if shape, dtype or device do not fit, naming the argument.
    """
    _check_window("guidance", guidance, kernel_size)
    wants_gradient = torch.is_grad_enabled() and guidance.requires_grad
    if not wants_gradient and handles(guidance):
        weights: Tensor = native_operators.bilateral_weights(
            at_least_float32(guidance), sigma_spatial, sigma_range, kernel_size
        )
        return weights.to(guidance.dtype)
    return reference.bilateral_weights(guidance, sigma_spatial, sigma_range, kernel_size)


def _window_sum(padded: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    if handles(padded, weights):
        result: Tensor = native_operators.window_sum(padded, weights, kernel_size)
        return result
    return reference.window_sum(padded, weights, kernel_size)


def _range_weights(keys: Tensor, temperature: Tensor, bias: Tensor, kernel_size: int) -> Tensor:
    if handles(keys):
        result: Tensor = native_operators.range_weights(
            at_least_float32(keys), at_least_float32(temperature), at_least_float32(bias), kernel_size
        )
        return result.to(keys.dtype)
    return reference.range_weights(keys, temperature, bias, kernel_size)


def _check_window(name: str, padded: Tensor, kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise RuntimeError(f"kernel_size is {kernel_size}; expected an odd number")
    check_real(name, padded)
    if padded.dim() != 4 or min(padded.shape[2:]) < kernel_size:
        raise RuntimeError(
            f"{name} has shape {tuple(padded.shape)}; expected (B, D, H + {kernel_size - 1}, W + {kernel_size - 1})"
        )


def _temperature(temperature: Tensor | float, keys: Tensor) -> Tensor:
    if not isinstance(temperature, Tensor):
        return torch.tensor(temperature, dtype=keys.dtype, device=keys.device)
    if temperature.numel() != 1:
        raise RuntimeError(f"temperature has shape {tuple(temperature.shape)}; expected one number")
    if temperature.device != keys.device and temperature.dim() > 0:
        raise RuntimeError(f"temperature is on {temperature.device}; keys is on {keys.device}")
    return temperature.reshape(()).to(keys)
