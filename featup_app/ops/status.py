"""A description of the implementation that the operators run in, for exports and the About dialog. Imports no torch."""

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
    """The implementation that computes the window sums of the joint bilateral upsampler in this process.

    This loads neither torch, whose import takes seconds, nor the CUDA library, which starts the driver and takes memory of
    the device. The first picture loads torch and the library for the processor, the first CUDA tensor the CUDA library.
    """
    on_cuda = cuda.cuda_status(load=False)
    try:
        if loading.mode() == "off":
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
    """Whether torch has been imported completely: while another thread imports it, every access would wait."""
    module = sys.modules.get("torch")
    return module is not None and not getattr(module.__spec__, "_initializing", False)
