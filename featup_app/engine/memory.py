"""How much memory a computation may use, and the sentence when it would need more."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from featup_app.base.errors import SizeError
from featup_app.base.peak_memory import process_bytes as process_bytes
from featup_app.base.words import human_bytes
from featup_app.features import Size

SHARE = 0.6
"""Part of the free memory that one computation may take."""

_FALLBACK_BYTES = 4 * 2**30


def available_bytes() -> int:
    """Memory that can be taken without swapping, as the system says."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return _windows_available_bytes()
    try:
        # macOS tells only the total; half of it is a careful guess of what is free.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (OSError, ValueError, AttributeError):
        return _FALLBACK_BYTES


def _windows_available_bytes() -> int:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *(
                (name, ctypes.c_ulonglong)
                for name in ("total", "free", "page", "page_free", "virtual", "virtual_free", "x")
            ),
        )

    status = Status()
    status.length = ctypes.sizeof(Status)
    done = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined, unused-ignore]
    return int(status.free) if done else _FALLBACK_BYTES


def check_output_fits(size: Size, needed: Callable[[Size], float], budget: float) -> None:
    """Raises SizeError, naming the largest size of that aspect that fits, if an output needs more than the budget.

    Args:
        needed: bytes that an output of a size takes; grows with the size.
        budget: bytes that may be used.
    """
    if needed(size) <= budget:
        return
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if needed(_scaled(size, middle)) <= budget else (low, middle)
    works = _scaled(size, low)
    advice = f"{works[0]}x{works[1]} would work" if needed(works) <= budget else "close other programs to free some"
    raise SizeError(
        f"An output of {size[0]}x{size[1]} pixels needs about {human_bytes(needed(size))} of memory, "
        f"and {human_bytes(budget)} may be used; {advice}."
    )


def _scaled(size: Size, factor: float) -> Size:
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))
