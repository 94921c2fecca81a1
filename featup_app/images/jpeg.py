"""JPEG: Pillow decodes; samples of more than 8 bits, lossless JPEG and JPEG-LS go to imagecodecs."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from featup_app.base.errors import ImageError
from featup_app.images import pillow_formats
from featup_app.images.failures import NotReadError, check_pixels
from featup_app.images.raster import CMYK, GREY, RGB, Raster, mode_in_words, with_channels
from featup_app.images.selection import Selection

_END = b"\xff\xd9"
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
_LOSSLESS, _LS = 0xC3, 0xF7
_UNUSUAL = {
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "a hierarchical JPEG"),
    0xCB: "a lossless JPEG with arithmetic coding",
}
_FILLING = b"\x5a\xa5\x3c\x69" * 512


def read(data: bytes, name: object, selection: Selection) -> Raster:
    """The picture. Raises ImageError, NotReadError, or what the decoder raises."""
    segments = list(_segments(data))
    frame = next(((kind, body) for kind, body in segments if kind in _FRAMES and len(body) >= 6), None)
    if frame is not None:
        kind, (bits, height, width, count) = frame[0], struct.unpack(">BHHB", frame[1][:6])
        if kind in _UNUSUAL:
            raise NotReadError(_UNUSUAL[kind])
        if bits != 8 or kind in (_LOSSLESS, _LS):
            check_pixels(width, height, name)
            raster = _with_imagecodecs(data, kind, bits, count, segments)
            pillow_formats.choose(raster, selection, name)
            return raster
    try:
        return pillow_formats.read(data, name, selection)
    except OSError:
        whole = _ended(data)
        if whole is None:
            raise
        raster = pillow_formats.read(whole, name, selection)
        raster.notes.append("The file lacks its end marker; its pixels are complete.")
        return raster


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of the segments before the pixels."""
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        kind = data[start + 1]
        if kind == 0xFF:  # filling
            start += 1
            continue
        if kind == 0xDA:
            return
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        yield kind, data[start + 4 : start + 2 + length]
        start += 2 + length


def _ended(data: bytes) -> bytes | None:
    """A file that lacks nothing but its end marker, with it; None if pixels are missing too.

    Where pixels are missing, the decoder takes them from whatever follows, so that two different endings give two pictures.
    """
    bare = data.rstrip(b"\xff")
    if bare.endswith(_END):
        return None
    with suppress(OSError, SyntaxError, ValueError, ImageError):
        first, second = (np.asarray(pillow_formats.opened(bare + more + _END, "")) for more in (b"", _FILLING))
        if np.array_equal(first, second):
            return bare + _END
    return None


def _with_imagecodecs(data: bytes, kind: int, bits: int, count: int, segments: list[tuple[int, bytes]]) -> Raster:
    """All channels of a JPEG that is not of the usual kind."""
    import imagecodecs

    words = {_LOSSLESS: "a lossless JPEG", _LS: "a JPEG-LS picture"}.get(kind, f"a {bits}-bit JPEG")
    decode = imagecodecs.jpegls_decode if kind == _LS else imagecodecs.jpeg8_decode
    if kind == _LS and _END not in data[-1024:]:
        raise EOFError("the file ends before its pixels do")  # CharLS may look for them for a long time
    try:
        values: Any = np.asarray(decode(data))
    except ImportError as error:
        raise NotReadError(words) from error
    values = with_channels(values)
    if values.ndim != 3 or values.shape[2] != count or count not in (1, 3, 4):
        raise NotReadError(f"{words} of {count} channels")
    model = {1: GREY, 3: RGB, 4: CMYK}[count]
    mode = "CMYK" if count == 4 else mode_in_words(count, values.dtype, bits)
    raster = Raster(values, model, mode, bits, icc=_profile(segments), orientation=_orientation(segments))
    raster.white_is_zero = count == 4 and any(sort == 0xEE and body.startswith(b"Adobe") for sort, body in segments)
    return raster


def _profile(segments: list[tuple[int, bytes]]) -> bytes | None:
    parts = [body[12:] for kind, body in segments if kind == 0xE2 and body.startswith(b"ICC_PROFILE\0")]
    return b"".join(part[2:] for part in sorted(parts, key=lambda part: part[:1])) or None


def _orientation(segments: list[tuple[int, bytes]]) -> int:
    from PIL import Image as pillow

    with suppress(Exception):  # EXIF data are often broken; the picture is good all the same
        exif = pillow.Exif()
        exif.load(next(body for kind, body in segments if kind == 0xE1 and body.startswith(b"Exif\0\0")))
        return int(exif.get(0x0112, 1))
    return 1
