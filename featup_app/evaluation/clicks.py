"""What one click is worth: a click on a labelled region, and how well the similarity to the clicked pixel finds the rest of it.

Protocol ``region``: the target is the connected region of equal label that holds the click. Protocol ``class``: the target is
every pixel of that label in the picture. Regions are connected across the four sides of a pixel, not across its corners.

The click stands at the pole of inaccessibility of its region: the pixel that is farthest from all others and from outside of the
picture, the first in reading order among equals. There is one click for each region with at least :data:`SMALLEST_SHARE` of the
labelled pixels, and one in the largest region of each class. A target that covers every labelled pixel is left out.

``region`` and ``class`` measure what the window shows at a click (:func:`featup_app.lenses.similarity`), ``region-raw`` and
``class-raw`` the plain cosine of the features. Unlabelled pixels do not count in any score.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featup_app.base.errors import EvaluationError
from featup_app.base.progress import Progress, part_of, silent
from featup_app.evaluation.datasets import UNLABELLED
from featup_app.features import Point
from featup_app.lenses import cosine, proposed_threshold, similarity

if TYPE_CHECKING:
    from featup_app.fields import FeatureField

REGION, CLASS = "region", "class"
RAW_ENDING = "-raw"

SMALLEST_SHARE = 0.01
"""Smallest share of the labelled pixels of a picture for a region to get a click."""

BEST, PROPOSED, PRECISION = "best_iou", "proposed_iou", "average_precision"
SCORES = (BEST, PROPOSED, PRECISION)
"""Names of the scores of a click."""

Numbers = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Click:
    """A click on a region.

    Attributes:
        point: (x, y) in pixels of the picture.
        region: number of the region.
        label: label of the region.
    """

    point: Point
    region: int
    label: int


@dataclass(frozen=True, eq=False)
class Clicks:
    """The clicks on a labelled picture.

    Attributes:
        labels: (H, W), negative where pixels do not count.
        regions: (H, W), number of the region of each pixel from 0, negative where pixels do not count.
        by_target: the clicks on regions, and those on classes, by :data:`REGION` and :data:`CLASS`.
        small: number of regions that are too small for a click.
    """

    labels: npt.NDArray[np.integer[Any]]
    regions: Numbers
    by_target: dict[str, tuple[Click, ...]]
    small: int

    def target(self, click: Click, kind: str) -> Mask:
        """The target of a click, among the labelled pixels in reading order: (N) bool. ``kind`` as in ``by_target``."""
        counted = self.labels >= 0
        of_class: Mask = self.labels[counted] == click.label
        of_region: Mask = self.regions[counted] == click.region
        return of_class if kind == CLASS else of_region


def connected_regions(labels: npt.NDArray[np.integer[Any]]) -> Numbers:
    """Number the connected regions of equal label.

    All labels are handled in one pass: a grid of twice the size has a pixel for each pixel of the picture, and one between two
    neighbours if their labels are equal.

    Args:
        labels: (H, W); negative pixels belong to no region.

    Returns:
        (H, W): numbers from 0 in the order of the regions' first pixels; :data:`UNLABELLED` for pixels of no region.
    """
    counted = labels >= 0
    grid = np.zeros((2 * labels.shape[0] - 1, 2 * labels.shape[1] - 1), np.uint8)
    grid[::2, ::2] = counted
    grid[1::2, ::2] = counted[1:] & (labels[1:] == labels[:-1])
    grid[::2, 1::2] = counted[:, 1:] & (labels[:, 1:] == labels[:, :-1])
    found = cv2.connectedComponents(grid, connectivity=4, ltype=cv2.CV_32S)[1][::2, ::2]
    numbers = np.full(labels.shape, UNLABELLED, np.int32)
    _, first, places = np.unique(found[counted], return_index=True, return_inverse=True)
    ranks = np.empty(len(first), np.int32)
    ranks[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    numbers[counted] = ranks[places]
    return numbers


def pole(mask: Mask) -> tuple[int, int]:
    """Row and column of the pixel of a region, (H, W) bool, that is farthest from all pixels outside, the first in reading order.

    Pixels beyond the border are outside. Distances are Euclidean and exact, between the centres of pixels.

    Raises:
        ValueError: if the region is empty.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("a region without pixels has no pole")
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    distances = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    row, column = divmod(int(distances.argmax()), distances.shape[1])
    return int(rows[0]) + row - 1, int(columns[0]) + column - 1


def find_clicks(labels: npt.NDArray[np.integer[Any]]) -> Clicks:
    """The clicks on a labelled picture.

    Args:
        labels: (H, W); negative pixels do not count.

    Raises:
        EvaluationError: if no region is large enough and leaves anything outside.
    """
    regions = connected_regions(labels)
    counted = regions >= 0
    total = int(counted.sum())
    sizes = np.bincount(regions[counted])
    large = np.flatnonzero((sizes >= SMALLEST_SHARE * total) & (sizes < total))
    if not len(large):
        raise EvaluationError(
            f"No region of the labels has at least {SMALLEST_SHARE:.0%} of the labelled pixels and leaves some outside; a "
            "click needs a region, and something beside it."
        )
    first = np.unique(regions[counted], return_index=True)[1]
    kinds = labels[counted][first]
    largest: dict[int, int] = {}
    for region, kind in enumerate(kinds.tolist()):
        if kind not in largest or sizes[region] > sizes[largest[kind]]:
            largest[kind] = region
    classes = largest.values() if len(largest) > 1 else ()  # a single class leaves nothing outside
    made = {region: _click(regions, region, int(kinds[region])) for region in {*large.tolist(), *classes}}
    by_target = {
        REGION: tuple(made[region] for region in large.tolist()),
        CLASS: tuple(made[region] for region in sorted(classes)),
    }
    return Clicks(labels, regions, by_target, int((sizes < SMALLEST_SHARE * total).sum()))


def _click(regions: Numbers, region: int, label: int) -> Click:
    row, column = pole(regions == region)
    return Click((column + 0.5, row + 0.5), region, label)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Pixels by falling value, from which scores over all thresholds follow.

    Attributes:
        order: (N) indices of the pixels.
        ends: (M) int64, how many pixels are at or above each of the M different values.
    """

    order: Tensor
    ends: Tensor

    @staticmethod
    def of(values: Tensor) -> Ranking:
        """The ranking of (N) values."""
        ordered, order = values.sort(descending=True)
        last = torch.ones(len(values), dtype=torch.bool, device=values.device)
        last[:-1] = ordered[:-1] != ordered[1:]
        return Ranking(order, last.nonzero()[:, 0] + 1)

    def best_iou(self, target: Tensor) -> float:
        """Largest intersection over union of a target, (N) bool, with the pixels at or above a threshold; 0 .. 1."""
        hits = self._hits(target)
        return float((hits / (self.ends + target.sum() - hits)).max())

    def average_precision(self, target: Tensor) -> float:
        """Area under the curve of precision over recall, in steps: each increase of recall counts with the precision after it.

        Equal values are one step, so their order does not matter.

        Args:
            target: (N) bool, with at least one pixel.

        Returns:
            0 .. 1.
        """
        hits = self._hits(target)
        gained = hits.diff(prepend=hits.new_zeros(1))
        return float((gained * hits / self.ends).sum() / target.sum())

    def _hits(self, target: Tensor) -> Tensor:
        """(M) float64, how many pixels of the target are at or above each value."""
        return target[self.order].cumsum(0)[self.ends - 1].double()


def iou(chosen: Tensor, target: Tensor) -> float:
    """Intersection over union of two (N) bool masks; the second is not empty."""
    return float((chosen & target).sum()) / float((chosen | target).sum())


def score_clicks(
    field: FeatureField, clicks: Clicks, protocols: Sequence[str], *, progress: Progress = silent
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Score a field by what each click finds.

    Args:
        field: of the picture of the clicks.
        clicks: from :func:`find_clicks`; their labels have the size of the picture.
        protocols: ``region``, ``class``, and both with :data:`RAW_ENDING`.
        progress: called for each click; may cancel.

    Yields:
        (protocol, values): for each name in :data:`SCORES` the list of the scores of the clicks, and ``seconds``. A map that two
        protocols use counts for the first.
    """
    size = clicks.labels.shape[0], clicks.labels.shape[1]
    counted = torch.from_numpy(clicks.labels >= 0)
    for ending, answer in (("", similarity), (RAW_ENDING, cosine)):
        own = [kind for kind in (REGION, CLASS) if kind + ending in protocols]
        found: dict[str, dict[str, Any]] = {kind: {**{name: [] for name in SCORES}, "seconds": 0.0} for kind in own}
        asked: dict[Click, list[str]] = {}
        for kind in own:
            for click in clicks.by_target[kind]:
                asked.setdefault(click, []).append(kind)
        for index, (click, kinds) in enumerate(asked.items()):
            start = time.perf_counter()
            part = part_of(progress, index, len(asked), words="clicking")
            values = answer(field, click.point, size=size, progress=part)
            threshold = proposed_threshold(values)
            shown = values[counted.to(values.device)]
            ranking, chosen = Ranking.of(shown), shown >= threshold
            for kind in kinds:
                target = torch.from_numpy(clicks.target(click, kind)).to(values.device)
                found[kind][BEST].append(ranking.best_iou(target))
                found[kind][PROPOSED].append(iou(chosen, target))
                found[kind][PRECISION].append(ranking.average_precision(target))
                found[kind]["seconds"] += time.perf_counter() - start
                start = time.perf_counter()
        yield from ((kind + ending, found[kind]) for kind in own)


def mean_scores(values: dict[str, Any]) -> dict[str, float]:
    """Means over the clicks of a picture, by the names in :data:`SCORES`; NaN without clicks.

    Args:
        values: from :func:`score_clicks`.
    """
    return {name: float(np.mean(values[name])) if values[name] else math.nan for name in SCORES}
