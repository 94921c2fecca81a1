"""How much memory this process holds, and the peak that a call adds to it. Imports torch only to ask a CUDA device."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Protocol

_CLEAR_PEAK = "/proc/self/clear_refs"


class Sized(Protocol):
    """A result that knows its bytes, as arrays and tensors do."""

    @property
    def nbytes(self) -> int: ...


def process_bytes() -> int | None:
    """Resident memory of this process, where the system tells it cheaply."""
    try:
        with open("/proc/self/statm", encoding="ascii") as line:
            return int(line.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def extra_megabytes(function: Callable[[], Sized], device: str = "cpu") -> float | None:
    """Peak memory of a call beyond what was there before and its result (1e6 bytes), where the system tells it.

    Where it does not, the function may not have been called.

    Args:
        function: waits for its result before it returns.
        device: whose memory counts; that of a CUDA device is what torch takes there.
    """
    if device.startswith("cuda"):
        return _extra_on_cuda(function, device)
    _give_back_free_memory()
    try:
        with open(_CLEAR_PEAK, "w") as reset:
            reset.write("5")
        before = process_bytes()
        result = function()
        with open("/proc/self/status") as lines:
            peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        return None
    return None if before is None else max(0.0, (peak - before - result.nbytes) / 1e6)


def _extra_on_cuda(function: Callable[[], Sized], device: str) -> float:
    import torch

    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = function()
    return max(0.0, float(torch.cuda.max_memory_allocated(device) - before - result.nbytes) / 1e6)


def _give_back_free_memory() -> None:
    """What the C library keeps of freed memory would otherwise serve the next call, and not count as its own."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(ctypes.c_size_t(0))
