"""The scene of the inputs in ../shared/cases, for tests that make such inputs themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

HEIGHT, WIDTH = 48, 64


def unit_scene() -> npt.NDArray[np.float64]:
    """(H, W, 3) from 0 to 1: red rises from left to right, green from top to bottom, blue is 128 / 255."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    blue = np.full((HEIGHT, WIDTH), 128 / 255)
    return np.stack([columns / (WIDTH - 1), rows / (HEIGHT - 1), blue], axis=-1)


def scene() -> npt.NDArray[np.uint8]:
    """(H, W, 3) of 8 bits."""
    return np.rint(unit_scene() * 255).astype(np.uint8)


def stored_as(unit: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Values from 0 to 1 over the whole range of a type; floating point keeps them."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return np.rint(unit).astype(kind)
    if kind.kind == "f":
        return unit.astype(kind)
    limits = np.iinfo(kind)
    low, high = float(limits.min), float(limits.max)
    if kind.itemsize == 8:
        high = np.nextafter(high, 0)  # the largest float64 within the type
    return np.rint(low + unit * (high - low)).clip(low, high).astype(kind)
