"""Calls of the compiled library for the processor: which tensors it takes, and with how many threads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from featup_app.ops import c_interface, cuda, loading

_WORTH_A_THREAD = 2**18
"""Multiplications below which waking other threads takes longer than the work."""


def handles(*tensors: Tensor) -> bool:
    """Whether the library of the tensors' device is there and takes such tensors, which are all on one device.

    Raises:
        RuntimeError: if FEATUP_NATIVE=require and there is no library, or none that the CUDA device can use.
    """
    dtypes = c_interface.dtype_codes()
    if any(tensor.layout != torch.strided or tensor.dtype not in dtypes for tensor in tensors):
        return False
    device = tensors[0].device
    if device.type == "cuda":
        return cuda.takes(device)
    return device.type == "cpu" and loading.library() is not None


def call(function: str, *arguments: Any) -> None:
    """Call a function of the library by its name; tensors are described and checked by the library.

    Raises:
        RuntimeError: if the library cannot be used, or with its message, which names the argument that does not fit.
    """
    library = loading.library()
    if library is None:
        raise RuntimeError("the compiled operators are switched off")
    c_interface.invoke(library, function, *arguments)


def threads_for(multiplications: int) -> int:
    """The number of threads that a computation of this size is worth."""
    return torch.get_num_threads() if multiplications > _WORTH_A_THREAD else 1
