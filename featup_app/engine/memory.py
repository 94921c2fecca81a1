"""How much memory a computation and kept results may use, and the sentence when a computation would need more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil

from featup_app.base.errors import SizeError
from featup_app.base.peak_memory import process_bytes as process_bytes
from featup_app.base.words import human_bytes
from featup_app.features import Size

SHARE = 0.6
"""Fraction of the available memory that one computation may use."""

PREPARE_BYTES = 2**30
"""Memory that one view may use below which nothing is computed that nobody has asked for."""


KEEP_SHARE = 3
"""Results of earlier requests may fill one part in so many of the machine's memory, unless a person chooses."""

_CONTAINER_LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux states the limit of a container: its control groups of version 2 and of version 1."""


def machine_bytes() -> int:
    """Memory of the machine in bytes, or of the container if that is limited to less."""
    total = int(psutil.virtual_memory().total)
    for path in _CONTAINER_LIMITS:
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):  # no such system, or "max"
            continue
    return total


def default_keep_bytes() -> int:
    """Budget of kept results (:class:`~featup_app.engine.kept.Kept`) in bytes, if a person has not chosen one."""
    return machine_bytes() // KEEP_SHARE


def available_bytes() -> int:
    """Memory that can be used without swapping, in bytes. Limits of containers are not considered."""
    return int(psutil.virtual_memory().available)


def check_output_fits(size: Size, needed: Callable[[Size], float], budget: float) -> None:
    """Check that an output fits into a memory budget.

    Args:
        size: (height, width) of the output.
        needed: bytes that an output of a size needs; grows with the size.
        budget: bytes that may be used.

    Raises:
        SizeError: if it does not fit, naming the largest size of the same aspect ratio that does.
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
