"""The best matches of a map outside the neighbourhood of what was asked. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from featup_app.features import Point, Size
from featup_app.lenses.lens import Values
from featup_app.lenses.queries import Query
from featup_app.marks import neighbourhood

if TYPE_CHECKING:
    from featup_app.images import Image


@dataclass(frozen=True)
class Match:
    """One of the best matches.

    Attributes:
        point: (x, y) in pixels of the image, the centre of the output pixel.
        value: of the map there.
    """

    point: Point
    value: float


def top_matches(values: Values, queries: Sequence[Query], *, image: Image, k: int, radius: float) -> tuple[Match, ...]:
    """The highest peaks of a similarity, no two of them near each other or near what was asked.

    A peak is a pixel that no other within the radius along either axis exceeds, so that the flank of a nearby higher one is none;
    peaks are taken from the highest on, and each takes away those within the radius around it (non-maximum suppression).

    Args:
        values: (H, W).
        queries: what was asked; the marks that are on the picture have neighbourhoods, whatever their sign.
        image: the picture.
        k: how many matches, at most.
        radius: in pixels of the image.

    Returns:
        Up to ``k``, highest first; equal ones in reading order.
    """
    size: Size = (values.shape[0], values.shape[1])
    height, width = image.size_hw
    step = width / size[1], height / size[0]
    reach = [max(1, round(radius / each)) for each in step]
    window = np.ones((2 * min(reach[1], size[0]) + 1, 2 * min(reach[0], size[1]) + 1), np.uint8)
    free = values >= cv2.dilate(values, window)
    for query in queries:
        if not query.hidden and query.vectors_for(image.sha256) is None:
            free &= ~neighbourhood(query.mark, radius, size, image.size_hw)
    rows, columns = np.nonzero(free)
    order = np.argsort(-values[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    x, y = (columns + 0.5) * step[0], (rows + 0.5) * step[1]
    found: list[Match] = []
    while len(rows) and len(found) < k:
        found.append(Match((float(x[0]), float(y[0])), float(values[rows[0], columns[0]])))
        far = np.hypot(x - x[0], y - y[0]) > radius
        far[0] = False
        rows, columns, x, y = (each[far] for each in (rows, columns, x, y))
    return tuple(found)
