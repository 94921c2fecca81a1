"""The operators of the compiled CUDA library on CUDA tensors, and whether they can be had. Imports torch only when it computes.

No function here is differentiable; gradients are functions of their own. Every kernel runs on torch's current stream of the
tensors' device and the call returns before it has finished, as torch's own operators do.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ABI_VERSION = 1
"""FEATUP_CUDA_ABI_VERSION of native/include/featup_cuda.h."""

_DEVICE_TYPE = "cuda"
_lock = threading.Lock()
_library: ctypes.CDLL | None = None
_failure: str | None = None


def available() -> bool:
    """Whether there is a library and a device that it can use. The first call loads the library; no torch is needed."""
    native = _load()
    return native is not None and native.featup_cuda_device_count() > 0


def cuda_status() -> str:
    """A sentence: the devices, or why there are none."""
    native = _load()
    if native is None:
        return f"The CUDA operators are not used: {_failure}."
    return bytes(native.featup_cuda_status()).decode()


def window_sum(padded: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over a window around each pixel.

    Args:
        padded: (B, C, H + k - 1, W + k - 1), any strides.
        weights: (B, k * k, H, W), any strides, the dtype of ``padded``.

    Returns:
        (B, C, H, W), contiguous.

    Raises:
        RuntimeError: naming the argument if shape, dtype or device do not fit, or with CUDA's words.
    """
    kernel_size = _check_weights(weights)
    _check("padded", padded, _grown(weights, padded.shape[1] if padded.dim() == 4 else -1, kernel_size), like=weights)
    batch, channels = padded.shape[:2]
    height, width = weights.shape[2:]
    output = padded.new_empty((batch, channels, height, width))
    sizes = (batch, channels, height, width, kernel_size)
    _call("window_sum", padded, *_strided(padded), *_strided(weights), output.data_ptr(), *sizes)
    return output


def window_sum_grad_input(grad: Tensor, weights: Tensor, padded_shape: Sequence[int]) -> Tensor:
    """Gradient of :func:`window_sum` to ``padded``.

    Args:
        grad: (B, C, H, W), any strides.
        weights: (B, k * k, H, W), any strides.
        padded_shape: (B, C, H + k - 1, W + k - 1).

    Returns:
        A contiguous tensor of that shape; every call gives the same bits.

    Raises:
        RuntimeError: as :func:`window_sum`.
    """
    kernel_size = _check_weights(weights)
    channels = grad.shape[1] if grad.dim() == 4 else -1
    _check("grad", grad, (weights.shape[0], channels, *weights.shape[2:]), like=weights)
    expected = _grown(weights, channels, kernel_size)
    if tuple(padded_shape) != expected:
        raise RuntimeError(f"padded_shape is {tuple(padded_shape)}; grad and weights need {expected}")
    output = grad.new_empty(expected)
    sizes = (*grad.shape, kernel_size)
    _call("window_sum_grad_input", grad, *_strided(grad), *_strided(weights), output.data_ptr(), *sizes)
    return output


def window_sum_grad_weights(grad: Tensor, padded: Tensor, kernel_size: int) -> Tensor:
    """Gradient of :func:`window_sum` to ``weights``, all k * k taps.

    Args:
        grad: (B, C, H, W), any strides.
        padded: (B, C, H + k - 1, W + k - 1), any strides.
        kernel_size: k, odd.

    Returns:
        (B, k * k, H, W), contiguous.

    Raises:
        RuntimeError: as :func:`window_sum`.
    """
    _check_kernel_size(kernel_size)
    _check("grad", grad)
    _check("padded", padded, _grown(grad, grad.shape[1], kernel_size), like=grad)
    batch, channels, height, width = grad.shape
    output = grad.new_empty((batch, kernel_size**2, height, width))
    sizes = (batch, channels, height, width, kernel_size)
    _call("window_sum_grad_weights", grad, *_strided(grad), *_strided(padded), output.data_ptr(), *sizes)
    return output


def range_softmax(keys: Tensor, temperature: Tensor | float, kernel_size: int, bias: Tensor | None = None) -> Tensor:
    """Softmax over the window of temperature * products of keys + bias.

    Args:
        keys: (B, D, H + k - 1, W + k - 1), any strides.
        temperature: a number, or a tensor of one. On the keys' device it is read there, without waiting for the device.
        kernel_size: k, odd.
        bias: k * k numbers on the keys' device.

    Returns:
        (B, k * k, H, W), contiguous.

    Raises:
        RuntimeError: as :func:`window_sum`.
    """
    import torch

    batch, channels, height, width = _inner("keys", keys, kernel_size)
    factor, factor_at = 0.0, None
    if not isinstance(temperature, torch.Tensor):
        factor = float(temperature)
    elif temperature.numel() != 1:
        raise RuntimeError(f"temperature has shape {tuple(temperature.shape)}; expected one number")
    elif temperature.device == keys.device:
        factor_at = temperature.detach().to(_sum_dtype(keys)).reshape(())
    elif temperature.device.type == "cpu":
        factor = float(temperature)
    else:
        raise RuntimeError(f"temperature is on {temperature.device}; keys is on {keys.device}")
    bias_at = None
    if bias is not None:
        if bias.numel() != kernel_size**2:
            raise RuntimeError(f"bias has shape {tuple(bias.shape)}; expected {kernel_size**2} numbers")
        if bias.device != keys.device:
            raise RuntimeError(f"bias is on {bias.device}; keys is on {keys.device}")
        bias_at = bias.detach().to(_sum_dtype(keys)).reshape(-1).contiguous()
    output = keys.new_empty((batch, kernel_size**2, height, width))
    _call(
        "range_softmax",
        keys,
        *_strided(keys),
        None if factor_at is None else factor_at.data_ptr(),
        factor,
        None if bias_at is None else bias_at.data_ptr(),
        output.data_ptr(),
        batch,
        channels,
        height,
        width,
        kernel_size,
    )
    return output


def bilateral_weights(
    padded_guidance: Tensor, sigma_spatial: float, sigma_range: float, kernel_size: int = 7
) -> Tensor:
    """The classical joint bilateral weights: Gaussians of distance and of the difference of colours, summing to one.

    Args:
        padded_guidance: (B, D, H + k - 1, W + k - 1), any strides.
        sigma_spatial: width of the Gaussian of distance, where the window's side runs from -1 to 1.
        sigma_range: width of the Gaussian of the difference of colours.
        kernel_size: k, odd.

    Returns:
        (B, k * k, H, W), contiguous.

    Raises:
        RuntimeError: as :func:`window_sum`.
    """
    batch, channels, height, width = _inner("padded_guidance", padded_guidance, kernel_size)
    output = padded_guidance.new_empty((batch, kernel_size**2, height, width))
    _call(
        "bilateral_weights",
        padded_guidance,
        *_strided(padded_guidance),
        float(sigma_spatial),
        float(sigma_range),
        output.data_ptr(),
        batch,
        channels,
        height,
        width,
        kernel_size,
    )
    return output


def _library_path() -> Path:
    name = "featup_cuda.dll" if sys.platform == "win32" else "libfeatup_cuda.so"
    return Path(__file__).resolve().with_name(name)


def _load() -> ctypes.CDLL | None:
    global _library, _failure
    if _library is None and _failure is None:
        with _lock:
            if _library is None and _failure is None:
                try:
                    _library = _open(_library_path())
                except (OSError, RuntimeError, AttributeError) as problem:
                    _failure = str(problem)
    return _library


def _open(path: Path) -> ctypes.CDLL:
    if not path.is_file():
        raise RuntimeError("this installation was made without a CUDA compiler, so it has no CUDA library")
    native = ctypes.CDLL(str(path))
    native.featup_cuda_abi_version.restype = ctypes.c_int
    found = native.featup_cuda_abi_version()
    if found != ABI_VERSION:
        raise RuntimeError(
            f"the CUDA library has interface {found} and this program needs {ABI_VERSION}; please install again"
        )
    native.featup_cuda_device_count.restype = ctypes.c_int
    native.featup_cuda_status.restype = ctypes.c_char_p
    pointer, real, strides = ctypes.c_void_p, ctypes.c_double, ctypes.POINTER(ctypes.c_int64)
    tensor: list[Any] = [pointer, strides]
    ends: list[Any] = [pointer, *[ctypes.c_int64] * 5, ctypes.c_int, pointer]  # output, five sizes, dtype, stream
    signatures = {
        "window_sum": [*tensor, *tensor, *ends],
        "window_sum_grad_input": [*tensor, *tensor, *ends],
        "window_sum_grad_weights": [*tensor, *tensor, *ends],
        "range_softmax": [*tensor, pointer, real, pointer, *ends],
        "bilateral_weights": [*tensor, real, real, *ends],
    }
    for name, arguments in signatures.items():
        function = getattr(native, f"featup_cuda_{name}")
        function.argtypes = arguments
        function.restype = ctypes.c_char_p
    return native


def _call(name: str, leader: Tensor, *arguments: Any) -> None:
    """Enqueue an operator on the current stream of the leader's device."""
    import torch

    native = _load()
    if native is None:
        raise RuntimeError(cuda_status())
    with torch.cuda.device(leader.device):
        stream = torch.cuda.current_stream().cuda_stream
        message = getattr(native, f"featup_cuda_{name}")(*arguments, _dtypes()[leader.dtype], stream)
    if message is not None:
        raise RuntimeError(message.decode())


def _dtypes() -> dict[torch.dtype, int]:
    import torch

    return {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    import torch

    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _strided(tensor: Tensor) -> tuple[int, Any]:
    """Address and strides. The caller keeps the tensor alive for the call; after it, torch's allocator knows the stream."""
    return tensor.data_ptr(), (ctypes.c_int64 * 4)(*tensor.stride())


def _grown(like: Tensor, channels: int, kernel_size: int) -> tuple[int, int, int, int]:
    """The shape of the padded tensor that goes with one without padding."""
    return like.shape[0], channels, like.shape[2] + kernel_size - 1, like.shape[3] + kernel_size - 1


def _check(name: str, tensor: Tensor, shape: tuple[int, ...] | None = None, *, like: Tensor | None = None) -> None:
    if tensor.device.type != _DEVICE_TYPE:
        raise RuntimeError(f"{name} is on {tensor.device}; expected a CUDA device")
    if tensor.dtype not in _dtypes():
        raise RuntimeError(f"{name} has dtype {tensor.dtype}; expected float32, float64, float16 or bfloat16")
    if tensor.dim() != 4:
        raise RuntimeError(f"{name} has shape {tuple(tensor.shape)}; expected four dimensions")
    if shape is not None and tuple(tensor.shape) != shape:
        raise RuntimeError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")
    if like is not None and tensor.device != like.device:
        raise RuntimeError(f"{name} is on {tensor.device}; the other tensor is on {like.device}")
    if like is not None and tensor.dtype != like.dtype:
        raise RuntimeError(f"{name} has dtype {tensor.dtype}; the other tensor has {like.dtype}")


def _check_kernel_size(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise RuntimeError(f"kernel_size is {kernel_size}; expected an odd number")


def _check_weights(weights: Tensor) -> int:
    _check("weights", weights)
    taps = weights.shape[1]
    kernel_size = math.isqrt(taps)
    if kernel_size * kernel_size != taps or kernel_size % 2 == 0:
        raise RuntimeError(f"weights has {taps} taps; expected the square of an odd kernel size")
    return kernel_size


def _inner(name: str, padded: Tensor, kernel_size: int) -> tuple[int, int, int, int]:
    """The sizes without padding."""
    _check_kernel_size(kernel_size)
    _check(name, padded)
    batch, channels, height, width = padded.shape
    if min(height, width) < kernel_size:
        raise RuntimeError(
            f"{name} has shape {tuple(padded.shape)}; expected (B, D, H + {kernel_size - 1}, W + {kernel_size - 1})"
        )
    return batch, channels, height - kernel_size + 1, width - kernel_size + 1
