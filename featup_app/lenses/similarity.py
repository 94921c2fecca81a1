"""Similarity: how alike each pixel's feature is to that of a chosen pixel, or to marks. Imports no torch by itself.

A click is answered from features that are centred, whitened and grouped for the question (:mod:`featup_app.lenses.grouping`);
the plain cosine of the features can be asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress, part_of, silent
from featup_app.features import Point, Region, Size
from featup_app.lenses.lens import ColorRange, Lens, LensView, Limits, Looks, Mask, Pixels, Values
from featup_app.lenses.look import FieldFacts, Look
from featup_app.lenses.masks import ThresholdMask
from featup_app.lenses.pictures import heat_picture, numbers_of, signed, similarity_limits
from featup_app.lenses.queries import (
    COSINE,
    FORMULAS,
    GROUPED,
    GROUPING,
    MEAN,
    Combine,
    Query,
    as_queries,
    query_from_json,
    settled_combine,
    shown,
)
from featup_app.lenses.similarity_request import ARGUMENT, AUTO, USAGE, SimilarityRequest, parsed

if TYPE_CHECKING:
    from torch import Tensor

    from featup_app.fields.field import FeatureField
    from featup_app.images import Image
    from featup_app.lenses.grouping import Prepared
    from featup_app.lenses.remembering import Remember
    from featup_app.marks import Mark

_SMALLEST_NORM = 1e-12

OUTLINE_SHARE = 0.25
"""The outline of a group holds the pixels with at least this share of the largest weight; half leaves most of a thing out."""


def similarity(
    field: FeatureField,
    asked: Point | Query | Sequence[Query],
    *,
    size: Size,
    grouping: float = GROUPING,
    combine: str | None = None,
    spare_bytes: float = math.inf,
    remember: Remember | None = None,
    progress: Progress = silent,
) -> Tensor:
    """How alike every output pixel is to one pixel, or to marks, as the window answers a click.

    Args:
        field: of the features.
        asked: a point (x, y) in original image pixels, where outside counts as the nearest pixel inside; or queries, of which a
            box, a stroke or a polygon counts with the mean of the directions of its pixels.
        size: (H, W) of the output.
        grouping: from 0, the cells as they are, to 1, each moved to the mean of the cells near it that are like it.
        combine: how the answers to several queries become one, of :data:`~featup_app.lenses.queries.COMBINES`; if not given, the
            difference where one is negative, else the mean.
        spare_bytes: memory that may stay in use for the next click on this field; half a gigabyte is used at most.
        remember: keeps what the next click can use again; without it, that stays as long as the field does.
        progress: may cancel.

    Returns:
        (H, W) in -1 .. 1; of one point, its pixel is 1, and others can only reach it by being as alike and rarer. Of a fit it is
        the mean of the answers from the image and from views of it (:mod:`featup_app.lenses.asked_views`).

    Raises:
        LensError: if the grouping is not between 0 and 1, there is no such ``combine``, no positive query is shown, or a query
            was made with another backbone or layer.
        MarkError: if a mark lies outside of the picture.
    """
    queries, way = _settled(field, asked, combine)
    prepared = _prepared(field, size, grouping, spare_bytes, remember, progress)
    if prepared is None:  # features that do not vary have no mean to be seen from
        return cosine(field, queries, size=size, combine=way, progress=progress)
    values = prepared.similarity(queries, way, progress)
    from featup_app.lenses.asked_views import averaged

    return averaged(field, values, queries, way, grouping=float(grouping), remember=remember, progress=progress)


def _settled(
    field: FeatureField, asked: Point | Query | Sequence[Query], combine: str | None
) -> tuple[tuple[Query, ...], Combine]:
    """The queries that are shown, and how their answers become one."""
    queries = shown(as_queries(asked, field.geometry.image_hw))
    return queries, settled_combine(queries, combine)


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


def cosine(
    field: FeatureField,
    asked: Point | Query | Sequence[Query],
    *,
    size: Size,
    combine: str | None = None,
    progress: Progress = silent,
) -> Tensor:
    """Cosine between the feature under an image point, or under marks, and the feature of every output pixel.

    Exact: the dot products are projected channels, divided by the true lengths of the upsampled features.

    Args:
        field: of the features.
        asked, combine: as in :func:`similarity`.
        size: (H, W) of the output.
        progress: may cancel.

    Returns:
        (H, W) in -1 .. 1; of one point, its pixel is 1 (0 where a feature is all zero).

    Raises:
        LensError, MarkError: as :func:`similarity`.
    """
    import torch

    from featup_app.fields.field import DEFAULT_TILE_BUDGET
    from featup_app.lenses.answers import combined, mean_direction
    from featup_app.lenses.query_vectors import direction

    queries, way = _settled(field, asked, combine)
    norms = field.norms(size=size, progress=progress)
    signs = [
        [direction(field, query, size=size, progress=progress) for query in queries if query.negative is sign]
        for sign in (False, True)
    ]
    if way == MEAN:
        signs = [[mean_direction(torch.cat(part))] if part else [] for part in signs]
    positives, matrix = len(signs[0]), torch.cat([*signs[0], *signs[1]])
    if len(matrix) == 1:
        dots = field.project(matrix, size=size, progress=progress)[0]
        return (dots / norms.clamp(min=_SMALLEST_NORM)).clamp(-1, 1)
    result = torch.empty_like(norms)
    rows = max(1, int(DEFAULT_TILE_BUDGET / (field.bytes_per_pixel(len(matrix)) * size[1])))
    regions = list(Region.split(size, rows, size[1]))
    for index, region in enumerate(regions):
        part = part_of(progress, index, len(regions), words="comparing")
        dots = field.project(matrix, size=size, region=region, progress=part)
        dots.div_(norms[region.rows].clamp(min=_SMALLEST_NORM)).clamp_(-1, 1)
        result[region.rows] = combined(dots, positives, way)
    return result.clamp_(-1, 1)


_GROUPED_WORDS = (
    "Similarity to the query pixel: cosine of centred, whitened and grouped features, "
    "less what is common in the picture"
)

_FITTED_WORDS = (
    ". Asked of the picture and of views of it, not of the fitted features: that finds regions better than before the fit, "
    "and things of one kind no better"
)


@dataclass(frozen=True, eq=False)
class SimilarityView(LensView):
    """Similarity to the queries of the request, (H, W) in -1 .. 1.

    Attributes:
        group: the group of the cell under the point, where it is asked for.
        proposed: the proposed threshold, where it is asked for.
    """

    request: SimilarityRequest
    facts: FieldFacts
    values: Values
    group: Mask | None = None
    proposed: float | None = None

    def mask(self) -> ThresholdMask | None:
        threshold = self.proposed if self.request.threshold == AUTO else self.request.threshold
        return None if threshold is None else ThresholdMask.of(self.values, float(threshold))

    def outlined(self) -> Mask | None:
        mask = self.mask()
        return self.group if mask is None else mask.inside

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
        if len(self.request.asked) > 1:
            tooltip = f"{tooltip}. {FORMULAS[self.request.settled_combine]}"
        return ColorRange(self.request.colormap, self.limits(), words, tooltip)

    def subtitle(self) -> str:
        mask = self.mask()
        area = "" if mask is None else f", {100 * mask.share:.1f} % at or above {mask.threshold:.2f}"
        return f"to {self.request.words}{area}"

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
            **request.provenance(),
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
    usage = USAGE
    argument = ARGUMENT
    reads_all_channels = True

    def view(
        self, request: SimilarityRequest, looks: Looks, progress: Progress = silent
    ) -> tuple[SimilarityView, Look]:
        from featup_app.lenses.grouping import MAPS
        from featup_app.lenses.threshold import proposed_threshold

        queries, combine, inside = request.asked, request.settled_combine, None
        if request.measure == COSINE:
            look = looks.look(progress, in_tiles=0 if len(queries) == 1 else len(queries))
            values = cosine(look.field, queries, size=look.size, combine=combine, progress=progress)
        else:
            look = looks.look(progress, in_tiles=MAPS)
            field, size, grouping, point = look.field, look.size, request.grouping, request.only_point
            values = similarity(
                field,
                queries,
                size=size,
                grouping=grouping,
                combine=combine,
                spare_bytes=look.spare_bytes,
                remember=looks.remember,
                progress=progress,
            )
            if request.outline and point is not None:
                weights = group(field, point, size=size, grouping=grouping, remember=looks.remember, progress=progress)
                inside = None if weights is None else (weights >= OUTLINE_SHARE * weights.max()).cpu().numpy()
        proposed = proposed_threshold(values) if request.threshold == AUTO else None
        return SimilarityView(request, look.facts, numbers_of(values), inside, proposed), look

    def initial(self, image: Image, before: SimilarityRequest | None = None) -> SimilarityRequest:
        height, width = image.size_hw
        middle = width / 2, height / 2
        if before is None:
            return SimilarityRequest(as_queries(middle))
        pinned = tuple(query for query in before.queries if query.vectors is not None)
        asks = any(not query.negative and not query.hidden for query in pinned)
        return replace(before, queries=pinned) if asks else self.at_point(before, middle)

    def at_point(self, request: SimilarityRequest, point: Point) -> SimilarityRequest:
        return replace(request, queries=as_queries(point), title="", file="")

    def marks(self, request: SimilarityRequest) -> Sequence[Query]:
        return request.queries

    def with_mark(
        self, request: SimilarityRequest, mark: Mark, *, negative: bool, added: bool
    ) -> SimilarityRequest | None:
        query = Query(mark, negative)
        return replace(request, queries=(*request.queries, query) if added else (query,), title="", file="")

    def label(self, request: SimilarityRequest, view: SimilarityView | None = None) -> str:
        name = "Cosine" if request.measure == COSINE else "Similarity"
        return f"{name} to {request.words}"

    def parse(self, found: re.Match[str]) -> SimilarityRequest:
        return parsed(found)

    def request_from(self, values: Mapping[str, Any]) -> SimilarityRequest:
        queries = values.get("queries")
        if not isinstance(queries, list | tuple):
            return super().request_from(values)
        read = tuple(query_from_json(query) if isinstance(query, Mapping) else query for query in queries)
        return super().request_from({**values, "queries": read})
