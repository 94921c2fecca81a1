"""What is read of a file: its page, channels and range of values, and how people write them.

``photo.tif#page=3`` names the third page, ``photo.tif#channels=4,3,2`` shows the fourth, third and second channel as red,
green and blue, ``photo.tif#range=0,4095`` makes 0 black and 4095 white; ``&`` joins several.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from featup_app.base.errors import ImageError

AUTO, FULL = "auto", "full"
"""Ranges: that of nearly all values, and that of the type (of floating point numbers: of all values)."""

_KEYS = ("page", "channels", "range")


@dataclass(frozen=True)
class Selection:
    """What is read of a file.

    Attributes:
        page: number of the page or frame, from 1; None for the largest page.
        channels: numbers of the channels, from 1, that become red, green and blue, or of one that becomes grey; empty for
            what the file says.
        range: the values that become black and white; or :data:`AUTO`, :data:`FULL`.
    """

    page: int | None = None
    channels: tuple[int, ...] = ()
    range: tuple[float, float] | str = AUTO

    def __bool__(self) -> bool:
        """Whether anything is chosen."""
        return self != Selection()

    def __str__(self) -> str:
        """As in a file name after ``#``; empty if nothing is chosen."""
        parts = [] if self.page is None else [f"page={self.page}"]
        if self.channels:
            parts.append(f"channels={','.join(map(str, self.channels))}")
        if self.range != AUTO:
            parts.append(f"range={range_in_words(self.range)}")
        return "&".join(parts)

    def over(self, other: Selection) -> Selection:
        """This selection, with what it leaves open taken from another."""
        return Selection(
            other.page if self.page is None else self.page,
            self.channels or other.channels,
            other.range if self.range == AUTO else self.range,
        )


def range_in_words(values: tuple[float, float] | str) -> str:
    """As people type it: ``auto``, ``full`` or ``LO,HI``."""
    return values if isinstance(values, str) else f"{values[0]:.10g},{values[1]:.10g}"


def parse_page(text: str) -> int | None:
    """Page of ``3``; None for an empty text. Raises ImageError for anything but a whole number from 1."""
    if not text.strip():
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise ImageError(f'The page "{text}" is no page; write a whole number from 1, such as 3.')
    return int(text)


def parse_channels(text: str) -> tuple[int, ...]:
    """Channels of ``4,3,2`` or ``4``; none for an empty text. Raises ImageError for anything else."""
    if not text.strip():
        return ()
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise ImageError(
            f'The channels "{text}" are no channels; write three numbers from 1 for red, green and blue, such as 4,3,2, or '
            "one for grey."
        )
    return tuple(map(int, parts))


def parse_range(text: str) -> tuple[float, float] | str:
    """Range of ``LO,HI``, ``auto`` or ``full``. Raises ImageError for anything else."""
    wanted = text.strip().lower()
    if wanted in (AUTO, FULL):
        return wanted
    try:
        low, high = map(float, wanted.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ImageError(
            f'The range "{text}" is no range; write LO,HI with LO below HI, such as 0,4095, or {AUTO} or {FULL}.'
        )
    return low, high


def parse_selection(text: str) -> Selection:
    """Selection of ``page=3&channels=4,3,2&range=0,4095`` or a part of it. Raises ImageError for anything else."""
    selection = Selection()
    for part in text.split("&") if text else ():
        key, _, value = part.partition("=")
        if key == "page":
            selection = dataclasses.replace(selection, page=parse_page(value))
        elif key == "channels":
            selection = dataclasses.replace(selection, channels=parse_channels(value))
        elif key == "range":
            selection = dataclasses.replace(selection, range=parse_range(value))
        else:
            raise ImageError(f'"{part}" is unknown; write page=N, channels=R,G,B or range=LO,HI, joined by &.')
    return selection


def named(path: str | Path, selection: Selection) -> Path:
    """The name that :func:`split_name` takes apart: the path itself if nothing is chosen."""
    if not selection:
        return Path(path)
    file, own = split_name(path)
    return file.with_name(f"{file.name}#{own.over(selection)}")


def split_name(path: str | Path) -> tuple[Path, Selection]:
    """File and selection of a name such as ``photo.tif#page=3``; a file that has just this name is that file.

    Raises:
        ImageError: if the part after ``#`` begins like a selection and is none.
    """
    name, mark, text = str(path).rpartition("#")
    if not mark or not text.startswith(tuple(f"{key}=" for key in _KEYS)) or _exists(path):
        return Path(path), Selection()
    return Path(name), parse_selection(text)


def _exists(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False
