"""Pictures that their EXIF data turn, beside labels or depths that have no such data.

A picture is shown upright, but its targets may have been made on the pixels as they are stored.
"""

from __future__ import annotations

import dataclasses
import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from featup_app.base.errors import EvaluationError
from featup_app.images import Image

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
"""Orientations that exchange height and width."""


def as_targets(image: Image, image_path: Path, target_path: Path) -> Image:
    """The picture as the pixels of its targets lie: upright, or turned back to how it is stored.

    Args:
        image: the picture, upright.
        image_path, target_path: files of the picture and of its labels or depths.

    Raises:
        EvaluationError: if the sizes do not show which of both the targets are.
    """
    orientation = _orientation(image_path)
    if not 2 <= orientation <= 8:
        return image
    size_hw = _size(target_path)
    height, width = image.size_hw
    if orientation in _SIDEWAYS and height != width:
        return image if size_hw != (width, height) else _turned_back(image, orientation)
    raise EvaluationError(
        f'The picture "{image_path}" is turned by its EXIF orientation ({orientation}), and the size of "{target_path.name}" '
        "does not show whether it is turned too; save the picture upright, without that orientation."
    )


def _orientation(path: Path) -> int:
    """The EXIF orientation of a picture file; 1 if it has none."""
    from PIL import Image as pillow

    with suppress(Exception), pillow.open(path) as picture:  # what cannot be read is reported where it is decoded
        return int(picture.getexif().get(_ORIENTATION, 1))
    return 1


def _size(path: Path) -> tuple[int, int] | None:
    """(height, width) of the pixels of a target file; None if it cannot be read, which is reported where it is decoded."""
    from PIL import Image as pillow

    with suppress(Exception), pillow.open(path) as picture:
        picture.load()
        return picture.height, picture.width
    return None


def _turned_back(image: Image, orientation: int) -> Image:
    """The pixels as they are stored, with a hash of their own."""
    pixels = image.pixels
    pixels = {
        5: lambda: pixels.swapaxes(0, 1),
        6: lambda: np.rot90(pixels),
        7: lambda: np.rot90(pixels, 2).swapaxes(0, 1),
        8: lambda: np.rot90(pixels, -1),
    }[orientation]()
    pixels = np.ascontiguousarray(pixels)
    pixels.setflags(write=False)
    digest = hashlib.sha256(f"{image.sha256} as stored".encode()).hexdigest()
    return dataclasses.replace(image, pixels=pixels, sha256=digest, notes=(*image.notes, "Turned back for its labels."))
