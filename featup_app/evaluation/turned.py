"""Pictures that their EXIF data turn, beside labels or depths that have no such data.

A picture is shown upright, but its targets may have been made on the pixels as they are stored.
"""

from __future__ import annotations

import dataclasses
import hashlib
from contextlib import suppress
from pathlib import Path

from featup_app.base.errors import EvaluationError
from featup_app.images import Image, stored_values
from featup_app.images.decoding import turned_back

_SIDEWAYS = (5, 6, 7, 8)
"""Orientations that exchange height and width."""


def as_targets(image: Image, target_path: Path) -> Image:
    """The picture as the pixels of its targets lie: upright, or turned back to how it is stored.

    Args:
        image: the picture, upright.
        target_path: file of its labels or depths.

    Raises:
        EvaluationError: if the sizes do not show which of both the targets are.
    """
    if image.orientation == 1:
        return image
    height, width = image.size_hw
    if image.orientation not in _SIDEWAYS or height == width:
        raise EvaluationError(
            f'The picture "{image.path}" is turned by its EXIF orientation ({image.orientation}), and the size of '
            f'"{target_path.name}" does not show whether it is turned too; save the picture upright, without that orientation.'
        )
    size_hw = image.size_hw
    with suppress(Exception):  # what cannot be read is reported where its values are needed
        size_hw = stored_values(target_path).shape[:2]
    return _as_stored(image) if size_hw == (width, height) else image


def _as_stored(image: Image) -> Image:
    """The picture as it lies in its file, with a hash of its own."""
    return dataclasses.replace(
        image,
        pixels=turned_back(image.pixels, image.orientation),
        missing=None if image.missing is None else turned_back(image.missing, image.orientation),
        sha256=hashlib.sha256(f"{image.sha256} as stored".encode()).hexdigest(),
        notes=(*image.notes, "Turned back for its labels."),
        orientation=1,
    )
