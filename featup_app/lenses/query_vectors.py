"""The features of marks: for the plain cosine, and to ask other pictures of them.

A mark of several pixels counts with the mean of the directions of its pixels, as :mod:`featup_app.lenses.grouping` reads it. For
other pictures, means of features are kept in which each pixel's weight is one over its length, so that the same direction comes
out of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.base.progress import Progress, part_of, silent
from featup_app.features import Region, Size
from featup_app.fields.field import DEFAULT_TILE_BUDGET, FeatureField, LinearField
from featup_app.lenses.answers import Indices
from featup_app.lenses.asked_views import asked_field
from featup_app.lenses.grouping import Prepared, prepare
from featup_app.lenses.queries import GROUPING, Query, QuerySource, QueryVectors
from featup_app.lenses.remembering import Remember
from featup_app.marks import PointMark, covered_pixels

_TILE = 128
"""Output pixels along a side of the parts that are drawn under a mark; parts without a pixel of it are left out."""

_SMALLEST = 1e-12


def direction(field: FeatureField, query: Query, *, size: Size, progress: Progress = silent) -> Tensor:
    """The feature of a query, of unit length: (1, C); zero where the features are.

    Args:
        field: of the features.
        query: with a mark on its picture, or vectors from another one.
        size: (H, W) of the output whose pixels the mark covers.
        progress: may cancel.

    Raises:
        LensError: if the vectors are of another backbone or layer.
        MarkError: if the mark lies outside of the picture.
    """
    vectors, mark = query.vectors_for(field.coarse.image.sha256), query.mark
    if vectors is not None:
        vectors.source.check_fits(field.coarse)
        found = field.coarse.data.new_tensor([vectors.feature], dtype=torch.float32)
    else:
        rows, columns = covered_pixels(mark, size, field.geometry.image_hw)
        if isinstance(mark, PointMark):
            found = field.sample([mark.point], size=size)
        else:
            found = torch.zeros(1, field.channels, device=field.coarse.data.device)
            for region, own_rows, own_columns in _parts(rows, columns, field.bytes_per_pixel(field.channels)):
                features = field.features(size=size, region=region, progress=progress)
                found += F.normalize(features[:, own_rows, own_columns], dim=0, eps=_SMALLEST).sum(1)
    unit: Tensor = found / found.norm().clamp(min=_SMALLEST)
    return unit


def pinned(
    field: FeatureField,
    queries: Sequence[Query],
    *,
    size: Size,
    grouping: float = GROUPING,
    remember: Remember | None = None,
    progress: Progress = silent,
) -> tuple[Query, ...]:
    """Queries with the features of their marks, so that other pictures can be asked of them.

    Args:
        field: of the features of the picture that the marks are on.
        queries: also hidden ones; those that come from other pictures stay as they are.
        size: (H, W) of the output whose pixels the marks cover.
        grouping: with which the queries are asked, from 0 to 1; it decides how the pixels of one mark are weighed.
        remember: as in :func:`~featup_app.lenses.similarity`.
        progress: may cancel.

    Raises:
        MarkError: if a mark lies outside of the picture.
    """
    own = asked_field(field)
    # Groups are needed whatever the grouping; cells that are asked without any have none.
    prepared, grouped = (
        prepare(own, size=size, grouping=share, spare_bytes=0, remember=remember, progress=progress)
        for share in (grouping, grouping or 1.0)
    )
    source, result = QuerySource.of(field.coarse, field.method), []
    means = None if grouped is None else grouped.cells.group_means(own.coarse.data.float())
    for index, query in enumerate(queries):
        progress("reading the queries", index, len(queries))
        if query.vectors_for(source.image_sha256) is None:
            part = part_of(progress, index, len(queries), words="reading the queries")
            query = replace(query, vectors=_vectors(field, prepared, means, query, size, grouping, source, part))
        result.append(query)
    return tuple(result)


def _vectors(
    field: FeatureField,
    prepared: Prepared | None,
    means: Tensor | None,
    query: Query,
    size: Size,
    grouping: float,
    source: QuerySource,
    progress: Progress,
) -> QueryVectors:
    """Those of one query; of features that do not vary, three times the same."""
    rows, columns = covered_pixels(query.mark, size, field.geometry.image_hw)
    sums, weights = torch.zeros(3, field.channels), torch.zeros(3, 1)
    commonness = 0.0
    for region, own_rows, own_columns in _parts(rows, columns, 3 * field.bytes_per_pixel(field.channels)):
        features = field.features(size=size, region=region, progress=progress)
        lengths = features.norm(dim=0)
        if prepared is None or means is None:
            read = [(features, lengths)] * 3
        else:
            cells, groups, common = _carried(prepared, means, size, region, progress)
            commonness += float(common[own_rows, own_columns].sum())
            mixed = torch.lerp(cells, groups, grouping)
            read = [
                (features, lengths),
                (cells, prepared.cells.lengths(cells)),
                (groups, prepared.cells.lengths(mixed)),
            ]
        for index, (values, length) in enumerate(read):
            chosen = 1 / length[own_rows, own_columns].clamp(min=_SMALLEST)
            sums[index] += (values[:, own_rows, own_columns] @ chosen).cpu()
            weights[index] += chosen.sum().cpu()
    feature, cell, group = (tuple(each.tolist()) for each in sums / weights)
    return QueryVectors(feature, cell, group, float(np.float32(commonness / len(rows))), source)


def _carried(
    prepared: Prepared, means: Tensor, size: Size, region: Region, progress: Progress
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a region: the coarse features (C, rows, columns), the means of groups (the same), and commonness (rows, columns)."""
    field, cells = prepared.field, prepared.cells
    data, count = field.coarse.data.float(), field.channels
    if isinstance(field, LinearField):
        drawn = field.carry(torch.cat([data, means, cells.commonness]), size=size, region=region, progress=progress)
        return drawn[:count], drawn[count:-1], drawn[-1]
    features = field.features(size=size, region=region, progress=progress).float()
    added = cells.carrier.carry(
        torch.cat([means - data, cells.commonness]), size=size, region=region, progress=progress
    )
    return features, features + added[:-1], added[-1]


def _parts(rows: Indices, columns: Indices, bytes_per_pixel: float) -> Iterator[tuple[Region, Tensor, Tensor]]:
    """Regions that hold the pixels together, each with rows and columns of its own ones, counted from its corner."""
    side = max(1, min(_TILE, int((DEFAULT_TILE_BUDGET / bytes_per_pixel) ** 0.5)))
    top, left = int(rows.min()), int(columns.min())
    for part in Region.split((int(rows.max()) + 1 - top, int(columns.max()) + 1 - left), side, side):
        first, start = part.top + top, part.left + left
        inside = (rows >= first) & (rows < first + side) & (columns >= start) & (columns < start + side)
        if inside.any():
            own_rows, own_columns = rows[inside], columns[inside]
            height, width = int(own_rows.max() - own_rows.min()) + 1, int(own_columns.max() - own_columns.min()) + 1
            region = Region(int(own_rows.min()), int(own_columns.min()), height, width)
            yield region, torch.from_numpy(own_rows - region.top), torch.from_numpy(own_columns - region.left)
