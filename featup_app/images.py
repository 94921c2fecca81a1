"""Pictures: from a file, pasted bytes or an array to 8 bit RGB pixels, upright and in sRGB.

An :class:`Image` is the only form in which a picture travels through the program: (H, W, 3) uint8, x to the right, y
down, the centre of the top left pixel at (0.5, 0.5). Whatever had to be done to get there (turned upright, scaled from
16 bit, put over white ...) is said in its ``notes``. Pillow decodes; OpenCV is asked where Pillow would drop bits.
"""

from __future__ import annotations

import codecs
import hashlib
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featup_app.base.errors import ImageError
from featup_app.base.resources import resource

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 400_000_000
"""Pixels beyond which a picture is refused: its RGB bytes alone would take more than a gigabyte."""

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tga", ".ico", ".psd",
)  # fmt: skip
"""Lower-case suffixes that open dialogs and drag-and-drop offer. What a file holds decides, not its name."""

_FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "ICO", "ICNS", "PSD", "PCX", "SGI",
    "DDS", "QOI", "TGA",
)  # fmt: skip
"""What Pillow may try: pictures only, nothing that runs another program (EPS) or is a stub."""

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
logging.getLogger("PIL").addHandler(logging.NullHandler())  # its errors reach people as ImageError, not as log lines


@dataclass(frozen=True, eq=False)
class Image:
    """A picture, decoded.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright, C-contiguous and read-only.
        name: file name, or what the picture is called if there is no file ("pasted image").
        path: the file as it was asked for; None if there is none.
        sha256: of the file's bytes; of shape and pixels if there is no file.
        mode: what the file held, in words: "RGB, 8 bit", "grey, 16 bit", "CMYK".
        notes: sentences about what was done to the picture on the way to ``pixels``.
    """

    pixels: Pixels
    name: str
    path: Path | None
    sha256: str
    mode: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise ValueError(f"Image.pixels is {pixels.dtype} of shape {pixels.shape}; expected uint8, (H, W, 3)")
        pixels = np.ascontiguousarray(pixels).view()
        pixels.setflags(write=False)
        object.__setattr__(self, "pixels", pixels)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    @property
    def is_sample(self) -> bool:
        """Whether the picture ships with the program."""
        return self.path is not None and self.path.resolve().parent == resource("images").resolve()

    @property
    def own_folder(self) -> Path | None:
        """The folder of the person's own picture file; None for a sample, and if there is no file."""
        return None if self.path is None or self.is_sample else self.path.parent


def load_image(path: str | Path) -> Image:
    """Open a picture file: any bit depth, colour model and orientation, the first frame if there are several.

    Returns:
        The :class:`Image`; its ``sha256`` is that of the file.

    Raises:
        ImageError: if the file is missing, not readable, no picture, damaged or larger than ``MAX_PIXELS``.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise _cannot(path, "it is a folder", "choose a picture file inside it")
        if path.exists() and not path.is_file():
            raise _cannot(path, "it is a device or a pipe, not a file", "save the picture as a file first")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise _cannot(path, "there is no such file", "check the name and the folder") from error
    except PermissionError as error:
        raise _cannot(
            path, "you have no permission to read it", "change its permissions or copy it elsewhere"
        ) from error
    except (OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it does not fit into memory"
        raise _cannot(path, f"reading failed ({reason})", "check the name and the disk") from error
    pixels, mode, notes = _decode(data, path)
    return Image(pixels, path.name, path, hashlib.sha256(data).hexdigest(), mode, notes)


def image_from_bytes(data: bytes, *, name: str = "pasted image") -> Image:
    """Decode the bytes of a picture file, as pasted or dropped; otherwise like :func:`load_image`."""
    pixels, mode, notes = _decode(data, name)
    return Image(pixels, name, None, hashlib.sha256(data).hexdigest(), mode, notes)


def image_from_array(pixels: npt.NDArray[Any], *, name: str = "array") -> Image:
    """Make an Image of an array, which is copied.

    Args:
        pixels: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA; uint8, uint16, bool, or floating point in [0, 1].
        name: what to call it.

    Raises:
        ImageError: for any other shape, type or range of values, and beyond ``MAX_PIXELS``.
    """
    try:
        values = np.asarray(pixels)
    except (ValueError, TypeError, RuntimeError) as error:
        raise _cannot(name, f"it is no array ({error})", "pass a NumPy array") from error
    if values.size == 0 or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        raise _cannot(name, f"its shape is {values.shape}", "pass (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    _check_pixels(values.shape[1], values.shape[0], name)
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise _cannot(
                name, f"its values lie between {low:g} and {high:g}", "floating point values must be from 0 to 1"
            )
        values = np.clip(values, 0, 1)
    elif values.dtype.kind not in "bu" or values.dtype.itemsize > 2:
        raise _cannot(name, f"its values are {values.dtype}", "pass uint8, uint16, bool or floating point values")
    notes: list[str] = []
    rgb = _to_rgb(_from_values(values, notes), None, notes)
    digest = hashlib.sha256(f"{rgb.shape[0]}x{rgb.shape[1]}x3:".encode())
    digest.update(rgb.reshape(-1).data)
    return Image(rgb, name, None, digest.hexdigest(), _words_of(values), tuple(notes))


def resized(image_pixels: Pixels, size_hw: tuple[int, int]) -> Pixels:
    """Resize pixels for display: every axis that shrinks is averaged over area, every axis that grows is bicubic.

    Args:
        image_pixels: (H, W, 3) or (H, W) uint8.
        size_hw: height and width wanted, at least 1 each.

    Returns:
        uint8 of that size; the array itself, not a copy, if it has that size already.
    """
    import cv2

    height, width = image_pixels.shape[:2]
    smaller = min(height, size_hw[0]), min(width, size_hw[1])
    if smaller != (height, width):
        image_pixels = cv2.resize(image_pixels, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != tuple(size_hw):
        image_pixels = cv2.resize(image_pixels, size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    return image_pixels


def sample_images() -> list[Path]:
    """The photos that ship with the program: a cat, a cup of coffee, an astronaut.

    Raises:
        FileNotFoundError: if the installation lacks one.
    """
    return [resource("images", f"{name}.jpg") for name in ("cat", "coffee", "astronaut")]


def _cannot(name: object, why: str, what_to_do: str) -> ImageError:
    return ImageError(f'Cannot open "{name}": {why}; {what_to_do}.')


def _check_pixels(width: int, height: int, name: object) -> None:
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 1_000_000} million"
        raise _cannot(name, f"it has {width:,} x {height:,} pixels, more than the limit of {limit}", "make it smaller")


def _decode(data: bytes, name: object) -> tuple[Pixels, str, tuple[str, ...]]:
    """RGB pixels, mode in words and notes of a file's bytes. Raises ImageError, and nothing else, for any bytes."""
    if not data:
        raise _cannot(name, "it is empty (0 bytes)", "copy or download it again")
    notes: list[str] = []
    try:
        with _quiet_decoders():
            pixels, mode = _decode_quietly(data, name, notes)
    except ImageError:
        raise
    except MemoryError as error:
        raise _cannot(name, "it does not fit into memory", "make it smaller, or close other programs") from error
    except Exception as error:
        if type(error).__name__ == "DecompressionBombError":
            limit = f"{MAX_PIXELS // 1_000_000} million"
            raise _cannot(name, f"it has more pixels than the limit of {limit}", "make it smaller") from error
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise _cannot(name, f"it is damaged or cut short ({reason})", "copy or download it again") from error
    return pixels, mode, tuple(notes)


@contextmanager
def _quiet_decoders() -> Iterator[None]:
    """Our pixel limit instead of Pillow's, and no word on stderr. These settings are global, so they are put back."""
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
        _check_pixels(values.shape[1], values.shape[0], name)
        return _to_rgb(_from_values(values, notes), None, notes), _words_of(values)
    _check_pixels(*source.size, name)

    turned = _orientation(source) if source.format == "TIFF" else 1  # Pillow turns these upright while loading
    deep = source.format in ("PNG", "TIFF") and ";16" in repr(source.tile) and source.mode in ("RGB", "RGBA", "LA")
    source.load()
    values = _decode_with_cv2(data) if deep else None
    if values is not None and values.dtype == np.uint16 and values.shape[:2] == (source.height, source.width):
        picture, mode = _from_values(values, notes), _words_of(values)
    elif source.mode == "F" or source.mode.startswith("I"):
        values = np.asarray(source)
        picture, mode = _from_values(values, notes), _words_of(values)
        if source.format in ("PNG", "PPM"):
            mode = "grey, 16 bit"  # some Pillows widen these to 32
    else:
        picture, mode = source, _MODE_WORDS.get(source.mode, source.mode)
    orientation = _orientation(source)
    if orientation in _UPRIGHT:
        picture = picture.transpose(pillow.Transpose(_UPRIGHT[orientation]))
    if {orientation, turned} & set(_UPRIGHT):
        notes.append(f"Turned upright as its EXIF orientation ({max(orientation, turned)}) says.")
    pixels = _to_rgb(picture, source.info.get("icc_profile"), notes)
    with suppress(Exception):  # counting may meet damage behind the first frame, which is no concern of ours
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
    """A PNG without its ancillary chunks, about which OpenCV's libpng would complain on stderr, past every setting."""
    kept, start = [data[:8]], 8
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def _words_of(values: npt.NDArray[Any]) -> str:
    colours = {3: "RGB", 4: "RGBA"}.get(values.shape[2] if values.ndim == 3 else 1, "grey")
    bits = 1 if values.dtype == np.bool_ else 8 * values.dtype.itemsize
    return f"{colours}, {'floating point' if values.dtype.kind == 'f' else f'{bits} bit'}"


def _from_values(values: npt.NDArray[Any], notes: list[str]) -> Picture:
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


def _to_rgb(picture: Picture, icc: bytes | None, notes: list[str]) -> Pixels:
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
    """The sentence for bytes that no decoder takes."""
    for offset, magic, words in _UNSUPPORTED:
        if data[offset:].startswith(magic):
            return _cannot(name, f"it holds {words}, which this program does not read", "save it as PNG or JPEG first")
    if data.startswith(_READABLE):
        return _cannot(name, "its header is damaged or cut short", "copy or download it again")
    held = next((words for magic, words in _NO_PICTURE if data.startswith(magic)), None)
    if held is None:
        with suppress(UnicodeDecodeError):
            beginning = codecs.getincrementaldecoder("utf-8")().decode(data[:4096])
            held = None if "\0" in beginning else "text"
    return _cannot(
        name, f"it holds {held or 'no picture of a known format'}", "choose a picture such as a PNG or JPEG file"
    )
