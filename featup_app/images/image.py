"""Pictures: from a file, pasted bytes or an array to 8 bit RGB pixels, upright and in sRGB.

An :class:`Image` is the only form in which a picture travels through the program: (H, W, 3) uint8, x to the right, y
down, the centre of the top left pixel at (0.5, 0.5). Its ``notes`` list what was done to get there (turned upright,
scaled from 16 bit, put over white ...); see :mod:`featup_app.images.decoding`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featup_app.base.resources import resource
from featup_app.images.decoding import Decoded, decode, finish
from featup_app.images.failures import cannot_open, check_pixels
from featup_app.images.raster import GREY, RGB, Mask, Pixels, Raster, mode_in_words, with_channels
from featup_app.images.selection import Selection, split_name

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tga", ".ico", ".psd",
)  # fmt: skip
"""Lower-case suffixes that open dialogs and drag-and-drop offer. The content of a file decides whether it can be read."""


_PLAIN = Selection()


@dataclass(frozen=True, eq=False)
class Image:
    """A picture, decoded.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright, C-contiguous and read-only.
        name: file name, or a name such as "pasted image" if there is no file.
        path: the file, as it was given; None if there is none.
        sha256: of the file's bytes, and of ``selection`` if anything is chosen there; of shape and pixels of an array.
        mode: the pixel format of the file in words: "RGB, 8 bit", "grey, 16 bit", "CMYK".
        notes: sentences about the changes from the file to ``pixels``.
        selection: page, channels and range that were chosen.
        missing: (H, W) bool, True where the file has no data; None if it has them everywhere. ``pixels`` have the mean
            colour of the others there.
        pages, page: how many pages the file holds, and which this is, from 1.
        channels, left_out: how many channels the page has, and how many of them are not seen.
        deep: whether samples have more than 8 bits, so that a range of values was chosen.
        orientation: the EXIF orientation of the file, from which ``pixels`` were turned upright; 1 for none.
    """

    pixels: Pixels
    name: str
    path: Path | None
    sha256: str
    mode: str
    notes: tuple[str, ...] = ()
    selection: Selection = _PLAIN
    missing: Mask | None = None
    pages: int = 1
    page: int = 1
    channels: int = 3
    left_out: int = 0
    deep: bool = False
    orientation: int = 1

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
    def is_partial(self) -> bool:
        """Whether the file holds more than is seen: other pages or channels, or pixels without data."""
        return self.pages > 1 or self.left_out > 0 or self.missing is not None

    @property
    def is_sample(self) -> bool:
        """Whether the picture ships with the program."""
        return self.path is not None and self.path.resolve().parent == resource("images").resolve()

    @property
    def own_folder(self) -> Path | None:
        """The folder of the person's own picture file; None for a sample, and if there is no file."""
        return None if self.path is None or self.is_sample else self.path.parent


def load_image(path: str | Path, selection: Selection | None = None) -> Image:
    """Open a picture file: any bit depth, colour model and orientation.

    Args:
        path: the file; ``photo.tif#page=3`` chooses a page, see :mod:`featup_app.images.selection`.
        selection: what is read of the file, where ``path`` leaves it open. By default the largest page, the first one or
            three channels, and the range of nearly all values.

    Raises:
        ImageError: if the file is missing, not readable, no picture, damaged or larger than ``MAX_PIXELS``, or has no such
            page or channel.
    """
    path, named = split_name(path)
    selection = named.over(selection or Selection())
    data = read_bytes(path)
    return _image(decode(data, path, selection), data, path.name, path, selection)


def read_bytes(path: Path) -> bytes:
    """The bytes of a picture file. Raises ImageError if it is missing or cannot be read."""
    try:
        if path.is_dir():
            raise cannot_open(path, "it is a folder", "choose a picture file inside it")
        if path.exists() and not path.is_file():
            raise cannot_open(path, "it is a device or a pipe, not a file", "save the picture as a file first")
        return path.read_bytes()
    except FileNotFoundError as error:
        if path.is_symlink():
            where = f'it is a link to "{os.readlink(path)}", which is not there'
            raise cannot_open(path, where, "check where that file is") from error
        raise cannot_open(path, "there is no such file", "check the name and the folder") from error
    except PermissionError as error:
        raise cannot_open(
            path, "you have no permission to read it", "change its permissions or copy it elsewhere"
        ) from error
    except (OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it does not fit into memory"
        raise cannot_open(path, f"reading failed ({reason})", "check the name and the disk") from error


def image_from_bytes(data: bytes, *, name: str = "pasted image", selection: Selection | None = None) -> Image:
    """Decode the bytes of a picture file, as pasted or dropped; otherwise like :func:`load_image`."""
    selection = selection or Selection()
    return _image(decode(data, name, selection), data, name, None, selection)


def _image(decoded: Decoded, data: bytes, name: str, path: Path | None, selection: Selection) -> Image:
    digest = hashlib.sha256(data)
    if selection:
        digest.update(f"#{selection}".encode())
    return Image(**vars(decoded), name=name, path=path, sha256=digest.hexdigest(), selection=selection)


def image_from_array(pixels: npt.NDArray[Any], *, name: str = "array") -> Image:
    """Make an Image of an array, which is copied.

    Args:
        pixels: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA; uint8, uint16, bool, or floating point in [0, 1].
        name: of the image.

    Raises:
        ImageError: for any other shape, type or range of values, and beyond ``MAX_PIXELS``.
    """
    try:
        values = np.asarray(pixels)
    except (ValueError, TypeError, RuntimeError) as error:
        raise cannot_open(name, f"it is no array ({error})", "pass a NumPy array") from error
    if values.size == 0 or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        raise cannot_open(name, f"its shape is {values.shape}", "pass (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    check_pixels(values.shape[1], values.shape[0], name)
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise cannot_open(
                name, f"its values lie between {low:g} and {high:g}", "floating point values must be from 0 to 1"
            )
        values = np.clip(values, 0, 1)
    elif values.dtype.kind not in "bu" or values.dtype.itemsize > 2:
        raise cannot_open(name, f"its values are {values.dtype}", "pass uint8, uint16, bool or floating point values")
    values = with_channels(values)
    colours = np.array(values[..., :3], dtype=values.dtype.newbyteorder("="), order="C")
    alpha = values[..., 3].astype(colours.dtype) if values.shape[2] == 4 else None
    bits = 8 * colours.dtype.itemsize
    mode = mode_in_words(colours.shape[2], colours.dtype, alpha=alpha is not None)
    model, natural = GREY if colours.shape[2] == 1 else RGB, colours.dtype.kind == "f"
    decoded = finish(Raster(colours, model, mode, bits, alpha, natural=natural), Selection(), name)
    rgb = decoded.pixels
    digest = hashlib.sha256(f"{rgb.shape[0]}x{rgb.shape[1]}x3:".encode())
    digest.update(rgb.reshape(-1).data)
    return Image(rgb, name, None, digest.hexdigest(), mode, decoded.notes, channels=values.shape[2])


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


def visible_pictures(folder: Path) -> list[Path]:
    """The pictures of an existing folder, by their suffixes, in the order of their names; maybe none.

    Hidden files and what lies in folders inside are left out.

    Raises:
        OSError: if the folder cannot be read.
    """
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def sample_images() -> list[Path]:
    """The photos that ship with the program: a cat, a cup of coffee, an astronaut.

    Raises:
        FileNotFoundError: if the installation lacks one.
    """
    return [resource("images", f"{name}.jpg") for name in ("cat", "coffee", "astronaut")]


def first_sample() -> Path:
    """The photo that the window shows when no other is given. Raises FileNotFoundError if the installation lacks it."""
    return sample_images()[1]
