"""What the C interfaces of both compiled libraries share: the structures of native/include/featup_tensor.h and error messages.

Imports torch only when it describes a tensor.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


ABI_VERSION = 4
"""FEATUP_ABI_VERSION of native/include/featup_tensor.h."""


class TensorDescriptor(ctypes.Structure):
    """``featup_tensor``: address, four sizes, four strides in elements, number format."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int64 * 4),
        ("stride", ctypes.c_int64 * 4),
        ("dtype", ctypes.c_int32),
    )


class Place(ctypes.Structure):
    """``featup_place``: where the source and the output of a guided doubling lie in their whole maps."""

    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("coarse_rows", "coarse_columns", "source_top", "source_left", "top", "left")
    )


@functools.cache
def dtype_codes() -> Mapping[torch.dtype, int]:
    """``featup_dtype``: the number formats that the libraries read and write."""
    import torch

    return {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


def describe(tensor: Tensor) -> Any:
    """A reference to the descriptor of a tensor of four dimensions, which must stay alive until the call has been made."""
    descriptor = TensorDescriptor()
    descriptor.data = tensor.data_ptr()
    descriptor.size[:] = tensor.shape
    descriptor.stride[:] = tensor.stride()
    if tensor.shape[-1] == 1:
        # No step leads from a single column to a next one, so torch leaves any stride there. The library expects 1.
        descriptor.stride[-1] = 1
    descriptor.dtype = dtype_codes()[tensor.dtype]
    return ctypes.byref(descriptor)


def declare(library: ctypes.CDLL, signatures: Mapping[str, Sequence[Any]]) -> None:
    """Declare functions that return a message or NULL to ctypes.

    Args:
        signatures: the types of the arguments, by the name of the function.

    Raises:
        AttributeError: if the library lacks one of them.
    """
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes = list(arguments)
        function.restype = ctypes.c_char_p


def invoke(library: ctypes.CDLL, function: str, *arguments: Any) -> None:
    """Call a function of a library. Tensors among the arguments are described; the library checks them.

    Raises:
        RuntimeError: with the message of the library, which names the argument that does not fit.
    """
    import torch

    described = [describe(value) if isinstance(value, torch.Tensor) else value for value in arguments]
    check(getattr(library, function)(*described))


def check(message: bytes | None) -> None:
    """Turn the message that a function of a library returned into an error; NULL is success.

    Raises:
        RuntimeError: with that message.
    """
    if message is not None:
        raise RuntimeError(message.decode())
