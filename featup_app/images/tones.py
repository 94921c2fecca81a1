"""From samples of any type to 8 bits: which values become black and white.

8 bit samples stay as they are. Of all others the range is looked for: samples that reach most of what their type can
hold keep the range of the type; a narrower range is stretched. A few values far off (a hot pixel, a value that stands
for "no data") do not take part: beyond the quantiles of a thousandth on both sides, a value counts only within half of
the distance between these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featup_app.base.errors import without_warnings
from featup_app.images.raster import Mask, Pixels, Samples
from featup_app.images.selection import FULL

_TAIL = 0.001
_REACH = 0.5
_LOOKED_AT = 4_000_000
_ROWS = 256

_STAND_INS = (-9999.0, -99999.0, -32768.0, -32767.0, -999.0, -9999.9)
"""Values that files without a nodata tag use for "no data"; believed only far below all others."""
_HUGE = 1e20
"""No measurement: 1e20, 1e30 and the largest float32 stand for "no data"."""


@dataclass(frozen=True)
class Scale:
    """The values that become black and white, and a sentence about them (None if there is nothing to say)."""

    low: float
    high: float
    note: str | None = None


def type_range(dtype: np.dtype[Any], bits: int) -> tuple[float, float]:
    """Lowest and highest value of an integer type with so many significant bits; 0 and 1 for bool and floating point."""
    if dtype.kind == "i":
        return float(-(2 ** (bits - 1))), float(2 ** (bits - 1) - 1)
    return (0.0, float(2**bits - 1)) if dtype.kind == "u" else (0.0, 1.0)


def missing_of(values: Samples, nodata: float | None) -> tuple[Mask | None, str | None]:
    """Pixels without data, and the words for what marks them.

    Args:
        values: (H, W, C).
        nodata: the value that the file names for it.

    Returns:
        (H, W) and words such as "the value -9999"; None and None if all pixels have data.
    """
    found = np.zeros(values.shape[:2], np.bool_)
    words: list[str] = []
    floating = values.dtype.kind == "f"

    def mark(mask: Mask, what: str, *, every: bool = False) -> None:
        pixels = mask.all(axis=2) if every else mask.any(axis=2)
        if pixels.any():
            words.append(what)
            np.logical_or(found, pixels, out=found)

    with np.errstate(invalid="ignore"):
        ends = np.array([values.min(), values.max()])
    if floating and not np.isfinite(ends).all():
        mark(~np.isfinite(values), "values that are infinite or not a number")
    if nodata is not None and np.isfinite(nodata):
        with without_warnings():
            wanted: Any = values.dtype.type(nodata) if floating else nodata
        if floating or nodata == int(nodata):
            mark(values == wanted, f"the value {nodata:g}", every=not floating)
    if floating and values.dtype.itemsize > 2 and not np.abs(ends).max() < _HUGE:
        mark(np.abs(values) >= _HUGE, "values beyond 1e20")
    stand_in = _stand_in(values, found)
    if stand_in is not None:
        mark(values == stand_in, f"the value {stand_in:g}")
    return (found, " and ".join(words)) if words else (None, None)


def _stand_in(values: Samples, missing: Mask) -> float | None:
    """The lowest value if it is one that stands for "no data" and lies far below all others."""
    if values.dtype.kind not in "if" or values.dtype.itemsize < 2:
        return None
    known = values[~missing] if missing.any() else values
    if not known.size:
        return None
    lowest = float(known.min())
    if not any(np.isclose(lowest, each, rtol=1e-7) for each in _STAND_INS):
        return None
    others = known[known > known.min()]
    if not others.size:
        return None
    low, high = float(others.min()), float(others.max())
    return lowest if low - lowest > max(high - low, 0.05 * abs(lowest)) else None


def scale_of(values: Samples, bits: int, missing: Mask | None, wanted: tuple[float, float] | str) -> Scale:
    """The range of values that is shown from black to white.

    Args:
        values: (H, W, C) colours without alpha.
        bits: significant bits of integer values.
        missing: (H, W), pixels that do not count; at least one pixel counts.
        wanted: range as in :class:`featup_app.images.selection.Selection`.
    """
    low, high = type_range(values.dtype, bits)
    whole = f"{bits} bit" if values.dtype.kind in "ui" else "Floating point values from 0 to 1"
    if isinstance(wanted, tuple):
        return Scale(*wanted, f"Values from {wanted[0]:g} to {wanted[1]:g} scaled to 8 bit, as chosen.")
    if values.dtype == np.bool_ or (values.dtype.kind in "ui" and bits <= 8):
        return Scale(low, high)
    if wanted == FULL and values.dtype.kind != "f":
        return Scale(low, high, f"{whole} scaled to 8 bit.")
    known = values.reshape(-1) if missing is None else values[~missing].reshape(-1)
    least, most = known.min().item(), known.max().item()
    if wanted == FULL:
        return Scale(least, most, _stretched(least, most, 0))
    first, last = _limits(known, least, most)
    if _fills_its_type(first, last, values.dtype, low, high):
        beyond = np.count_nonzero(known > high) + np.count_nonzero(known < low) if values.dtype.kind == "f" else 0
        return Scale(low, high, f"{whole} scaled to 8 bit{_beyond(int(beyond))}.")
    if first >= 0 and first <= last / 4:
        first = 0
    clipped = int(np.count_nonzero(known < first)) if least < first else 0
    clipped += int(np.count_nonzero(known > last)) if most > last else 0
    if values.dtype == np.uint16 and first == 0:
        rest = f"reach only {last:g}, which is shown as white" if not clipped else f"reach {last:g}, which is white"
        return Scale(0, last, f"{bits} bit scaled to 8 bit; the values {rest}{_beyond(clipped)}.")
    return Scale(first, last, _stretched(first, last, clipped))


def _stretched(low: float, high: float, clipped: int) -> str:
    ends = "the lowest to black and the highest to white" if not clipped else "black to white"
    return f"Values from {low:g} to {high:g} scaled to 8 bit, {ends}{_beyond(clipped)}."


def _beyond(count: int) -> str:
    return "" if not count else f"; {count:,} value{'s' if count > 1 else ''} far beyond clipped"


def _fills_its_type(first: float, last: float, dtype: np.dtype[Any], low: float, high: float) -> bool:
    """Whether the range of the type is what the values were made for."""
    if dtype.kind == "f":
        return first >= 0 and high / 2 <= last <= high
    if low < 0:
        return last - first > (high - low) / 2
    return last > high / 2 and last - first > high / 4


def _limits(known: npt.NDArray[Any], least: Any, most: Any) -> tuple[float, float]:
    """Lowest and highest of the values that are not far off."""
    sample = known[:: max(1, known.size // _LOOKED_AT) | 1] if known.size > _LOOKED_AT else known
    last = int(np.ceil((1 - _TAIL) * (sample.size - 1)))
    ordered = np.partition(sample, (sample.size - 1 - last, last))
    low, high = float(ordered[sample.size - 1 - last]), float(ordered[last])
    reach = _REACH * (high - low)
    if not reach > 0:
        return least, most
    if least < low - reach:
        least = known[known >= low - reach].min().item()
    if most > high + reach:
        most = known[known <= high + reach].max().item()
    return least, most


def eight_bit(values: Samples, scale: Scale) -> Pixels:
    """Values of any type and shape as uint8, from ``scale.low`` (0) to ``scale.high`` (255); beyond them clipped."""
    if values.dtype == np.uint8 and (scale.low, scale.high) == (0, 255):
        return values
    low, high = scale.low, scale.high
    if values.dtype.kind in "bu" and values.dtype.itemsize <= 2 and values.size > 65536:
        every = np.arange(2 ** (8 * values.dtype.itemsize), dtype=np.float64)
        result: Pixels = _scaled(every, low, high)[values.view(np.uint8) if values.dtype == np.bool_ else values]
        return result
    result = np.empty(values.shape, np.uint8)
    for row in range(0, values.shape[0], _ROWS):  # in blocks: float64 of the whole would take eight times the memory
        result[row : row + _ROWS] = _scaled(values[row : row + _ROWS].astype(np.float64), low, high)
    return result


def _scaled(values: npt.NDArray[np.float64], low: float, high: float) -> Pixels:
    with np.errstate(all="ignore"):  # pixels without data have any value
        part = values - low
        part /= (high - low) or 1
        np.clip(part, 0, 1, out=part)
        part *= 255
        return np.rint(part, out=part).astype(np.uint8)


def alpha_range(alpha: Samples, bits: int, colour_high: float) -> float:
    """The value of alpha that is opaque.

    Where the colours use only 10, 12 or 14 of 16 bits, so does alpha; floating point alpha above 1 is one of integers.
    """
    highest = float(alpha.max()) if alpha.size else 0.0
    if alpha.dtype.kind == "f":
        return next((limit for limit in (1.0, 255.0, 65535.0) if highest <= limit), highest)
    _, full = type_range(alpha.dtype, bits)
    if alpha.dtype == np.uint16 and bits == 16:
        for narrow in (255.0, 1023.0, 4095.0, 16383.0):
            if highest == narrow and colour_high <= narrow:
                return narrow
    return full
