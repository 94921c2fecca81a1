"""What the samples of a TIFF page mean: colours, palette, alpha, white-is-zero, nodata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featup_app.images.failures import NotReadError
from featup_app.images.raster import (
    CMYK,
    GREY,
    LAB,
    RGB,
    Raster,
    Samples,
    chosen_channels,
    mode_in_words,
    say_channels,
)
from featup_app.images.selection import Selection

if TYPE_CHECKING:
    from tifffile import TiffPage

_WHITE_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR, _CIELAB, _ICCLAB = 0, 2, 3, 5, 6, 8, 9
_COLOURS = {_RGB: 3, _SEPARATED: 4, _YCBCR: 3, _CIELAB: 3, _ICCLAB: 3}
_ASSOCIATED, _UNASSOCIATED = 1, 2
_NODATA, _ICC, _COLOURMAP, _ORIENTATION, _INKSET = 42113, 34675, 320, 274, 332
_COEFFICIENTS, _REFERENCE = 529, 532
_TO_RGB_BY_CODEC = (6, 7, 33007, 34892, 50001)
"""Compressions whose decoder returns RGB where the file holds YCbCr: JPEG in its forms, WebP."""


def channels_of(
    page: TiffPage, count: int, separate: bool, selection: Selection, name: object
) -> tuple[tuple[int, ...], int | None]:
    """Indices of the channels to show, and that of alpha (None if there is none).

    Args:
        page: the directory.
        count: number of its channels.
        separate: whether they lie along an axis of their own, without a common colour.
        selection: what is wanted.
        name: of the file.

    Raises:
        ImageError: if there is no such channel.
    """
    photometric = int(page.photometric or 0)
    colours = _COLOURS.get(photometric, 1)
    if separate or count < colours or (photometric == _SEPARATED and page.tags.valueof(_INKSET, 1) != 1):
        colours, photometric = 1, 1
    alpha = None
    if not separate:
        first = count - len(page.extrasamples)
        kinds = {first + index: int(kind) for index, kind in enumerate(page.extrasamples)}
        alpha = next((index for index in sorted(kinds) if kinds[index] in (_ASSOCIATED, _UNASSOCIATED)), None)
    default: Sequence[int] = range(colours)
    if colours == 1 and photometric != _PALETTE:
        free = [index for index in range(count) if index != alpha]
        default = free[:3] if len(free) >= 3 else free[:1]
    shown = chosen_channels(selection, default, count, name)
    return shown, None if alpha in shown else alpha


def raster_of(
    page: TiffPage,
    read: Callable[[Sequence[int] | None], Samples],
    count: int,
    shown: tuple[int, ...],
    alpha: int | None,
    notes: list[str],
) -> Raster:
    """Read and interpret a page.

    Args:
        page: the directory.
        read: reads channels as (H, W, K).
        count: number of channels.
        shown, alpha: as from :func:`channels_of`.
        notes: kept in the raster.
    """
    values = read([*shown, *([] if alpha is None else [alpha])])
    opacity = None if alpha is None else values[..., len(shown)]
    values = np.ascontiguousarray(values[..., : len(shown)])
    photometric = int(page.photometric or 0)
    plain = shown == tuple(range(_COLOURS.get(photometric, 1)))
    bits = _bits(page, values)
    raster = Raster(values, GREY if len(shown) == 1 else RGB, "", bits, opacity, notes=notes)
    raster.mode = mode_in_words(len(shown), values.dtype, bits, alpha=opacity is not None)
    raster.associated = alpha is not None and int(page.extrasamples[alpha - count]) == _ASSOCIATED
    raster.nodata, raster.orientation = _nodata(page), _number(page, _ORIENTATION, 1)
    raster.white_is_zero = photometric == _WHITE_IS_ZERO and plain
    if plain:
        icc = page.tags.valueof(_ICC)
        raster.icc = icc if isinstance(icc, bytes) else None
        _interpret(raster, page, photometric)
    say_channels(raster, shown, alpha, count)
    return raster


def _interpret(raster: Raster, page: TiffPage, photometric: int) -> None:
    """Colours of the photometric interpretations that are neither grey nor RGB."""
    values = raster.values
    if photometric == _PALETTE:
        _look_up(raster, page)
    elif photometric == _SEPARATED:
        raster.model, raster.mode = CMYK, "CMYK" if raster.bits == 8 else f"CMYK, {raster.bits} bit"
    elif photometric == _YCBCR and int(page.compression) not in _TO_RGB_BY_CODEC and not page.is_subsampled:
        if values.dtype != np.uint8:
            raise NotReadError("a TIFF of YCbCr colours in more than 8 bits")
        raster.values = _from_ycbcr(page, values)
    elif photometric in (_CIELAB, _ICCLAB):
        if values.dtype.kind not in "ui" or values.dtype.itemsize > 2:
            raise NotReadError("a TIFF of Lab colours in floating point")
        shift = 8 * (values.dtype.itemsize - 1)
        lab = (values.view(f"u{values.dtype.itemsize}") >> shift).astype(np.uint8)
        if photometric == _ICCLAB:
            lab[..., 1:] ^= 128
        raster.values, raster.model, raster.mode = lab, LAB, f"Lab, {raster.bits} bit"
        raster.bits, raster.icc = 8, None


def _look_up(raster: Raster, page: TiffPage) -> None:
    """The colours of a palette; its entries have 16 bits, of which careless programs fill 8."""
    table = page.colormap
    if table is None or raster.values.dtype.kind not in "bu":
        raise NotReadError("a TIFF with a palette that is missing or has no whole numbers")
    indices = raster.values[..., 0].astype(np.int64)
    if indices.max() >= table.shape[1]:
        raise ValueError("a pixel names a colour beyond the palette")
    if raster.nodata is not None and raster.nodata == int(raster.nodata):
        raster.missing = indices == int(raster.nodata)
        raster.nodata = None
    table = np.asarray(table)
    colours = table.astype(np.uint8) if table.max() < 256 else (table >> 8).astype(np.uint8)
    raster.values, raster.model = np.ascontiguousarray(colours.T[indices]), RGB
    raster.mode, raster.bits = f"palette, {raster.bits} bit", 8


def _from_ycbcr(page: TiffPage, values: Samples) -> Samples:
    """(H, W, 3) uint8 RGB, by the formula of TIFF 6.0, section 21."""
    red, green, blue = _rationals(page, _COEFFICIENTS) or (0.299, 0.587, 0.114)
    low_y, high_y, low_b, high_b, low_r, high_r = _rationals(page, _REFERENCE) or (0, 255, 128, 255, 128, 255)
    light = (values[..., 0] - low_y) * 255.0 / ((high_y - low_y) or 1)
    to_blue = (values[..., 1] - low_b) * 127.0 / ((high_b - low_b) or 1)
    to_red = (values[..., 2] - low_r) * 127.0 / ((high_r - low_r) or 1)
    rgb = np.empty(values.shape, np.float64)
    rgb[..., 0] = light + (2 - 2 * red) * to_red
    rgb[..., 2] = light + (2 - 2 * blue) * to_blue
    rgb[..., 1] = (light - blue * rgb[..., 2] - red * rgb[..., 0]) / green
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def _rationals(page: TiffPage, tag: int) -> tuple[float, ...] | None:
    """Values of a tag of fractions; None if it is not there."""
    value: Any = page.tags.valueof(tag)
    if not isinstance(value, tuple) or len(value) < 6:
        return None
    return tuple(up / (down or 1) for up, down in zip(value[::2], value[1::2], strict=True))


def _bits(page: TiffPage, values: Samples) -> int:
    """Significant bits of a sample; of the array's type where samples of one pixel differ."""
    bits = page.bitspersample
    whole = 1 if values.dtype == np.bool_ else 8 * values.dtype.itemsize
    return int(bits) if isinstance(bits, int) and 0 < bits <= whole and values.dtype.kind != "f" else whole


def _nodata(page: TiffPage) -> float | None:
    """The value of GDAL's tag for pixels without data."""
    try:
        return float(str(page.tags.valueof(_NODATA, "")).strip("\0 "))
    except ValueError:
        return None


def _number(page: TiffPage, tag: int, otherwise: int) -> int:
    value = page.tags.valueof(tag, otherwise)
    return int(value) if isinstance(value, int) else otherwise
