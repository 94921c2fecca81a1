"""How much memory a computation may use, and the sentence when it would need more."""

from __future__ import annotations

from collections.abc import Callable

import psutil

from featup_app.base.errors import SizeError
from featup_app.base.peak_memory import process_bytes as process_bytes
from featup_app.base.words import human_bytes
from featup_app.features import Size

SHARE = 0.6
"""Fraction of the available memory that one computation may use."""


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
