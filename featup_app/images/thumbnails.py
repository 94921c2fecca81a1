"""Small copies of pictures for lists of many: of a JPEG file decoded at a reduced size, of any other reduced after decoding."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from featup_app.images import failures, pillow_formats
from featup_app.images.decoding import decode, finish, quiet_decoders, reader_of
from featup_app.images.failures import check_pixels
from featup_app.images.image import read_bytes, resized
from featup_app.images.raster import Pixels
from featup_app.images.selection import Selection, split_name

MOST_PIXELS = 40_000_000
"""Pixels beyond which a picture that has to be decoded as a whole gets no thumbnail: it would take seconds."""

MOST_BYTES = 500_000_000
"""Bytes beyond which a file is not read for a thumbnail."""


def thumbnail(path: str | Path, side: int) -> Pixels | None:
    """A small copy of a picture, in the colours in which it opens.

    Args:
        path: the file, as of :func:`~featup_app.images.load_image`.
        side: pixels of the longer side, at least 1; smaller pictures keep their size.

    Returns:
        (H, W, 3) uint8 RGB, upright; None if the file is so large that this would take seconds.

    Raises:
        ImageError: if the picture cannot be opened; the sentence is that of ``load_image`` for all but the largest files.
    """
    file, selection = split_name(path)
    with suppress(OSError, ValueError):  # reading it says why
        if file.stat().st_size > MOST_BYTES:
            return None
    data = read_bytes(file)
    pixels = None if selection or not data else _reduced(data, file, side)
    if pixels is None:
        if data and _takes_seconds(data, file):
            return None
        pixels = decode(data, file, selection).pixels
    shrink = min(1.0, side / max(pixels.shape[:2]))
    return resized(pixels, (max(1, round(shrink * pixels.shape[0])), max(1, round(shrink * pixels.shape[1]))))


def _reduced(data: bytes, name: Path, side: int) -> Pixels | None:
    """A JPEG file decoded at the smallest size from ``side`` on; None where it has to be decoded as a whole to know."""
    if reader_of(data) != "jpeg":
        return None
    try:
        with quiet_decoders():
            source = pillow_formats.opened(data, name)
            check_pixels(*source.size, name)
            source.draft(None, (side, side))
            source.load()
            return finish(pillow_formats.raster_of(source), Selection(), name).pixels
    except Exception:  # noqa: BLE001 - decoding it as a whole says what is wrong with it, if anything is
        return None


def _takes_seconds(data: bytes, name: Path) -> bool:
    """Whether a file holds more than :data:`MOST_PIXELS` and would be decoded, as far as its header says."""
    try:
        with quiet_decoders():
            width, height = pillow_formats.opened(data, name).size
    except Exception:  # noqa: BLE001 - as above
        return False
    return MOST_PIXELS < width * height <= failures.MAX_PIXELS
