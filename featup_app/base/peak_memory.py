"""Resident memory of this process, and the peak that a call adds to it. Imports torch only to ask a CUDA device.

psutil reads memory, except for one thing: on Linux the peak of a process can be reset and measured for one call
(clear_refs and VmHWM in proc(5)), which psutil does not offer.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import psutil

_PROC = Path("/proc/self")


class Sized(Protocol):
    """A result that knows its size in bytes, as arrays and tensors do."""

    @property
    def nbytes(self) -> int: ...


def process_bytes() -> int:
    """Resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)


def extra_megabytes(function: Callable[[], Sized], device: str = "cpu") -> float | None:
    """Peak memory of a call beyond the memory held before it and beyond its result, in units of 1e6 bytes.

    None where the system does not report it; the function may then not have been called. On Windows the peak of a process
    cannot be reset, so that only a call which exceeds every earlier one is measured.

    Args:
        function: waits for its result before it returns.
        device: whose memory counts; on a CUDA device, what torch allocates there.
    """
    if device.startswith("cuda"):
        return _extra_on_cuda(function, device)
    release_free_memory()  # otherwise the call reuses it, and the measurement misses that
    try:
        earlier = _reset_peak()
        before = process_bytes()
        result = function()
        peak = _peak_bytes()
    except OSError:
        return None
    return None if peak <= earlier else max(0.0, (peak - before - result.nbytes) / 1e6)


def _reset_peak() -> int:
    """Forget the peak of this process. Returns the peak that a call must exceed to be measured, in bytes.

    Raises:
        OSError: where the system does not offer it.
    """
    if sys.platform == "win32":
        return _peak_bytes()
    (_PROC / "clear_refs").write_text("5")
    return 0


def _peak_bytes() -> int:
    """The largest resident memory of this process since :func:`_reset_peak`, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    lines = (_PROC / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _extra_on_cuda(function: Callable[[], Sized], device: str) -> float:
    import torch

    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = function()
    return max(0.0, float(torch.cuda.max_memory_allocated(device) - before - result.nbytes) / 1e6)


def release_free_memory() -> None:
    """Return freed memory that the C library keeps to the system. Takes about 20 ms.

    The C library of Linux keeps the gaps between blocks that are still used and serves later requests from them. Pictures of
    many sizes leave a gigabyte of such gaps. Other systems return freed memory by themselves.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(ctypes.c_size_t(0))
