"""Pictures as PNG files that carry their provenance in a text chunk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featup_app.base.errors import ExportError
from featup_app.export.feature_files import read_json
from featup_app.export.provenance import SCHEMA, as_json
from featup_app.export.staging import Staging, explained

CHUNK = "featup-app"
"""Keyword of the text chunk."""


def write_picture(
    path: str | Path, pixels: NDArray[np.uint8], *, provenance: Mapping[str, Any], overwrite: bool = False
) -> Path:
    """Write a picture as PNG; the same pixels and provenance give the same bytes.

    Args:
        path: the file. Its folder is made if there is none.
        pixels: (H, W, 3) uint8 RGB, or (H, W) uint8 grey, such as a mask.
        provenance: from :func:`~featup_app.export.build_provenance`, kept as JSON in the text chunk "featup-app".
        overwrite: whether a file of that name may be replaced.

    Raises:
        ExportError: if the file is there already or cannot be written.
    """
    target = Path(path)
    with Staging(overwrite=overwrite) as files:
        stage_picture(files, target, pixels, provenance=provenance)
    return target


def stage_picture(files: Staging, target: Path, pixels: NDArray[np.uint8], *, provenance: Mapping[str, Any]) -> None:
    """:func:`write_picture` as a part of a larger export: the file gets its name when ``files`` ends."""
    from PIL import Image as pillow
    from PIL.PngImagePlugin import PngInfo

    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"pixels are {pixels.dtype} of shape {pixels.shape}; expected uint8, (H, W, 3) or (H, W)")
    part = files.add(target)
    facts = PngInfo()
    facts.add_text(CHUNK, as_json(provenance))
    with explained(target), part.open("wb") as stream:
        pillow.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", pnginfo=facts, compress_level=6)


def picture_provenance(path: str | Path) -> dict[str, Any]:
    """The facts that :func:`write_picture` put into a PNG file.

    Raises:
        ExportError: if the file is missing, damaged, or not a picture of this program.
    """
    from PIL import Image as pillow

    path = Path(path)
    try:
        with pillow.open(path, formats=["PNG"]) as picture:
            picture.load()
            text = picture.info.get(CHUNK)
        facts = read_json(text) if isinstance(text, str) else {}
    except FileNotFoundError as error:
        raise ExportError(f'Cannot read "{path}": there is no such file.') from error
    except Exception as error:  # a damaged file breaks the readers of the picture and of its text in any way
        raise ExportError(f'Cannot read "{path}": it is damaged or not a PNG picture.') from error
    if facts.get("schema") != SCHEMA:
        raise ExportError(f'Cannot read "{path}": it is not a picture that featup-app wrote.')
    return facts
