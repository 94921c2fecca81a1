"""PNG: Pillow decodes; beyond 8 bits imagecodecs does. The chunks beside the pixels are read here, with their own limits.

Chunks without pixels cannot make a file unreadable: those with a wrong checksum, and text and profiles of any size that
the decoders would refuse, are kept from them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from featup_app.images import pillow_formats
from featup_app.images.colour import SRGB_WHITE_AND_PRIMARIES, Curve, coded_curve
from featup_app.images.failures import check_pixels
from featup_app.images.raster import GREY, RGB, Raster, Samples, mode_in_words, with_channels
from featup_app.images.selection import Selection

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_ORIENTATION_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""Text chunks in which programs store the orientation."""
_LONGEST_TEXT = 65536
_LONGEST_PROFILE = 64 << 20
_SRGB_GAMMA, _SRGB_CURVE = 45455, 13
"""1 / 2.2, which programs write for the curve of sRGB, and the code of that curve."""


def read(data: bytes, name: object, selection: Selection) -> Raster:
    """The picture, or the frame of an animation. Raises ImageError, or what the decoder raises."""
    chunks = list(_chunks(data))
    depth, colours = _header(chunks)
    decoder_data = _SIGNATURE + b"".join(whole for kind, _, whole in chunks if _is_kept(kind, whole))
    if depth == 16:
        raster = _deep(chunks, decoder_data, name)
        pillow_formats.choose(raster, selection, name)
    else:
        raster = pillow_formats.read(decoder_data, name, selection)
        if colours == 0 and depth < 8 and raster.model == GREY:
            raster.mode = mode_in_words(1, np.dtype(np.uint8), depth, alpha=raster.alpha is not None)
    if not selection.channels:
        found = {kind: whole[8:-4] for kind, _, whole in reversed(chunks)}
        coded = _coded(found.get(b"cICP", b""))
        raster.icc = None if coded else _profile(found.get(b"iCCP"))
        raster.curve = coded or (None if raster.icc else _gamma(found))
    return raster


def _chunks(data: bytes) -> Iterator[tuple[bytes, bool, bytes]]:
    """Kind, whether it holds pixels, and all bytes of each chunk that is intact or holds pixels."""
    start = len(_SIGNATURE)
    while start + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        whole = data[start : start + 12 + length]
        start += 12 + length
        pixels = kind in _PIXELS or kind in _ANIMATION
        intact = len(whole) == 12 + length and zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big")
        if len(whole) == 12 + length and pixels and not intact:
            raise ValueError(f"the checksum of its chunk {kind.decode('ascii')} is wrong")
        if pixels or intact:
            yield kind, pixels, whole
        if kind == b"IEND":
            return


def _is_kept(kind: bytes, whole: bytes) -> bool:
    if kind in (b"tEXt", b"zTXt", b"iTXt"):
        return len(whole) < _LONGEST_TEXT and whole[8:].startswith(_ORIENTATION_TEXTS)
    return kind in (*_PIXELS, *_ANIMATION, b"tRNS", b"eXIf")


def _header(chunks: list[tuple[bytes, bool, bytes]]) -> tuple[int, int]:
    """Bits of a sample and the colour type; zeros where the header is damaged."""
    for kind, _, whole in chunks:
        if kind == b"IHDR" and len(whole) == 25:
            return whole[16], whole[17]
    return 0, 0


def _deep(chunks: list[tuple[bytes, bool, bytes]], decoder_data: bytes, name: object) -> Raster:
    """All channels of a picture of 16 bits."""
    import imagecodecs

    source = pillow_formats.opened(decoder_data, name)  # reads the header and the orientation
    check_pixels(*source.size, name)
    source.load()  # libpng only warns of pixels that do not match their checksum
    values: Samples = imagecodecs.png_decode(
        _SIGNATURE + b"".join(whole for kind, _, whole in chunks if kind in _PIXELS)
    )
    if values.dtype != np.uint16 or values.shape[:2] != (source.height, source.width):
        raise ValueError("its pixels cannot be decoded")
    values = with_channels(values)
    alpha = None
    if values.shape[2] in (2, 4):
        values, alpha = values[..., :-1], values[..., -1]
    else:
        named = next((whole[8:-4] for kind, _, whole in chunks if kind == b"tRNS"), b"")
        if len(named) == 2 * values.shape[2]:
            colour = np.frombuffer(named, ">u2")
            alpha = np.where((values == colour).all(axis=2), np.uint16(0), np.uint16(65535))
    model = GREY if values.shape[2] == 1 else RGB
    mode = mode_in_words(values.shape[2], values.dtype, 16, alpha=values.shape[2] == 3 and alpha is not None)
    orientation = pillow_formats.orientation_of(source)
    return Raster(np.ascontiguousarray(values), model, mode, 16, alpha, orientation=orientation)


def _profile(chunk: bytes | None) -> bytes | None:
    """The ICC profile of an iCCP chunk; None if there is none or it is broken."""
    if chunk is None:
        return None
    _, _, packed = chunk.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed[1:], _LONGEST_PROFILE)
    except zlib.error:
        return None
    return profile if unpacker.eof else None


def _coded(code: bytes) -> Curve | None:
    """The curve of a cICP chunk; None if there is none or its code is unknown here."""
    return coded_curve(code[0], code[1], code[3] != 0) if len(code) == 4 else None


def _gamma(found: dict[bytes, bytes]) -> Curve | None:
    """The curve of gAMA and cHRM; None if they are not there, or say sRGB."""
    gamma = int.from_bytes(found.get(b"gAMA", b""), "big")
    if b"sRGB" in found or not gamma:
        return None
    chromaticities = SRGB_WHITE_AND_PRIMARIES
    if len(found.get(b"cHRM", b"")) == 32:
        named = tuple(value / 100_000 for value in struct.unpack(">8I", found[b"cHRM"]))
        chromaticities = named if min(named[1::2]) > 0 else chromaticities
    if abs(gamma - _SRGB_GAMMA) >= 1000:
        return Curve(chromaticities, 100_000 / gamma)
    return None if chromaticities == SRGB_WHITE_AND_PRIMARIES else Curve(chromaticities, transfer=_SRGB_CURVE)
