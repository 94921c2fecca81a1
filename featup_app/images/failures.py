"""Errors of opening pictures, and the limit of their size."""

from __future__ import annotations

from featup_app.base.errors import ImageError

MAX_PIXELS = 400_000_000
"""Pixels beyond which a picture is refused: its RGB bytes alone would take more than a gigabyte."""

_MAX_BYTES_A_PIXEL = 16
"""Bytes a pixel, on average over the largest picture, that its samples may take while it is read."""


class NotReadError(Exception):
    """The file is of a kind that is not read here; its words complete "it holds ...", such as "a 12-bit JPEG"."""


def cannot_open(name: object, why: str, what_to_do: str) -> ImageError:
    """The error for a picture that cannot be opened."""
    return ImageError(f'Cannot open "{name}": {why}; {what_to_do}.')


def check_pixels(width: int, height: int, name: object, *, sample_bytes: int = 1) -> None:
    """Raises ImageError for more than :data:`MAX_PIXELS`, or for samples of so many bytes a pixel that they take gigabytes."""
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 1_000_000} million"
        raise cannot_open(
            name, f"it has {width:,} x {height:,} pixels, more than the limit of {limit}", "make it smaller"
        )
    if width * height * sample_bytes > _MAX_BYTES_A_PIXEL * MAX_PIXELS:
        raise cannot_open(
            name,
            f"its {width:,} x {height:,} pixels of {sample_bytes} bytes take more memory than the limit",
            "make it smaller, or store fewer channels",
        )
