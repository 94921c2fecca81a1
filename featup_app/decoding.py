"""Decoding pictures: the bytes of a file, or an array, to 8 bit RGB pixels, upright and in sRGB.

Pillow decodes; OpenCV reads what Pillow would reduce to fewer bits. Notes list what was done to the picture.
"""

from __future__ import annotations

import codecs
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featup_app.base.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 400_000_000
"""Pixels beyond which a picture is refused: its RGB bytes alone would take more than a gigabyte."""

_FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "ICO", "ICNS", "PSD", "PCX", "SGI",
    "DDS", "QOI", "TGA",
)  # fmt: skip
"""Formats that Pillow may try: pictures only, no format that runs another program (EPS) or is a stub."""

_READABLE = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"P4", b"P5", b"P6", b"8BPS")
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

_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF orientation -> PIL.Image.Transpose that undoes it."""

_MODE_WORDS = {
    "1": "black and white, 1 bit", "L": "grey, 8 bit", "LA": "grey with alpha, 8 bit", "La": "grey with alpha, 8 bit",
    "P": "palette, 8 bit", "PA": "palette with alpha, 8 bit", "RGB": "RGB, 8 bit", "RGBX": "RGB, 8 bit",
    "RGBA": "RGBA, 8 bit", "RGBa": "RGBA, 8 bit", "CMYK": "CMYK", "YCbCr": "YCbCr, 8 bit", "LAB": "Lab, 8 bit",
    "HSV": "HSV, 8 bit", "F": "grey, floating point",
}  # fmt: skip

_pillow_lock = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # people get its errors as ImageError, not as log lines


def cannot_open(name: object, why: str, what_to_do: str) -> ImageError:
    """The error for a picture that cannot be opened."""
    return ImageError(f'Cannot open "{name}": {why}; {what_to_do}.')


def check_pixels(width: int, height: int, name: object) -> None:
    """Raises ImageError for more than :data:`MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 1_000_000} million"
        raise cannot_open(
            name, f"it has {width:,} x {height:,} pixels, more than the limit of {limit}", "make it smaller"
        )


def decode(data: bytes, name: object) -> tuple[Pixels, str, tuple[str, ...]]:
    """RGB pixels, mode in words and notes of a file's bytes. Raises ImageError, and nothing else, for any bytes."""
    if not data:
        raise cannot_open(name, "it is empty (0 bytes)", "copy or download it again")
    notes: list[str] = []
    try:
        with _quiet_decoders():
            pixels, mode = _decode_quietly(data, name, notes)
    except ImageError:
        raise
    except MemoryError as error:
        raise cannot_open(name, "it does not fit into memory", "make it smaller, or close other programs") from error
    except Exception as error:
        if type(error).__name__ == "DecompressionBombError":
            limit = f"{MAX_PIXELS // 1_000_000} million"
            raise cannot_open(name, f"it has more pixels than the limit of {limit}", "make it smaller") from error
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise cannot_open(name, f"it is damaged or cut short ({reason})", "copy or download it again") from error
    return pixels, mode, tuple(notes)


@contextmanager
def _quiet_decoders() -> Iterator[None]:
    """Sets our pixel limit instead of Pillow's and silences stderr. These settings are global, so they are restored."""
    import cv2
    from PIL import Image as pillow

    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, level = pillow.MAX_IMAGE_PIXELS, cv2.utils.logging.getLogLevel()
        pillow.MAX_IMAGE_PIXELS = MAX_PIXELS
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            pillow.MAX_IMAGE_PIXELS = limit
            cv2.utils.logging.setLogLevel(level)


def _decode_quietly(data: bytes, name: object, notes: list[str]) -> tuple[Pixels, str]:
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    pillow.init()
    try:
        source = pillow.open(BytesIO(data), formats=[known for known in _FORMATS if known in pillow.OPEN])
    except UnidentifiedImageError as error:
        values = _decode_with_cv2(data) if data[:4] in (b"II*\0", b"MM\0*") else None
        if values is None:
            raise _not_a_picture(data, name) from error
        check_pixels(values.shape[1], values.shape[0], name)
        return to_rgb(picture_of(values, notes), None, notes), mode_in_words(values)
    check_pixels(*source.size, name)

    turned = _orientation(source) if source.format == "TIFF" else 1  # Pillow turns these upright while loading
    deep = source.format in ("PNG", "TIFF") and ";16" in repr(source.tile) and source.mode in ("RGB", "RGBA", "LA")
    source.load()
    values = _decode_with_cv2(data) if deep else None
    if values is not None and values.dtype == np.uint16 and values.shape[:2] == (source.height, source.width):
        picture, mode = picture_of(values, notes), mode_in_words(values)
    elif source.mode == "F" or source.mode.startswith("I"):
        values = np.asarray(source)
        picture, mode = picture_of(values, notes), mode_in_words(values)
        if source.format in ("PNG", "PPM"):
            mode = "grey, 16 bit"  # some Pillows widen these to 32
    else:
        picture, mode = source, _MODE_WORDS.get(source.mode, source.mode)
    orientation = _orientation(source)
    if orientation in _UPRIGHT:
        picture = picture.transpose(pillow.Transpose(_UPRIGHT[orientation]))
    if {orientation, turned} & set(_UPRIGHT):
        notes.append(f"Turned upright as its EXIF orientation ({max(orientation, turned)}) says.")
    pixels = to_rgb(picture, source.info.get("icc_profile"), notes)
    with suppress(Exception):  # a file may be damaged behind its first frame
        frames = int(getattr(source, "n_frames", 1))
        if frames > 1 and source.format != "PSD":  # there they are layers
            notes.append(f"The file holds {frames} frames; this is the first.")
    return pixels, mode


def _orientation(source: Picture) -> int:
    with suppress(Exception):  # EXIF data are often broken; the picture is good all the same
        return int(source.getexif().get(0x0112, 1))
    return 1


def _decode_with_cv2(data: bytes) -> npt.NDArray[Any] | None:
    """(H, W), (H, W, 3) or (H, W, 4) as the file has it, RGB(A); None where OpenCV cannot read it either."""
    import cv2

    if data.startswith(b"\x89PNG"):
        data = _bare_png(data)
    try:
        values: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if values is None or values.dtype.kind not in "uif" or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        return None
    return values if values.ndim == 2 or values.shape[2] == 1 else values[..., [2, 1, 0, 3][: values.shape[2]]]


def _bare_png(data: bytes) -> bytes:
    """A PNG without its ancillary chunks, about which OpenCV's libpng prints warnings that no setting silences."""
    kept, start = [data[:8]], 8
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def mode_in_words(values: npt.NDArray[Any]) -> str:
    """Such as "RGB, 8 bit", for (H, W[, 1 | 3 | 4]) values."""
    colours = {3: "RGB", 4: "RGBA"}.get(values.shape[2] if values.ndim == 3 else 1, "grey")
    bits = 1 if values.dtype == np.bool_ else 8 * values.dtype.itemsize
    return f"{colours}, {'floating point' if values.dtype.kind == 'f' else f'{bits} bit'}"


def picture_of(values: npt.NDArray[Any], notes: list[str]) -> Picture:
    """A Pillow picture (L, RGB or RGBA) of (H, W[, 1 | 3 | 4]) values of any type."""
    from PIL import Image as pillow

    if values.ndim == 3 and values.shape[2] == 4:
        unnoted: list[str] = []  # alpha keeps its full range, and one note about the depth is enough
        alpha = values[..., 3]
        if alpha.dtype.kind == "u" and alpha.dtype.itemsize == 2:
            alpha = ((alpha.astype(np.uint32) + 128) // 257).astype(np.uint8)
        colours = _eight_bit(values[..., :3], notes)
        return pillow.fromarray(np.dstack([colours, _eight_bit(alpha, unnoted)]))
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    return pillow.fromarray(np.ascontiguousarray(_eight_bit(values, notes)))


def _eight_bit(values: npt.NDArray[Any], notes: list[str]) -> Pixels:
    """Values of any type as uint8: types with a natural white keep it, all others are scaled to their own range."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():
            notes.append("Values that are infinite or not a number are taken as 0.")
            values = np.where(finite, values, 0)
        values = np.clip(values, -1e300, 1e300) if values.dtype.itemsize > 4 else values
    low, high = values.min().item(), values.max().item()
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
        notes.append("Floating point values from 0 to 1 scaled to 8 bit.")
    elif values.dtype.kind == "f" or low < 0 or high > 65535:
        notes.append(f"Values from {low:g} to {high:g} scaled to 8 bit, the lowest to black and the highest to white.")
    elif high >= 4096:
        low, high = 0, 65535
        notes.append("16 bit scaled to 8 bit.")
    else:
        low = 0
        notes.append(f"16 bit scaled to 8 bit; the values reach only {high}, which is shown as white.")
    result = np.empty(values.shape, np.uint8)
    for row in range(0, values.shape[0], 256):  # in blocks: float64 of the whole would take eight times the memory
        block = values[row : row + 256].astype(np.float64)
        result[row : row + 256] = np.rint((block - low) / ((high - low) or 1) * 255)
    return result


def to_rgb(picture: Picture, icc: bytes | None, notes: list[str]) -> Pixels:
    """(H, W, 3) uint8 sRGB of an 8 bit Pillow picture, put over white if it is transparent."""
    from PIL import Image as pillow

    alpha = None
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
        picture = picture.convert("RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    picture = _to_srgb(picture, icc, notes)
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append("Transparent parts are shown over white.")
        white = pillow.new("RGB", picture.size, "white")
        white.paste(picture, mask=alpha)
        picture = white
    if picture.mode != "L":
        return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    pixels[:] = np.asarray(picture)[:, :, None]
    return pixels


def _to_srgb(picture: Picture, icc: bytes | None, notes: list[str]) -> Picture:
    """Colours through the file's ICC profile where there is a usable one; the picture as it is otherwise."""
    from PIL import ImageCms

    with suppress(Exception):  # a broken profile, or a Pillow without colour management: the colours as they are
        if picture.mode == "LAB":
            lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB") or picture
        if icc:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
            name = " ".join(ImageCms.getProfileDescription(profile).split())
            space = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}.get(picture.mode)
            if space == profile.profile.xcolor_space.strip() and not name.lower().startswith("srgb"):
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(picture, profile, srgb, outputMode="RGB")
                notes.append(f'Colours converted from the profile "{name}" to sRGB.')
                return converted or picture
    return picture


def _not_a_picture(data: bytes, name: object) -> ImageError:
    """The error for bytes that no decoder can read."""
    for offset, magic, words in _UNSUPPORTED:
        if data[offset:].startswith(magic):
            return cannot_open(
                name, f"it holds {words}, which this program does not read", "save it as PNG or JPEG first"
            )
    if data.startswith(_READABLE):
        return cannot_open(name, "its header is damaged or cut short", "copy or download it again")
    held = next((words for magic, words in _NO_PICTURE if data.startswith(magic)), None)
    if held is None:
        with suppress(UnicodeDecodeError):
            beginning = codecs.getincrementaldecoder("utf-8")().decode(data[:4096])
            held = None if "\0" in beginning else "text"
    return cannot_open(
        name, f"it holds {held or 'no picture of a known format'}", "choose a picture such as a PNG or JPEG file"
    )
