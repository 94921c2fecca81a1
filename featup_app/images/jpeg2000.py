"""JPEG 2000: Pillow decodes 8 bits; of more bits it wraps the brightest colours to black, so imagecodecs decodes those."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from featup_app.images import pillow_formats
from featup_app.images.failures import NotReadError, check_pixels
from featup_app.images.raster import GREY, RGB, Raster, mode_in_words, with_channels
from featup_app.images.selection import Selection

_SIZES = b"\xff\x4f\xff\x51"
"""The beginning of a code stream: its markers SOC and SIZ."""
_END = b"\xff\xd9"
_SYCC = 18
_OPACITY = 1


def read(data: bytes, name: object, selection: Selection) -> Raster:
    """The picture. Raises ImageError, NotReadError, or what the decoder raises."""
    start = data.find(_SIZES)
    header = data[start + 8 : start + 42]
    if start < 0 or len(header) < 34:
        return pillow_formats.read(data, name, selection)
    _check_length(data, start)
    width, height, left, top = struct.unpack(">4I", header[:16])
    count = int.from_bytes(header[32:34], "big")
    kinds = set(data[start + 42 : start + 42 + 3 * count : 3])
    depth = max(((kind & 127) + 1 for kind in kinds), default=8)
    if depth <= 8 and not any(kind & 128 for kind in kinds):
        return pillow_formats.read(data, name, selection)
    check_pixels(width - left, height - top, name, sample_bytes=2 * count)
    if len(kinds) > 1 or count not in (1, 2, 3, 4) or depth > 16:
        raise NotReadError(f"a JPEG 2000 picture of {count} channels of unlike or more than 16 bits")
    raster = _deep(data[:start], data, count, depth)
    pillow_formats.choose(raster, selection, name)
    return raster


def _check_length(data: bytes, start: int) -> None:
    """Raises EOFError if the code stream that begins at ``start`` is cut short, of which OpenJPEG would show the rest."""
    length = int.from_bytes(data[start - 8 : start - 4], "big") if data[start - 4 : start] == b"jp2c" else 0
    whole = start - 8 + length <= len(data) if length > 8 else data.rstrip(b"\0\n\r").endswith(_END)
    if not whole:
        raise EOFError("the file ends before its pixels do")


def _deep(boxes: bytes, data: bytes, count: int, bits: int) -> Raster:
    """All channels of a picture of more than 8 bits; ``boxes`` is what precedes its code stream."""
    import imagecodecs

    space, icc = _colours(boxes)
    if space == _SYCC:
        raise NotReadError("a JPEG 2000 picture of YCbCr colours in more than 8 bits")
    values: Any = imagecodecs.jpeg2k_decode(data)
    values = with_channels(values)
    if values.ndim != 3 or values.shape[2] != count:
        raise NotReadError("a JPEG 2000 picture with a palette or channels of unlike sizes")
    colours = 3 if count >= 3 else 1
    alpha = values[..., -1] if count > colours and _has_opacity(boxes) else None
    mode = mode_in_words(colours, values.dtype, bits, alpha=alpha is not None)
    model = RGB if colours == 3 else GREY
    raster = Raster(np.ascontiguousarray(values[..., :colours]), model, mode, bits, alpha, icc=icc)
    if count > colours and alpha is None:
        raster.notes.append(f"The file has {count} channels; the last one is left out.")
    return raster


def _colours(boxes: bytes) -> tuple[int, bytes | None]:
    """The number of the colour space (0 if there is none) and the ICC profile of the box "colr"."""
    at = boxes.find(b"colr")
    if at < 4:
        return 0, None
    body = boxes[at + 4 : at - 4 + int.from_bytes(boxes[at - 4 : at], "big")]
    if body[:1] == b"\2":
        return 0, body[3:]
    return int.from_bytes(body[3:7], "big"), None


def _has_opacity(boxes: bytes) -> bool:
    """Whether the box "cdef" calls a channel opacity."""
    at = boxes.find(b"cdef")
    if at < 0:
        return False
    count = int.from_bytes(boxes[at + 4 : at + 6], "big")
    rows = boxes[at + 6 : at + 6 + 6 * count]
    return any(int.from_bytes(rows[start + 2 : start + 4], "big") == _OPACITY for start in range(0, len(rows), 6))
