"""Similarity: how alike each pixel's feature is to that of one chosen pixel. Imports no torch by itself.

A click is answered from features that are centred, whitened and grouped for the question (:mod:`featup_app.lenses.grouping`);
the plain cosine of the features can be asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress, silent
from featup_app.features import Point, Size
from featup_app.lenses.lens import ColorRange, Lens, LensView, Limits, Looks, Mask, Pixels, Request, Values
from featup_app.lenses.look import FieldFacts, Look
from featup_app.lenses.pictures import heat_picture, numbers_of, signed, similarity_limits

if TYPE_CHECKING:
    from torch import Tensor

    from featup_app.fields.field import FeatureField
    from featup_app.images import Image
    from featup_app.lenses.grouping import Prepared
    from featup_app.lenses.remembering import Remember

_SMALLEST_NORM = 1e-12
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"


GROUPING = 1.0
"""Default of grouping, chosen by clicks on training pictures (decision 0085)."""

GROUPED = "grouped"
COSINE = "cosine"
MEASURES = (GROUPED, COSINE)
"""What similarity is: whitened, grouped and less what is common in the picture; or the plain cosine of the features."""

OUTLINE_SHARE = 0.25
"""The outline of a group holds the pixels with at least this share of the largest weight; half leaves most of a thing out."""


def similarity(
    field: FeatureField,
    point: Point,
    *,
    size: Size,
    grouping: float = GROUPING,
    spare_bytes: float = math.inf,
    remember: Remember | None = None,
    progress: Progress = silent,
) -> Tensor:
    """How alike every output pixel is to the one under an image point, as the window answers a click.

    Args:
        field: of the features.
        point: (x, y) in original image pixels; outside counts as the nearest pixel inside.
        size: (H, W) of the output.
        grouping: from 0, the cells as they are, to 1, each moved to the mean of the cells near it that are like it.
        spare_bytes: memory that may stay in use for the next click on this field; half a gigabyte is used at most.
        remember: keeps what the next click can use again; without it, that stays as long as the field does.
        progress: may cancel.

    Returns:
        (H, W) in -1 .. 1; the pixel that holds the point is 1, and others can only reach it by being as alike and rarer. Of a
        fit it is the mean of the answers from the image and from views of it (:mod:`featup_app.lenses.asked_views`).

    Raises:
        LensError: if the grouping is not between 0 and 1.
    """
    prepared = _prepared(field, size, grouping, spare_bytes, remember, progress)
    if prepared is None:  # features that do not vary have no mean to be seen from
        return cosine(field, point, size=size, progress=progress)
    values = prepared.similarity(point, progress)
    from featup_app.lenses.asked_views import averaged

    return averaged(field, values, point, grouping=float(grouping), remember=remember, progress=progress)


def group(
    field: FeatureField,
    point: Point,
    *,
    size: Size,
    grouping: float = GROUPING,
    remember: Remember | None = None,
    progress: Progress = silent,
) -> Tensor | None:
    """The group of the cell under an image point: what :func:`similarity` takes the mean over for that cell.

    Args:
        field, point, size, grouping, remember, progress: as in :func:`similarity`.

    Returns:
        (H, W): the weights in that mean, brought to the output by the field, where the cell of the largest weight has 1. None
        if nothing is grouped: a grouping of 0, or features that do not vary.

    Raises:
        LensError: if the grouping is not between 0 and 1.
    """
    prepared = _prepared(field, size, grouping, 0, remember, progress)  # it reads no maps
    return None if prepared is None else prepared.group(point, progress)


def _prepared(
    field: FeatureField, size: Size, grouping: float, spare_bytes: float, remember: Remember | None, progress: Progress
) -> Prepared | None:
    from featup_app.lenses.asked_views import asked_field
    from featup_app.lenses.grouping import prepare

    if not 0 <= grouping <= 1:
        raise LensError(f"The grouping is {grouping:g}; it must be a number from 0 to 1.")
    asked = asked_field(field)
    return prepare(
        asked, size=size, grouping=float(grouping), spare_bytes=spare_bytes, remember=remember, progress=progress
    )


def cosine(field: FeatureField, point: Point, *, size: Size, progress: Progress = silent) -> Tensor:
    """Cosine between the feature under an image point and the feature of every output pixel.

    Exact: the dot product is one projected channel, divided by the true lengths of the upsampled features.

    Args:
        field: of the features.
        point: (x, y) in original image pixels; outside counts as the nearest pixel inside.
        size: (H, W) of the output.
        progress: may cancel.

    Returns:
        (H, W) in -1 .. 1; the pixel that holds the point is 1 (0 where a feature is all zero).
    """
    norms = field.norms(size=size, progress=progress)
    query = field.sample([point], size=size)
    query = query / query.norm().clamp(min=_SMALLEST_NORM)
    dots = field.project(query, size=size, progress=progress)[0]
    return (dots / norms.clamp(min=_SMALLEST_NORM)).clamp(-1, 1)


_GROUPED_WORDS = (
    "Similarity to the query pixel: cosine of centred, whitened and grouped features, "
    "less what is common in the picture"
)

_FITTED_WORDS = (
    ". Asked of the picture and of views of it, not of the fitted features: that finds regions better than before the fit, "
    "and things of one kind no better"
)


@dataclass(frozen=True)
class SimilarityRequest(Request):
    """Similarity to the feature under ``point``, (x, y) in image pixels.

    Attributes:
        colormap, limits: of the picture; limits as they suit the image if None.
        measure: one of :data:`MEASURES`.
        grouping: 0 to 1, see :func:`similarity`; without effect on the plain cosine.
        outline: whether a window outlines the group of the cell under the point; the plain cosine has none.
    """

    lens: ClassVar[str] = "similarity"
    point: Point
    colormap: str = "viridis"
    limits: Limits | None = None
    measure: str = GROUPED
    grouping: float = GROUPING
    outline: bool = False

    def computation(self) -> Hashable:
        return self.point, self.measure, (self.grouping, self.outline) if self.measure == GROUPED else None

    def stem(self) -> str:
        return "{}-{:g}-{:g}".format("cosine" if self.measure == COSINE else self.lens, *self.point)

    def check_image(self, image: Image) -> None:
        if self.measure not in MEASURES:
            raise LensError(f'There is no similarity "{self.measure}"; choose one of: {", ".join(MEASURES)}.')
        (x, y), (height, width) = self.point, image.size_hw
        if not (0 <= x <= width and 0 <= y <= height):
            raise LensError(
                f'The point ({x:g}, {y:g}) lies outside of "{image.name}", which is {width} pixels wide and {height} high.'
            )


@dataclass(frozen=True, eq=False)
class SimilarityView(LensView):
    """Similarity to the feature under the point of the request, (H, W) in -1 .. 1; and the group, where it is asked for."""

    request: SimilarityRequest
    facts: FieldFacts
    values: Values
    group: Mask | None = None

    def outlined(self) -> Mask | None:
        return self.group

    def limits(self) -> Limits:
        """Values of the first and the last colour."""
        return self.request.limits or similarity_limits(self.values)

    def picture(self) -> Pixels:
        return heat_picture(self.values, colormap=self.request.colormap, limits=self.limits())

    def legend(self) -> ColorRange:
        plain = self.request.measure == COSINE
        words = "cosine" if plain else "similarity"
        grouped = _GROUPED_WORDS + (_FITTED_WORDS if self.facts.method == "implicit" else "")
        tooltip = "Cosine similarity to the query pixel" if plain else grouped
        return ColorRange(self.request.colormap, self.limits(), words, tooltip)

    def subtitle(self) -> str:
        return f"to x {self.request.point[0]:.1f}, y {self.request.point[1]:.1f}"

    def reading(self, row: int, column: int) -> str:
        name = "cos" if self.request.measure == COSINE else "sim"
        return f"{name} {signed(self.values[row, column], 2)}"

    def stem(self) -> str:
        return self.request.stem()

    def provenance(self) -> dict[str, Any]:
        request = self.request
        grouped = request.measure == GROUPED
        return {
            "lens": request.lens,
            "point_xy": request.point,
            "measure": request.measure,
            **({"grouping": request.grouping} if grouped else {}),
            "colormap": request.colormap,
            "limits": self.limits(),
        }


class SimilarityLens(Lens[SimilarityRequest, SimilarityView]):
    name = "similarity"
    title = "Similarity"
    tooltip = "How alike each pixel's feature is to that of the query pixel"
    request_type = SimilarityRequest
    usage = "similarity@X,Y (a point in pixels of the image), or similarity:cosine@X,Y for the plain cosine"
    argument = rf"(:\s*(?P<measure>{COSINE}|{GROUPED})\s*)?@\s*(?P<x>{_NUMBER})\s*,\s*(?P<y>{_NUMBER})"
    reads_all_channels = True

    def view(
        self, request: SimilarityRequest, looks: Looks, progress: Progress = silent
    ) -> tuple[SimilarityView, Look]:
        if request.measure == COSINE:
            look = looks.look(progress)
            values = cosine(look.field, request.point, size=look.size, progress=progress)
            return SimilarityView(request, look.facts, numbers_of(values)), look
        from featup_app.lenses.grouping import MAPS

        look = looks.look(progress, in_tiles=MAPS)
        field, point, size, grouping = look.field, request.point, look.size, request.grouping
        kept, spare = looks.remember, look.spare_bytes
        values = similarity(
            field, point, size=size, grouping=grouping, spare_bytes=spare, remember=kept, progress=progress
        )
        weights = None
        if request.outline:
            weights = group(field, point, size=size, grouping=grouping, remember=kept, progress=progress)
        inside = None if weights is None else (weights >= OUTLINE_SHARE * weights.max()).cpu().numpy()
        return SimilarityView(request, look.facts, numbers_of(values), inside), look

    def initial(self, image: Image, before: SimilarityRequest | None = None) -> SimilarityRequest:
        height, width = image.size_hw
        middle = width / 2, height / 2
        return SimilarityRequest(middle) if before is None else replace(before, point=middle)

    def at_point(self, request: SimilarityRequest, point: Point) -> SimilarityRequest:
        return replace(request, point=point)

    def label(self, request: SimilarityRequest, view: SimilarityView | None = None) -> str:
        name = "Cosine" if request.measure == COSINE else "Similarity"
        return f"{name} to x {request.point[0]:.1f}, y {request.point[1]:.1f}"

    def parse(self, found: re.Match[str]) -> SimilarityRequest:
        return SimilarityRequest((float(found["x"]), float(found["y"])), measure=found["measure"] or GROUPED)
