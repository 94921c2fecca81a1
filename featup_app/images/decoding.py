"""The one way in: the bytes of a file, or an array, to 8 bit RGB pixels, upright and in sRGB.

Readers turn bytes into a :class:`~featup_app.images.raster.Raster`; :data:`READERS` lists what is read by what. Everything
after that is the same for all of them: range of values, colours, transparency, orientation.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from featup_app.base.errors import ImageError, without_warnings
from featup_app.images import colour, failures, tones
from featup_app.images.failures import NotReadError, cannot_open
from featup_app.images.raster import CMYK, LAB, Mask, Pixels, Raster
from featup_app.images.selection import AUTO, Selection

READERS = (
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "tiff"),
    ((b"\x89PNG\r\n\x1a\n",), "png"),
    ((b"\xff\xd8\xff",), "jpeg"),
    ((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), "jpeg2000"),
    ((b"",), "pillow_formats"),
)
"""First bytes of a file -> the module that reads it. TIFF: tifffile and imagecodecs. PNG, JPEG and JPEG 2000: Pillow, and
imagecodecs beyond 8 bits, for lossless JPEG and for JPEG-LS. Everything else: Pillow."""

_UPRIGHT = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
"""EXIF orientation -> quarter turns to the left, then whether to mirror left and right."""

_lock = threading.Lock()
for _library in ("PIL", "tifffile"):  # people get errors as ImageError, not as log lines
    logging.getLogger(_library).addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Decoded:
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8 sRGB, upright.
        mode: the pixel format of the file in words.
        notes: sentences about the changes from the file to ``pixels``.
        missing: (H, W), pixels without data; None if there are none.
        pages, page: how many pages the file holds, and which this is, from 1.
        channels, left_out: how many channels the page has, and how many of them are not seen.
        deep: whether the range of values had to be chosen, because samples have more than 8 bits.
        orientation: the EXIF orientation of the file, from which ``pixels`` were turned upright; 1 for none.
    """

    pixels: Pixels
    mode: str
    notes: tuple[str, ...]
    missing: Mask | None = None
    pages: int = 1
    page: int = 1
    channels: int = 3
    left_out: int = 0
    deep: bool = False
    orientation: int = 1


def decode(data: bytes, name: object, selection: Selection | None = None) -> Decoded:
    """Decode a file's bytes. Raises ImageError, and nothing else, for any bytes."""
    if not data:
        raise cannot_open(name, "it is empty (0 bytes)", "copy or download it again")
    wanted = selection or Selection()
    reader = importlib.import_module(f"featup_app.images.{reader_of(data)}")
    try:
        with quiet_decoders():
            return finish(reader.read(data, name, wanted), wanted, name)
    except ImageError:
        raise
    except NotReadError as error:
        raise cannot_open(
            name, f"it holds {error}, which this program does not read", "save it as PNG or JPEG first"
        ) from error
    except MemoryError as error:
        raise cannot_open(name, "it does not fit into memory", "make it smaller, or close other programs") from error
    except Exception as error:
        if type(error).__name__ == "DecompressionBombError":
            limit = f"{failures.MAX_PIXELS // 1_000_000} million"
            raise cannot_open(name, f"it has more pixels than the limit of {limit}", "make it smaller") from error
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise cannot_open(name, f"it is damaged or cut short ({reason})", "copy or download it again") from error


def reader_of(data: bytes) -> str:
    """Name of the module that reads a file with these bytes."""
    return next(reader for beginnings, reader in READERS if data.startswith(beginnings))


def finish(raster: Raster, selection: Selection, name: object) -> Decoded:
    """Range, colours, transparency and orientation of what a reader has read. Raises ImageError if no pixel has data."""
    notes = raster.notes
    if not raster.values.size:
        raise ValueError("it has no pixels")
    wanted = (0.0, 1.0) if raster.natural and selection.range == AUTO else selection.range
    missing, marks = _missing(raster, name)
    values, alpha = _toned(raster, wanted, missing, notes)
    pixels = colour.to_rgb(values, raster.model, raster.icc, raster.curve, notes)
    if alpha is not None:
        pixels = colour.over_white(pixels, alpha, notes)
    if missing is not None:
        share = 100 * float(missing.mean())
        notes.append(
            f"{np.count_nonzero(missing):,} pixels ({share:.2g} %) are without data ({marks}); they are marked in the "
            "window and have the mean colour of the others."
        )
        pixels = pixels.copy()
        pixels[missing] = np.rint(pixels[~missing].mean(axis=0)).astype(np.uint8)
    if raster.orientation in _UPRIGHT:
        notes.append(f"Turned upright as its EXIF orientation ({raster.orientation}) says.")
        pixels = turned(pixels, raster.orientation)
        missing = None if missing is None else turned(missing, raster.orientation)
    return Decoded(
        np.ascontiguousarray(pixels),
        raster.mode,
        tuple(notes),
        missing,
        raster.pages,
        raster.page,
        raster.channels,
        raster.left_out,
        raster.values.dtype.kind == "f" or raster.bits > 8,
        raster.orientation if raster.orientation in _UPRIGHT else 1,
    )


def _missing(raster: Raster, name: object) -> tuple[Mask | None, str]:
    found, words = (None, None) if raster.natural else tones.missing_of(raster.values, raster.nodata)
    marks = [words] if words else []
    if raster.missing is not None and raster.missing.any():
        found = raster.missing if found is None else found | raster.missing
        marks.append("as the file says")
    if found is not None and found.all():
        raise cannot_open(name, "no pixel of it has data", "choose another file, page or channel")
    return found, ", ".join(marks)


def _toned(
    raster: Raster, wanted: tuple[float, float] | str, missing: Mask | None, notes: list[str]
) -> tuple[Pixels, Pixels | None]:
    """8 bit colours, not multiplied by alpha, and alpha; a note says how they were scaled."""
    values, alpha = raster.values, raster.alpha
    if alpha is not None and not alpha.any():
        alpha = None  # programs that know no transparency leave zeros there
    if alpha is not None and raster.associated:
        opaque = tones.alpha_range(alpha, raster.bits, float(values.max()))
        low, high = tones.type_range(values.dtype, raster.bits)
        values, shown = _divided(values, alpha, high), tones.Scale(low, high)
        notes.append("Colours were stored multiplied by alpha, and are divided by it.")
    elif raster.model in (CMYK, LAB) and wanted == AUTO and values.dtype.kind != "f":
        shown = tones.Scale(*tones.type_range(values.dtype, raster.bits))  # no ink is no black
        opaque = 1.0 if alpha is None else tones.alpha_range(alpha, raster.bits, shown.high)
    else:
        shown = tones.scale_of(values, raster.bits, missing, wanted)
        if shown.note and not raster.natural:
            notes.append(shown.note)
        opaque = 1.0 if alpha is None else tones.alpha_range(alpha, raster.bits, shown.high)
    result = tones.eight_bit(values, shown)
    if raster.white_is_zero:
        result = np.uint8(255) - result
    return result, None if alpha is None else tones.eight_bit(alpha, tones.Scale(0, opaque))


def _divided(values: Any, alpha: Any, high: float) -> Any:
    """Colours divided by alpha, (H, W, C) float32 from 0 to ``high``."""
    result = np.empty(values.shape, np.float32)
    for row in range(0, len(values), 256):
        over = alpha[row : row + 256, :, None].astype(np.float64)
        part = values[row : row + 256].astype(np.float64) * high
        result[row : row + 256] = np.divide(part, over, out=np.zeros_like(part), where=over > 0)
    return result


def turned(pixels: Any, orientation: int) -> Any:
    """(H, W, ...) pixels of a file with an EXIF orientation from 2 to 8, upright."""
    turns, mirrored = _UPRIGHT[orientation]
    pixels = np.rot90(pixels, turns)
    return pixels[:, ::-1] if mirrored else pixels


def turned_back(pixels: Any, orientation: int) -> Any:
    """The reverse of :func:`turned`."""
    turns, mirrored = _UPRIGHT[orientation]
    return np.rot90(pixels[:, ::-1] if mirrored else pixels, -turns)


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Sets our pixel limit instead of Pillow's and silences its warnings. These settings are global, so they are restored."""
    from PIL import Image as pillow

    with _lock, without_warnings():
        limit = pillow.MAX_IMAGE_PIXELS
        pillow.MAX_IMAGE_PIXELS = failures.MAX_PIXELS
        try:
            yield
        finally:
            pillow.MAX_IMAGE_PIXELS = limit
