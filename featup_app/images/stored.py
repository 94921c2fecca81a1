"""The numbers of a file as they are stored: labels, regions and depths, of which no picture is made."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featup_app.images.decoding import reader_of
from featup_app.images.failures import NotReadError


def stored_values(path: Path) -> npt.NDArray[Any]:
    """The values of the first page of a file: (H, W), or (H, W, C) if it has channels. Indices of a palette stay indices.

    TIFF is read by tifffile, everything else by Pillow.

    Raises:
        OSError, ValueError, SyntaxError: if the file cannot be read; the message says why.
    """
    from PIL import Image as pillow

    data = path.read_bytes()
    if reader_of(data) == "tiff":
        from featup_app.images.tiff import first_samples

        try:
            values = first_samples(data)
        except NotReadError as error:
            raise ValueError(f"it holds {error}, which this program does not read") from error
        except Exception as error:  # tifffile and the codecs have exceptions of their own
            raise ValueError(str(error)) from error
        return values[..., 0] if values.shape[2] == 1 else values
    with pillow.open(BytesIO(data)) as picture:
        return np.asarray(picture)
