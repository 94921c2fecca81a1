"""Quantities as a person reads them, the same in sentences, dialogs and status bars."""

from __future__ import annotations


def human_bytes(count: float) -> str:
    """1536 -> "1.5 kB"; never shows four digits before the unit."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while round(count) >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    unit = units[0]
    return f"{count:.0f} {unit}" if unit == "B" or round(count, 1) >= 100 else f"{count:.1f} {unit}"
