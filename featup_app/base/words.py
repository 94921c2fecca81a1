"""Quantities and names as a person reads them, the same in sentences, dialogs, status bars and names of files."""

from __future__ import annotations

import re


def counted(count: int, one: str) -> str:
    """1 and "step" -> "1 step", 1200 -> "1,200 steps"."""
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"


def human_bytes(count: float) -> str:
    """1536 -> "1.5 kB"; never shows four digits before the unit."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while round(count) >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    unit = units[0]
    return f"{count:.0f} {unit}" if unit == "B" or round(count, 1) >= 100 else f"{count:.1f} {unit}"


def human_duration(seconds: float) -> str:
    """95 -> "95 seconds", 150 -> "2.5 minutes", 7200 -> "2 hours"; as exact as a person wants to know it."""
    if seconds < 99.5:
        whole = max(1, round(seconds))
        return f"{whole} second{'s' if whole > 1 else ''}"
    amount, unit = (seconds / 60, "minutes") if seconds < 5400 else (seconds / 3600, "hours")
    text = f"{amount:.1f}".removesuffix(".0") if amount < 10 else f"{amount:.0f}"
    return f"{text} {unit}"


def percent_below(error: float, other: float) -> str:
    """0.75 and 1.0 -> "25 % lower"."""
    share = 100 * (1 - error / other) if other > 0 else 0.0
    if abs(share) < 0.05:
        return "the same"
    return f"{abs(share):.{int(abs(share) < 10)}f} % {'lower' if share > 0 else 'higher'}"


def slug(name: str) -> str:
    """A name as a part of a file name: "espresso maker" -> "espresso-maker"; empty if it has neither letters nor digits."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")[:60]
