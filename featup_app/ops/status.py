"""Which implementation of the operators runs, in words; written into exports and shown in About. Imports no torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from featup_app.ops import cuda, loading


@dataclass(frozen=True)
class NativeStatus:
    """``backend`` is a short name for status bars, ``detail`` one or two sentences.

    ``cuda_operators`` is a sentence about the CUDA devices, or about why none is used.
    """

    backend: str
    detail: str
    cuda_operators: str


def native_status() -> NativeStatus:
    """What computes the window sums of the joint bilateral upsampler in this process.

    Before torch is there nothing has been loaded, and asking does not change that: importing torch takes seconds. Nor does it
    load the CUDA library, since that wakes the driver and takes memory of the device: the first CUDA tensor does.
    """
    on_cuda = cuda.cuda_status(load=False)
    try:
        if loading.wish() == "off":
            return _reference("FEATUP_NATIVE=off switches the compiled library off.")
        if loading.loaded() is None and loading.failure() is None and not _torch_is_there():
            return NativeStatus(
                "not loaded yet", "The upsampling operators are loaded with the first picture.", on_cuda
            )
        native = loading.library()
    except RuntimeError as problem:
        return NativeStatus("unusable", f"{problem}.", on_cuda)
    if native is None:
        return _reference(f"The compiled library is not used: {loading.failure()}.")
    name = loading.instruction_set(native)
    detail = f"The upsampling operators run in the compiled library on the processor, with {name} code."
    return NativeStatus(f"native {name}", _with_cuda(detail), on_cuda)


def _reference(reason: str) -> NativeStatus:
    detail = _with_cuda(f"The upsampling operators run as plain torch code. {reason}")
    return NativeStatus("torch", detail, cuda.cuda_status(load=False))


def _with_cuda(detail: str) -> str:
    return f"{detail} On CUDA tensors they run in the CUDA library: {cuda.cuda_status()}" if cuda.runs() else detail


def _torch_is_there() -> bool:
    """Whether torch has been imported to the end: while another thread imports it, asking it would have to wait."""
    module = sys.modules.get("torch")
    return module is not None and not getattr(module.__spec__, "_initializing", False)
