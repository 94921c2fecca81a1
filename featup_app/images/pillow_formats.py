"""Everything that Pillow reads well: GIF, BMP, WebP, AVIF, PNM, JPEG 2000, TGA, ICO, PSD, ..., and plain PNG and JPEG."""

from __future__ import annotations

import codecs
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from featup_app.images.failures import cannot_open, check_pixels
from featup_app.images.raster import (
    CMYK,
    GREY,
    LAB,
    RGB,
    Raster,
    chosen_channels,
    chosen_page,
    mode_in_words,
    say_channels,
    with_channels,
)
from featup_app.images.selection import Selection

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from featup_app.base.errors import ImageError

_FORMATS = (
    "PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "ICO", "ICNS", "PSD", "PCX",
    "SGI", "DDS", "QOI", "TGA",
)  # fmt: skip
"""Formats that Pillow may try: pictures only, no format that runs another program (EPS) or is a stub."""

_READABLE = (
    (b"\xff\xd8\xff", "a JPEG picture"), (b"\x89PNG", "a PNG picture"), (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"), (b"II*\0", "a TIFF picture"), (b"MM\0*", "a TIFF picture"), (b"II+\0", "a TIFF picture"),
    (b"MM\0+", "a TIFF picture"), (b"RIFF", "a RIFF file"), (b"P4", "a PBM picture"), (b"P5", "a PGM picture"),
    (b"P6", "a PPM picture"), (b"8BPS", "a Photoshop picture"),
)  # fmt: skip
_UNSUPPORTED = (
    (4, b"ftyphei", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIF picture"),
    (4, b"ftypavif", "an AVIF picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (4, b"JXL \r\n\x87\n", "a JPEG XL picture"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"<svg", "an SVG drawing"),
)
_NO_PICTURE = ((b"PK\x03\x04", "a ZIP archive"), (b"\x1f\x8b", "a gzip archive"), (b"<?xml", "an XML document"))
_SHORTEST = 64
"""Bytes below which a file with the beginning of a picture is cut short rather than of an unknown kind."""

_MODE_WORDS = {
    "1": "black and white, 1 bit", "L": "grey, 8 bit", "LA": "grey with alpha, 8 bit", "La": "grey with alpha, 8 bit",
    "P": "palette, 8 bit", "PA": "palette with alpha, 8 bit", "RGB": "RGB, 8 bit", "RGBX": "RGB, 8 bit",
    "RGBA": "RGBA, 8 bit", "RGBa": "RGBA, 8 bit", "CMYK": "CMYK", "YCbCr": "YCbCr, 8 bit", "LAB": "Lab, 8 bit",
    "HSV": "HSV, 8 bit", "F": "grey, floating point",
}  # fmt: skip


def read(data: bytes, name: object, selection: Selection) -> Raster:
    """The page of a file that ``selection`` names, the first by default. Raises ImageError, or what Pillow raises."""
    notes: list[str] = []
    source = opened(data, name)
    check_pixels(*source.size, name)
    pages = 1
    with suppress(Exception):  # a file may be damaged behind its first frame
        pages = max(1, int(getattr(source, "n_frames", 1)))
    if source.format in ("PSD", "MPO"):  # layers of one picture; a thumbnail or the view of the other eye
        pages = 1
    page = chosen_page(selection, [1] * pages, name, notes)
    source.seek(page) if pages > 1 else None
    check_pixels(*source.size, name)
    source.load()
    raster = raster_of(source)
    choose(raster, selection, name)
    raster.pages, raster.page = pages, page + 1
    raster.notes[:0] = notes
    return raster


def opened(data: bytes, name: object) -> Picture:
    """The picture with its header read. Raises ImageError if Pillow cannot tell what it is."""
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    pillow.init()
    try:
        return pillow.open(BytesIO(data), formats=[known for known in _FORMATS if known in pillow.OPEN])
    except UnidentifiedImageError as error:
        raise not_a_picture(data, name) from error


def raster_of(source: Picture) -> Raster:
    """All channels of a picture that Pillow has loaded."""
    mode = _MODE_WORDS.get(source.mode, source.mode)
    icc, orientation = source.info.get("icc_profile"), orientation_of(source)
    if source.mode == "F" or source.mode.startswith("I"):
        values = np.asarray(source)
        bits = 8 * values.dtype.itemsize
        if source.mode.startswith("I") and source.format in ("PNG", "PPM", "JPEG2000"):
            bits, values = 16, values.astype(np.uint16)  # some Pillows widen these to 32
        mode = mode_in_words(1, values.dtype, bits)
        return Raster(values[..., None], GREY, mode, bits, icc=icc, orientation=orientation)
    alpha = None
    picture = source
    if source.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in source.info:
        picture = source.convert("RGBA")
        alpha = np.asarray(picture.getchannel("A"))
        picture = picture.convert("L" if source.mode in ("LA", "La", "L") else "RGB")
    elif source.mode == "1":
        picture = source.convert("L")
    elif source.mode not in ("L", "RGB", "CMYK", "LAB"):
        picture = source.convert("RGB")
    model = {"L": GREY, "RGB": RGB, "CMYK": CMYK, "LAB": LAB}[picture.mode]
    values = np.asarray(picture)
    values = with_channels(values)
    channels = values.shape[2] + (alpha is not None)
    return Raster(values, model, mode, 8, alpha, icc=icc, orientation=orientation, channels=channels)


def choose(raster: Raster, selection: Selection, name: object) -> None:
    """Leave the chosen channels in a raster that has all of them; alpha is the last one."""
    colours = raster.values.shape[2]
    raster.channels = colours + (raster.alpha is not None)
    if not selection.channels:
        return
    shown = chosen_channels(selection, (), raster.channels, name)
    alpha = None if raster.alpha is None or colours in shown else colours
    every = raster.values if raster.alpha is None else np.dstack([raster.values, raster.alpha])
    raster.values, raster.model = np.ascontiguousarray(every[..., shown]), GREY if len(shown) == 1 else RGB
    raster.alpha = raster.alpha if alpha is not None else None
    raster.icc = raster.curve = None  # they explain the colours that the channels had together
    say_channels(raster, shown, alpha, raster.channels)


def orientation_of(source: Picture) -> int:
    """EXIF orientation, 1 if there is none."""
    with suppress(Exception):  # EXIF data are often broken; the picture is good all the same
        return int(source.getexif().get(0x0112, 1))
    return 1


def not_a_picture(data: bytes, name: object) -> ImageError:
    """The error for bytes that no reader can read."""
    for offset, magic, words in _UNSUPPORTED:
        if data[offset:].startswith(magic):
            return cannot_open(
                name, f"it holds {words}, which this program does not read", "save it as PNG or JPEG first"
            )
    kind = next((words for magic, words in _READABLE if data.startswith(magic)), None)
    if kind is not None and len(data) < _SHORTEST:
        return cannot_open(name, "its header is damaged or cut short", "copy or download it again")
    if kind is not None:
        why = f"it begins like {kind}, but its header is damaged or of a kind that is not read here"
        return cannot_open(name, why, "save it as PNG or JPEG first, or download it again")
    held = next((words for magic, words in _NO_PICTURE if data.startswith(magic)), None)
    if held is None:
        with suppress(UnicodeDecodeError):
            beginning = codecs.getincrementaldecoder("utf-8")().decode(data[:4096])
            held = None if "\0" in beginning else "text"
    return cannot_open(
        name, f"it holds {held or 'no picture of a known format'}", "choose a picture such as a PNG or JPEG file"
    )
