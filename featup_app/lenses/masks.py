"""The mask that a threshold makes of a map: the pixels at or above it, with their area and outline. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featup_app.lenses.pictures import outlines


@dataclass(frozen=True, eq=False)
class ThresholdMask:
    """A region of a map.

    Attributes:
        threshold: the value from which on pixels belong to it.
        inside: (H, W).
    """

    threshold: float
    inside: NDArray[np.bool_]

    @staticmethod
    def of(values: NDArray[np.float32], threshold: float) -> ThresholdMask:
        """That of a map (H, W)."""
        return ThresholdMask(threshold, values >= threshold)

    @property
    def pixels(self) -> int:
        """Its area in pixels of the output."""
        return int(np.count_nonzero(self.inside))

    @property
    def share(self) -> float:
        """Its area as a share of the picture."""
        return self.pixels / self.inside.size

    def outlines(self) -> list[NDArray[np.float64]]:
        """The closed curves around it, see :func:`featup_app.lenses.pictures.outlines`."""
        return outlines(self.inside)

    def picture(self) -> NDArray[np.uint8]:
        """(H, W) uint8: 255 inside and 0 outside."""
        return np.where(self.inside, 255, 0).astype(np.uint8)

    def facts(self) -> dict[str, Any]:
        """What a record says about it, JSON-able."""
        return {"threshold": self.threshold, "area_pixels": self.pixels, "area_share": self.share}
