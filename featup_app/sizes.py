"""Sizes as a person types them, turned into (height, width).

One grammar for input and output, for the command line and the window:

* ``"480x640"``: height x width;
* ``"448"``: the shorter side, the aspect ratio kept;
* ``"16x"``: times the feature grid (output only); ``"grid"`` is the same as ``"1x"``;
* ``"image"``: the size of the original image.
"""

from __future__ import annotations

import math
import re

from featup_app.base.errors import SizeError
from featup_app.features import Size

MAX_SIDE = 32768
MAX_INPUT_POSITIONS = 20_000
"""Grid cells beyond which a backbone's attention would need more memory than an ordinary computer has."""

_HELP = (
    'Write HEIGHTxWIDTH (480x640), one number for the shorter side (448), "16x" for times the feature grid, or "image".'
)


def _numbers(text: str) -> Size | int | None:
    match = re.fullmatch(r"(\d{1,7})(?:\s*[xX×]\s*(\d{1,7}))?", text)
    if match is None:
        return None
    first = int(match.group(1))
    return first if match.group(2) is None else (first, int(match.group(2)))


def _shorter_side(side: int, image_hw: Size) -> Size:
    """The size with this shorter side and the image's aspect; a side of zero stays zero, for the caller to refuse."""
    if side < 1:
        return 0, 0
    scale = side / min(image_hw)
    return max(1, round(image_hw[0] * scale)), max(1, round(image_hw[1] * scale))


def _pair(size: tuple[object, ...], what: str) -> Size:
    try:
        height, width = (int(side) for side in size)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError) as error:
        raise SizeError(
            f"The {what} size {size} is no pair of numbers; write (height, width), such as (448, 602)."
        ) from error
    return height, width


def _checked(size: Size, text: object, what: str) -> Size:
    if min(size) < 1:
        raise SizeError(f'The {what} size "{text}" has a side of zero pixels. {_HELP}')
    if max(size) > MAX_SIDE:
        raise SizeError(
            f'The {what} size "{text}" means {size[0]}x{size[1]} pixels; no side may be longer than {MAX_SIDE}. '
            "Choose a smaller size."
        )
    return size


def resolve_output_size(size: str | int | Size, *, image_hw: Size, grid_hw: Size) -> Size:
    """The (height, width) that an output size means for an image and its feature grid.

    Args:
        size: text in the grammar of this module, an int (shorter side), or (height, width).

    Raises:
        SizeError: if it cannot be understood, is empty or is absurdly large.
    """
    if isinstance(size, tuple):
        return _checked(_pair(size, "output"), "x".join(map(str, size)), "output")
    text = str(size).strip().lower()
    if text == "image":
        return image_hw
    if text == "grid":
        return grid_hw
    times = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)\s*[x×]", text)
    if times is not None:
        factor = float(times.group(1))
        result = round(grid_hw[0] * factor), round(grid_hw[1] * factor)
        return _checked(result, size, "output")
    numbers = _numbers(text)
    if numbers is None:
        raise SizeError(f'The output size "{size}" is not understood. {_HELP}')
    result = _shorter_side(numbers, image_hw) if isinstance(numbers, int) else numbers
    return _checked(result, size, "output")


def resolve_input_size(size: str | int | Size | None, *, image_hw: Size, stride: int, default: int) -> Size:
    """The (height, width), a multiple of the stride, that an image is resized to for a backbone.

    Args:
        size: text in the grammar of this module (without "16x"), an int (shorter side), (height, width), or None for
            ``default`` as the shorter side; only for None are extreme aspect ratios and very fine grids reduced
            silently.
        image_hw: the original image's size.
        stride: pixels per cell of the backbone.
        default: the shorter side if ``size`` is None.

    Raises:
        SizeError: if it cannot be understood or would give more grid cells than fit into memory; the message names a
            size that works.
    """
    if size is None:
        # A strip of pixels is not made finer than it is long: the longer side gets at most four times the default.
        wanted = _shorter_side(min(default, max(1, 4 * default * min(image_hw) // max(image_hw))), image_hw)
        return _fit_positions(_round_to_stride(wanted, stride), stride, 4 * max(1, default // stride) ** 2)
    if isinstance(size, tuple):
        wanted = _pair(size, "input")
    else:
        text = str(size).strip().lower()
        if text == "image":
            wanted = image_hw
        else:
            numbers = _numbers(text)
            if numbers is None:
                raise SizeError(
                    f'The input size "{size}" is not understood. Write HEIGHTxWIDTH (448x602), one number for the '
                    'shorter side (448), or "image".'
                )
            wanted = _shorter_side(numbers, image_hw) if isinstance(numbers, int) else numbers
    if min(wanted) < 1:
        raise SizeError(f'The input size "{size}" has a side of zero pixels; a side must be at least {stride}.')
    result = _round_to_stride(wanted, stride)
    positions = (result[0] // stride) * (result[1] // stride)
    if positions > MAX_INPUT_POSITIONS:
        works = _fit_positions(result, stride, MAX_INPUT_POSITIONS)
        raise SizeError(
            f"The input size {result[0]}x{result[1]} gives {positions:,} grid cells, more than the "
            f"{MAX_INPUT_POSITIONS:,} that fit into memory; {works[0]}x{works[1]} would work."
        )
    return result


def _round_to_stride(size: Size, stride: int) -> Size:
    return max(1, round(size[0] / stride)) * stride, max(1, round(size[1] / stride)) * stride


def _fit_positions(size: Size, stride: int, limit: int) -> Size:
    """Shrink a size, aspect kept while both sides have a cell, until its grid has at most ``limit`` cells."""
    rows, columns = size[0] // stride, size[1] // stride
    if rows * columns > limit:
        scale = math.sqrt(limit / (rows * columns))
        rows, columns = max(1, int(rows * scale)), max(1, int(columns * scale))
        rows, columns = min(rows, limit // columns or 1), min(columns, limit)
        columns = min(columns, limit // rows)
    return rows * stride, columns * stride
