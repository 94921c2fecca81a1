"""The operators of the compiled CUDA library, and whether they can be used. Imports torch only when it computes.

No function here is differentiable; gradients are separate functions. Every kernel runs on torch's current stream of the
tensors' device, and the call returns before the kernel has finished, as torch's own operators do.

Two tensors of different floating types are converted to the type that holds both, and the result has the type of the first;
float64 only goes with float64. FEATUP_NATIVE (see ``ops.loading``) governs this library too.
"""

from __future__ import annotations

import ctypes
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.ops import c_interface, loading
from featup_app.ops.c_interface import Place, TensorDescriptor
from featup_app.ops.loading import SharedLibrary

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_DEVICE_TYPE = "cuda"
_device_problems: dict[int, str | None] = {}
"""By the number of a device: why it cannot be used, or None if it can. Drivers and devices do not change while a process runs."""
_sentence: str | None = None
"""The library's sentence about the devices, cached because the driver needs milliseconds to read their properties."""


def available() -> bool:
    """Whether there is a library and a device that it can use. The first call loads the library, without torch."""
    return _problem_of_all() is None


def takes(device: torch.device) -> bool:
    """Whether the operators run on tensors of this CUDA device. The first call loads the library.

    Raises:
        RuntimeError: if FEATUP_NATIVE=require and they do not, with the reason; or if the value of FEATUP_NATIVE is unknown.
    """
    wanted = loading.mode()
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
    """A sentence about the devices, or about why none is used. Never raises.

    Args:
        load: whether the library, and the driver with it, may be loaded to find out.
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
    """Whether the library has been loaded, finds a device, and is not switched off. Loads nothing."""
    return _library.loaded is not None and available()


def wait_for(result: Tensor) -> Tensor:
    """The result after it has been computed: a CUDA device computes while the program continues."""
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
        RuntimeError: if shape, dtype or device do not fit, naming the argument, or with the message of CUDA.
    """
    kernel_size = _kernel_size(weights)
    values, factors = _alike(("padded", padded), ("weights", weights))
    output = values.new_empty((*padded.shape[:2], *weights.shape[2:]))
    call("window_sum", values, factors, output, kernel_size)
    return output.to(padded.dtype)


def window_sum_grad_input(grad: Tensor, weights: Tensor) -> Tensor:
    """Gradient of :func:`window_sum` to ``padded``.

    Args:
        grad: (B, C, H, W), any strides.
        weights: (B, k * k, H, W), any strides.

    Returns:
        (B, C, H + k - 1, W + k - 1), contiguous, in the dtype of ``grad``; every call gives the same bits.

    Raises:
        RuntimeError: as :func:`window_sum`.
    """
    kernel_size = _kernel_size(weights)
    values, factors = _alike(("grad", grad), ("weights", weights))
    batch, channels, height, width = grad.shape
    output = values.new_empty((batch, channels, height + kernel_size - 1, width + kernel_size - 1))
    call("window_sum_grad_input", values, factors, output, kernel_size)
    return output.to(grad.dtype)


def window_sum_grad_weights(padded: Tensor, grad: Tensor, kernel_size: int) -> Tensor:
    """Gradient of :func:`window_sum` to ``weights``, all k * k taps.

    Args:
        padded: (B, C, H + k - 1, W + k - 1), any strides.
        grad: (B, C, H, W), any strides.
        kernel_size: k, odd.

    Returns:
        (B, k * k, H, W), contiguous, in the dtype of ``padded``.

    Raises:
        RuntimeError: as :func:`window_sum`.
    """
    values, centre = _alike(("padded", padded), ("grad", grad))
    output = values.new_empty((grad.shape[0], kernel_size**2, *grad.shape[2:]))
    call("window_sum_grad_weights", values, centre, output, kernel_size)
    return output.to(padded.dtype)


def range_softmax(keys: Tensor, temperature: Tensor | float, kernel_size: int, bias: Tensor | None = None) -> Tensor:
    """Softmax over the window of temperature * products of keys + bias.

    Args:
        keys: (B, D, H + k - 1, W + k - 1), any strides.
        temperature: a number, or a tensor with one element. A tensor on the keys' device is read there, without waiting.
        kernel_size: k, odd.
        bias: k * k numbers on the keys' device.

    Returns:
        (B, k * k, H, W), contiguous.

    Raises:
        RuntimeError: as :func:`window_sum`.
    """
    import torch

    output = _window_weights("keys", keys, kernel_size)
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
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in (factor_at, bias_at)]
    call("range_softmax", keys, addresses[0], factor, addresses[1], output, kernel_size)
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
    output = _window_weights("padded_guidance", padded_guidance, kernel_size)
    call("bilateral_weights", padded_guidance, float(sigma_spatial), float(sigma_range), output, kernel_size)
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

    Neither the doubled map nor its padded copy is stored. This is one stage of the joint bilateral upsampler (FeatUp, ICLR
    2024, section 3.2), with the doubling of ``torch.nn.functional.interpolate`` (bicubic, ``align_corners=False``). Pairs of
    numbers are (row, column); the fine map has twice the rows and columns of the coarse one.

    Args:
        source: (B, C, r, c), any strides: the coarse map, or a part of it with every cell that is at most three cells away
            from those under the result.
        weights: (B, 49, H, W), any strides, taps row by row.
        coarse_size: rows and columns of the whole coarse map; by default those of ``source``.
        source_origin: the cell of the whole map at which ``source`` begins.
        origin: the fine pixel at which the result begins; by default (0, 0).

    Returns:
        (B, C, H, W), contiguous, in the dtype of ``source``.

    Raises:
        RuntimeError: as :func:`window_sum`; also if ``source`` lacks cells that are read.
    """
    values, factors = _alike(("source", source), ("weights", weights))
    rows, columns = coarse_size or (source.shape[2], source.shape[3])
    if origin is None and coarse_size is None and tuple(weights.shape[2:]) != (2 * rows, 2 * columns):
        raise RuntimeError(
            f"weights has shape {tuple(weights.shape)}; expected {(source.shape[0], 49, 2 * rows, 2 * columns)}"
        )
    output = values.new_empty((*source.shape[:2], *weights.shape[2:]))
    place = Place(rows, columns, *source_origin, *(origin or (0, 0)))
    call("guided_double", values, factors, output, place)
    return output.to(source.dtype)


def _library_path() -> Path:
    name = "featup_cuda.dll" if sys.platform == "win32" else "libfeatup_cuda.so"
    return Path(__file__).resolve().with_name(name)


def _prepare(native: ctypes.CDLL) -> None:
    native.featup_cuda_device_count.restype = ctypes.c_int32
    tensor, whole, real, pointer = ctypes.POINTER(TensorDescriptor), ctypes.c_int32, ctypes.c_double, ctypes.c_void_p
    signatures: dict[str, list[Any]] = {
        "status": [],
        "device_problem": [whole],
        "window_sum": [tensor, tensor, tensor, whole, pointer],
        "window_sum_grad_input": [tensor, tensor, tensor, whole, pointer],
        "window_sum_grad_weights": [tensor, tensor, tensor, whole, pointer],
        "range_softmax": [tensor, pointer, real, pointer, tensor, whole, pointer],
        "bilateral_weights": [tensor, real, real, tensor, whole, pointer],
        "guided_double": [tensor, tensor, tensor, ctypes.POINTER(Place), pointer],
        "cell_attention": [*[tensor] * 5, pointer, pointer, tensor, pointer],
        "cell_attention_weights": [*[tensor] * 4, pointer, pointer, tensor, pointer],
        "cell_attention_backward": [*[tensor] * 5, pointer, pointer, *[tensor] * 6, pointer],
    }
    c_interface.declare(native, {f"featup_cuda_{name}": arguments for name, arguments in signatures.items()})


_library = SharedLibrary("CUDA library", "CUDA compiler", "featup_cuda_", lambda: _library_path(), _prepare)


def _switched_off() -> str | None:
    """Why the library is not searched for, without a full stop."""
    try:
        return "FEATUP_NATIVE=off switches them off" if loading.mode() == "off" else None
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


def call(name: str, leader: Tensor, *arguments: Any) -> None:
    """Enqueue an operator, whose first argument is the leader, on the current stream of the leader's device.

    Raises:
        RuntimeError: if the library cannot be used, or with its message, which names the argument that does not fit.
    """
    import torch

    native = _library.get() if _switched_off() is None else None
    if native is None:
        raise RuntimeError(cuda_status())
    with torch.cuda.device(leader.device):
        stream = torch.cuda.current_stream().cuda_stream
        c_interface.invoke(native, f"featup_cuda_{name}", leader, *arguments, stream)


def _alike(first: tuple[str, Tensor], second: tuple[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Both tensors, of which messages give the names, in the dtype that holds either."""
    import torch

    (_, one), (_, two) = first, second
    for name, tensor in (first, second):
        _check(name, tensor)
    if one.device != two.device:
        raise RuntimeError(f"{first[0]} is on {one.device}; {second[0]} is on {two.device}")
    if (one.dtype == torch.float64) != (two.dtype == torch.float64):
        raise RuntimeError(f"{first[0]} has dtype {one.dtype}; {second[0]} has {two.dtype}")
    both = torch.promote_types(one.dtype, two.dtype)
    return one.to(both), two.to(both)


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    import torch

    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _check(name: str, tensor: Tensor) -> None:
    """What a descriptor cannot express; the library checks the rest."""
    if tensor.device.type != _DEVICE_TYPE:
        raise RuntimeError(f"{name} is on {tensor.device}; expected a CUDA device")
    if tensor.dtype not in c_interface.dtype_codes():
        raise RuntimeError(f"{name} has dtype {tensor.dtype}; expected float32, float64, float16 or bfloat16")
    if tensor.dim() != 4:
        raise RuntimeError(f"{name} has shape {tuple(tensor.shape)}; expected four dimensions")


def _kernel_size(weights: Tensor) -> int:
    _check("weights", weights)
    taps = weights.shape[1]
    kernel_size = math.isqrt(taps)
    if kernel_size * kernel_size != taps or kernel_size % 2 == 0:
        raise RuntimeError(f"weights has {taps} taps; expected the square of an odd kernel size")
    return kernel_size


def _window_weights(name: str, padded: Tensor, kernel_size: int) -> Tensor:
    """Memory for the weights (B, k * k, H, W) that are made of a padded tensor."""
    _check(name, padded)
    batch, _, height, width = padded.shape
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise RuntimeError(f"kernel_size is {kernel_size}; expected an odd number")
    if min(height, width) < kernel_size:
        raise RuntimeError(
            f"{name} has shape {tuple(padded.shape)}; expected (B, D, H + {kernel_size - 1}, W + {kernel_size - 1})"
        )
    return padded.new_empty((batch, kernel_size**2, height - kernel_size + 1, width - kernel_size + 1))
