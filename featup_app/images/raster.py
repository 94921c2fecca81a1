"""What the readers hand on: the samples of one page as stored, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featup_app.images.failures import cannot_open
from featup_app.images.selection import Selection

Samples = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]

GREY, RGB, CMYK, LAB = "grey", "rgb", "cmyk", "lab"
"""Colour models; Lab is that of TIFF in 8 bits: L from 0 to 255, a and b signed bytes."""


@dataclass
class Raster:
    """Samples of one page.

    Attributes:
        values: (H, W, C) bool, integer or floating point; C is 1, 3 or 4 as ``model`` says.
        model: :data:`GREY`, :data:`RGB`, :data:`CMYK` or :data:`LAB`.
        mode: the pixel format of the file in words.
        bits: significant bits of an integer sample, whose largest value is white (or the whole of an ink).
        alpha: (H, W) of the type of ``values``; None if there is none.
        associated: whether the colours are multiplied by alpha.
        white_is_zero: whether the largest value is black.
        missing: (H, W), True where the file has no data; None if it has them everywhere.
        nodata: the value that stands for "no data"; None if the file names none.
        natural: whether the lowest and highest value of the type are black and white, so that no range is looked for.
        icc: colour profile.
        curve: the code points of PNG's cICP, or its gAMA and cHRM; see :mod:`featup_app.images.colour`.
        orientation: of EXIF, 1 to 8.
        pages, page: how many pages the file holds, and which this is, from 1.
        channels, left_out: how many channels this page has, and how many of them are not seen.
        notes: sentences about what was left out or assumed.
    """

    values: Samples
    model: str
    mode: str
    bits: int = 8
    alpha: Samples | None = None
    associated: bool = False
    white_is_zero: bool = False
    missing: Mask | None = None
    nodata: float | None = None
    natural: bool = False
    icc: bytes | None = None
    curve: Any = None
    orientation: int = 1
    pages: int = 1
    page: int = 1
    channels: int = 1
    left_out: int = 0
    notes: list[str] = field(default_factory=list)


def with_channels(values: Samples) -> Samples:
    """(H, W) or (H, W, C) as (H, W, C)."""
    return values[..., None] if values.ndim == 2 else values


def mode_in_words(channels: int, dtype: np.dtype[Any], bits: int | None = None, *, alpha: bool = False) -> str:
    """Such as "RGB, 8 bit", for one or three colour channels."""
    colours = {3: "RGBA" if alpha else "RGB"}.get(channels, "grey with alpha" if alpha else "grey")
    if bits is None:
        bits = 1 if dtype == np.bool_ else 8 * dtype.itemsize
    if channels == 1 and bits == 1 and not alpha:
        return "black and white, 1 bit"
    return f"{colours}, {'floating point' if dtype.kind == 'f' else f'{bits} bit'}"


def chosen_page(selection: Selection, sizes: Sequence[int], name: object, notes: list[str], *, among: str = "") -> int:
    """Index of the page to read, with a note if there are several.

    Args:
        selection: what is wanted.
        sizes: of every page, in pixels; 0 for one that is no picture. Without a wish the first of the largest is read.
        name: of the file.
        notes: gets the note.
        among: words behind "the largest" if not every page counts.

    Raises:
        ImageError: if there is no such page.
    """
    if selection.page is None:
        index = max(range(len(sizes)), key=lambda each: (sizes[each], -each))
    elif selection.page > len(sizes):
        pages = f"{len(sizes)} pages" if len(sizes) > 1 else "one page"
        raise cannot_open(name, f"it has no page {selection.page}", f"it holds {pages}; choose one of them")
    else:
        index = selection.page - 1
    if len(sizes) > 1:
        others = [size for each, size in enumerate(sizes) if each != index]
        largest = f", the largest{among}" if selection.page is None and max(others) < sizes[index] else ""
        notes.append(f"The file holds {len(sizes)} pages; this is page {index + 1}{largest}.")
    return index


def chosen_channels(selection: Selection, default: Sequence[int], count: int, name: object) -> tuple[int, ...]:
    """Indices of the channels to read, from 0.

    Args:
        selection: what is wanted.
        default: indices without a wish.
        count: how many channels there are.
        name: of the file.

    Raises:
        ImageError: if there is no such channel.
    """
    if not selection.channels:
        return tuple(default)
    if max(selection.channels) > count:
        channels = f"{count} channels" if count > 1 else "one channel"
        raise cannot_open(name, f"it has no channel {max(selection.channels)}", f"it has {channels}; choose among them")
    return tuple(channel - 1 for channel in selection.channels)


def say_channels(raster: Raster, shown: Sequence[int], alpha: int | None, count: int) -> None:
    """Record how many channels there are and how many are not seen, with a note if some are, or in another order."""
    seen = {*shown, *(() if alpha is None else (alpha,))}
    left_out = [index + 1 for index in range(count) if index not in seen]
    raster.channels, raster.left_out = count, len(left_out)
    if not left_out and tuple(shown) == tuple(range(len(shown))):
        return
    numbers = [str(index + 1) for index in shown]
    how = {1: "is shown as grey", 3: "are shown as red, green and blue"}.get(len(shown), "are shown in colour")
    rest = ""
    if left_out:
        listed = ", ".join(map(str, left_out[:8])) + (", ..." if len(left_out) > 8 else "")
        rest = f"; left out: {listed}"
    raster.notes.append(f"The file has {count} channels; {', '.join(numbers)} {how}{rest}.")
