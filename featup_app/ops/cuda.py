"""The operators of the compiled CUDA library on CUDA tensors, and whether they can be had. Imports torch only when it computes.

No function here is differentiable; gradients are functions of their own. Every kernel runs on torch's current stream of the
tensors' device and the call returns before it has finished, as torch's own operators do.

Two tensors of different floating types are brought to the one that holds both, and the result has the first one's type; float64
goes with float64 only. FEATUP_NATIVE (see ``ops.loading``) governs this library too.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.ops import c_interface, loading
from featup_app.ops.c_interface import Place
from featup_app.ops.loading import SharedLibrary

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ABI_VERSION = 2
"""FEATUP_CUDA_ABI_VERSION of native/include/featup_cuda.h."""

_DEVICE_TYPE = "cuda"
_device_problems: dict[int, str | None] = {}
"""Why a device cannot be used, by its number; None: it can. Neither driver nor device changes while a process runs."""
_sentence: str | None = None
"""What the library says of the devices, asked once: their properties take the driver milliseconds."""


def available() -> bool:
    """Whether there is a library and a device that it can use. The first call loads the library; no torch is needed."""
    return _problem_of_all() is None


def takes(device: torch.device) -> bool:
    """Whether the operators run on tensors of this CUDA device. The first call loads the library.

    Raises:
        RuntimeError: if FEATUP_NATIVE=require and they do not, saying why; or if FEATUP_NATIVE is none of its words.
    """
    wanted = loading.wish()
    if wanted == "off":
        return False
    number = device.index or 0
    if number not in _device_problems:
        _device_problems[number] = _problem_of(number)
    problem = _device_problems[number]
    if problem is not None and wanted == "require":
        raise RuntimeError(f"FEATUP_NATIVE=require, but the CUDA operators cannot be used on {device}: {problem}")
    return problem is None


def cuda_status(*, load: bool = True) -> str:
    """A sentence: the devices, or why there are none. Never raises.

    Args:
        load: whether the library may be loaded, and the driver with it, to find out.
    """
    global _sentence
    problem = _switched_off()
    if problem is None and not load and _library.loaded is None and _library.failure is None:
        return "The CUDA operators are loaded with the first tensor on a CUDA device."
    native = _library.get() if problem is None else None
    if native is None:
        return f"The CUDA operators are not used: {problem or _library.failure}."
    if _sentence is None:
        _sentence = bytes(native.featup_cuda_status()).decode()
    return _sentence


def runs() -> bool:
    """Whether the library has been loaded, finds a device, and is not switched off; asking loads nothing."""
    return _library.loaded is not None and available()


def wait_for(result: Tensor) -> Tensor:
    """The result once it is there: a CUDA device computes while the program goes on."""
    import torch

    if result.is_cuda:
        torch.cuda.synchronize(result.device)
    return result


def window_sum(padded: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over a window around each pixel.

    Args:
        padded: (B, C, H + k - 1, W + k - 1), any strides.
        weights: (B, k * k, H, W), any strides.

    Returns:
        (B, C, H, W), contiguous, in the dtype of ``padded``.

    Raises:
        RuntimeError: naming the argument if shape, dtype or device do not fit, or with CUDA's words.
    """
    kernel_size = _check_weights(weights)
    _check("padded", padded, _grown(weights, padded.shape[1] if padded.dim() == 4 else -1, kernel_size), like=weights)
    sizes = (*padded.shape[:2], *weights.shape[2:], kernel_size)
    values, factors = _alike(padded, weights)
    output = values.new_empty(sizes[:4])
    _call("window_sum", values, *_strided(values), *_strided(factors), output.data_ptr(), *sizes)
    return output.to(padded.dtype)


def window_sum_grad_input(grad: Tensor, weights: Tensor, padded_shape: Sequence[int]) -> Tensor:
    """Gradient of :func:`window_sum` to ``padded``.

    Args:
        grad: (B, C, H, W), any strides.
        weights: (B, k * k, H, W), any strides.
        padded_shape: (B, C, H + k - 1, W + k - 1).

    Returns:
        A contiguous tensor of that shape in the dtype of ``grad``; every call gives the same bits.

    Raises:
        RuntimeError: as :func:`window_sum`.
    """
    kernel_size = _check_weights(weights)
    channels = grad.shape[1] if grad.dim() == 4 else -1
    _check("grad", grad, (weights.shape[0], channels, *weights.shape[2:]), like=weights)
    expected = _grown(weights, channels, kernel_size)
    if tuple(padded_shape) != expected:
        raise RuntimeError(f"padded_shape is {tuple(padded_shape)}; grad and weights need {expected}")
    values, factors = _alike(grad, weights)
    output = values.new_empty(expected)
    sizes = (*grad.shape, kernel_size)
    _call("window_sum_grad_input", values, *_strided(values), *_strided(factors), output.data_ptr(), *sizes)
    return output.to(grad.dtype)


def window_sum_grad_weights(grad: Tensor, padded: Tensor, kernel_size: int) -> Tensor:
    """Gradient of :func:`window_sum` to ``weights``, all k * k taps.

    Args:
        grad: (B, C, H, W), any strides.
        padded: (B, C, H + k - 1, W + k - 1), any strides.
        kernel_size: k, odd.

    Returns:
        (B, k * k, H, W), contiguous, in the dtype of ``padded``.

    Raises:
        RuntimeError: as :func:`window_sum`.
    """
    _check_kernel_size(kernel_size)
    _check("grad", grad)
    _check("padded", padded, _grown(grad, grad.shape[1], kernel_size), like=grad)
    batch, channels, height, width = grad.shape
    values, factors = _alike(padded, grad)
    output = values.new_empty((batch, kernel_size**2, height, width))
    sizes = (batch, channels, height, width, kernel_size)
    _call("window_sum_grad_weights", values, *_strided(factors), *_strided(values), output.data_ptr(), *sizes)
    return output.to(padded.dtype)


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


def guided_double(
    source: Tensor,
    weights: Tensor,
    *,
    coarse_size: tuple[int, int] | None = None,
    source_origin: tuple[int, int] = (0, 0),
    origin: tuple[int, int] | None = None,
) -> Tensor:
    """Bicubic doubling, reflecting padding by 3 and the sum over windows of 7 x 7, in one pass.

    Neither the doubled map nor its padded copy is ever made. One stage of the joint bilateral upsampler (FeatUp, ICLR 2024,
    section 3.2); doubling as ``torch.nn.functional.interpolate`` does it (bicubic, ``align_corners=False``). All numbers are
    (row, column), those of the fine map twice as many as those of the coarse one.

    Args:
        source: (B, C, r, c), any strides: the coarse map, or the part of it that holds every cell within three of those that
            the result lies in.
        weights: (B, 49, H, W), any strides, taps row by row.
        coarse_size: rows and columns of the whole coarse map; without it ``source`` is all of it.
        source_origin: the cell of the whole map at which ``source`` begins.
        origin: the fine pixel at which the result begins; without it (0, 0).

    Returns:
        (B, C, H, W), contiguous, in the dtype of ``source``.

    Raises:
        RuntimeError: as :func:`window_sum`; also if ``source`` lacks cells that are read.
    """
    _check("source", source)
    _check("weights", weights, (source.shape[0], 49, *weights.shape[2:]), like=source)
    rows, columns = coarse_size or (source.shape[2], source.shape[3])
    if origin is None and coarse_size is None and tuple(weights.shape[2:]) != (2 * rows, 2 * columns):
        raise RuntimeError(
            f"weights has shape {tuple(weights.shape)}; expected {(source.shape[0], 49, 2 * rows, 2 * columns)}"
        )
    values, factors = _alike(source, weights)
    output = values.new_empty((*source.shape[:2], *weights.shape[2:]))
    place = Place(rows, columns, *source_origin, *(origin or (0, 0)))
    addresses = (*_strided(values), *_strided(factors), output.data_ptr())
    _call("guided_double", values, *addresses, ctypes.byref(place), *source.shape, *weights.shape[2:])
    return output.to(source.dtype)


def _library_path() -> Path:
    name = "featup_cuda.dll" if sys.platform == "win32" else "libfeatup_cuda.so"
    return Path(__file__).resolve().with_name(name)


def _prepare(native: ctypes.CDLL) -> None:
    native.featup_cuda_device_count.restype = ctypes.c_int
    pointer, real, strides = ctypes.c_void_p, ctypes.c_double, ctypes.POINTER(ctypes.c_int64)
    tensor: list[Any] = [pointer, strides]
    ends: list[Any] = [pointer, *[ctypes.c_int64] * 5, ctypes.c_int, pointer]  # output, five sizes, dtype, stream
    signatures: dict[str, list[Any]] = {
        "status": [],
        "device_problem": [ctypes.c_int],
        "window_sum": [*tensor, *tensor, *ends],
        "window_sum_grad_input": [*tensor, *tensor, *ends],
        "window_sum_grad_weights": [*tensor, *tensor, *ends],
        "range_softmax": [*tensor, pointer, real, pointer, *ends],
        "bilateral_weights": [*tensor, real, real, *ends],
        "guided_double": [
            *tensor,
            *tensor,
            pointer,
            ctypes.POINTER(Place),
            *[ctypes.c_int64] * 6,
            ctypes.c_int,
            pointer,
        ],
    }
    c_interface.declare(native, {f"featup_cuda_{name}": arguments for name, arguments in signatures.items()})


_library = SharedLibrary(
    "CUDA library", "CUDA compiler", "featup_cuda_", ABI_VERSION, lambda: _library_path(), _prepare
)


def _switched_off() -> str | None:
    """Why the library is not even looked for, without a full stop."""
    try:
        return "FEATUP_NATIVE=off switches them off" if loading.wish() == "off" else None
    except RuntimeError as problem:
        return str(problem)


def _problem_of_all() -> str | None:
    """Why no device can be used, without a full stop."""
    problem = _switched_off()
    if problem is not None:
        return problem
    native = _library.get()
    if native is None:
        return _library.failure
    return None if native.featup_cuda_device_count() > 0 else cuda_status().removesuffix(".")


def _problem_of(number: int) -> str | None:
    """Why a device cannot be used, without a full stop."""
    problem = _problem_of_all()
    if problem is not None or _library.loaded is None:
        return problem
    message = _library.loaded.featup_cuda_device_problem(number)
    return None if message is None else str(message.decode())


def _call(name: str, leader: Tensor, *arguments: Any) -> None:
    """Enqueue an operator on the current stream of the leader's device."""
    import torch

    native = _library.get() if _switched_off() is None else None
    if native is None:
        raise RuntimeError(cuda_status())
    with torch.cuda.device(leader.device):
        stream = torch.cuda.current_stream().cuda_stream
        message = getattr(native, f"featup_cuda_{name}")(*arguments, c_interface.dtype_codes()[leader.dtype], stream)
    c_interface.check(message)


def _alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type that holds either."""
    import torch

    both = torch.promote_types(first.dtype, second.dtype)
    return first.to(both), second.to(both)


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
    if tensor.dtype not in c_interface.dtype_codes():
        raise RuntimeError(f"{name} has dtype {tensor.dtype}; expected float32, float64, float16 or bfloat16")
    if tensor.dim() != 4:
        raise RuntimeError(f"{name} has shape {tuple(tensor.shape)}; expected four dimensions")
    if shape is not None and tuple(tensor.shape) != shape:
        raise RuntimeError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")
    if like is not None and tensor.device != like.device:
        raise RuntimeError(f"{name} is on {tensor.device}; the other tensor is on {like.device}")
    if like is not None and (tensor.dtype.itemsize == 8) != (like.dtype.itemsize == 8):
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
