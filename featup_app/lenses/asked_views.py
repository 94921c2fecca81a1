"""A click on a fit, asked in several views of the image: the mean of the answers, instead of an answer from mean features.

A fit averages what the backbone sees in moved, zoomed and mirrored views. That explains views best, but takes from the features
what depends on the position, by which a region is told from another one like it. So the fitted features are not asked. Each view
is centred, whitened and grouped for itself (:mod:`featup_app.lenses.grouping`) and gives an answer of its own; the answers are
brought back to the image and averaged with that of the base field. What single views add by chance averages out, and as views
are moved by parts of a cell, edges become finer.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.base.progress import Progress, part_of, silent
from featup_app.features import FeatureMap, Size
from featup_app.fields.attention import AttentionField
from featup_app.fields.field import FeatureField
from featup_app.fields.implicit.implicit_field import ImplicitField
from featup_app.images import image_from_array, resized
from featup_app.lenses.answers import Asked, Indices, Maps, before_range, in_range, mean_of
from featup_app.lenses.grouping import MAPS, whole_maps
from featup_app.lenses.queries import Combine, Query
from featup_app.lenses.remembering import Remember, remembered
from featup_app.marks import covered_pixels
from featup_app.multiview import Jitter

FINER = 4
"""Points along a side of a cell at which the views answer; attention brings their mean from there to the output."""

_KEPT_BYTES = 2**27

_Place = tuple[Indices, Indices]
"""Rows and columns of a query at the points of the image."""


@dataclass(frozen=True, eq=False)
class _View:
    """A view at the points of the image: what answers a click, in half precision, and whether it shows a point, (h, w)."""

    maps: Maps
    inside: Tensor

    def answer(self, places: Sequence[_Place], signs: Sequence[bool], combine: Combine) -> Tensor:
        """(h, w): how alike each point is to queries after grouping. What is almost the same, the image alone knows at full size.

        Args:
            places: rows and columns of each query.
            signs: which of them are negative.
            combine: how their answers become one.
        """
        maps = Maps(*(each.float() for each in self.maps))
        queries = [mean_of([maps.at(*place)], len(place[0])) for place in places]
        return Asked.of(queries, signs, combine).answer(maps, after_grouping=True)


@dataclass(frozen=True, eq=False)
class _Views:
    image: _View
    views: tuple[_View, ...]
    carrier: AttentionField


def asked_field(field: FeatureField) -> FeatureField:
    """The field whose weights bring the answer to a click to the output: the base field of a fit, else the field itself."""
    return field.carrier if isinstance(field, ImplicitField) else field


def averaged(
    field: FeatureField,
    values: Tensor,
    queries: Sequence[Query],
    combine: Combine,
    *,
    grouping: float,
    remember: Remember | None = None,
    progress: Progress = silent,
) -> Tensor:
    """The mean of the answers to a click from the image and from the views of a fit.

    A view is asked of what it shows of the marks, if it shows any of a positive one, and compared with the image's answer to the
    same.

    Args:
        field: a fit; of any other field there are no views.
        values: (H, W), the answer from the image.
        queries: at least one positive one.
        combine: how their answers become one.
        grouping, remember: as in :func:`~featup_app.lenses.similarity`.
        progress: may cancel; the first click prepares the views.

    Returns:
        (H, W) in -1 .. 1; the values themselves where no view shows a positive mark, and for queries from other pictures.
    """
    if not isinstance(field, ImplicitField) or field.asked is None or not field.asked.jitters:
        return values
    if any(query.vectors_for(field.image.sha256) is not None for query in queries):
        return values
    prepared = remembered(field, ("asked views", grouping), lambda: _prepared(field, grouping, progress), remember)
    if prepared is None:
        return values
    size: Size = (values.shape[0], values.shape[1])
    fine = prepared.carrier.geometry.grid_hw
    places = [covered_pixels(query.mark, fine, field.geometry.image_hw) for query in queries]
    image: dict[Hashable, Tensor] = {}
    sums = values.new_zeros(2, *fine)
    for view in prepared.views:
        inside = view.inside.cpu().numpy()
        chosen = [inside[place] for place in places]
        seen = [index for index, each in enumerate(chosen) if each.any()]
        signs = [queries[index].negative for index in seen]
        if all(signs):
            continue
        own = [(places[index][0][chosen[index]], places[index][1][chosen[index]]) for index in seen]
        key = tuple(each.tobytes() for each in chosen)
        if key not in image:
            image[key] = prepared.image.answer(own, signs, combine)
        sums[0] += (view.answer(own, signs, combine) - image[key]) * view.inside
        sums[1] += view.inside
    # The difference to the image's answer is carried, which thereby keeps its own edges.
    difference, count = prepared.carrier.carry(sums, size=size, progress=progress)
    return in_range(before_range(values) + difference / (count + 1)).clamp_(-1, 1)


def _prepared(field: ImplicitField, grouping: float, progress: Progress) -> _Views | None:
    asked, features = field.asked, field.coarse
    assert asked is not None
    rows, columns = features.geometry.grid_hw
    bytes_a_point = 2 * MAPS * len(asked.jitters)
    finer = max(1, min(FINER, math.isqrt(_KEPT_BYTES // (rows * columns * bytes_a_point))))
    fine = rows * finer, columns * finer
    geometry = replace(features.geometry, grid_hw=fine, offset_xy=(0.0, 0.0))
    carrier = AttentionField(replace(features, data=features.data.new_zeros(1, *fine), geometry=geometry), field.image)
    own = whole_maps(field.carrier, size=fine, grouping=grouping, progress=progress)
    if own is None:
        return None
    everywhere = torch.ones(fine, dtype=torch.bool, device=own.common.device)
    small = resized(field.image.pixels, features.geometry.input_hw)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float()
    found = []
    for index, (jitter, maps) in enumerate(zip(asked.jitters, asked.features, strict=True)):
        part = part_of(progress, index, len(asked.jitters), words="asking views")
        view = _view(jitter, features, maps.float(), pixels, fine, grouping, part)
        if view is not None:
            found.append(view)
    return _Views(_View(Maps(*(each.half() for each in own)), everywhere), tuple(found), carrier)


def _view(
    jitter: Jitter, features: FeatureMap, seen: Tensor, pixels: Tensor, fine: Size, grouping: float, progress: Progress
) -> _View | None:
    """A view grouped for itself, carried by its own picture, and brought back; None if its features do not vary."""
    shown = jitter.pixels(pixels).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    picture = image_from_array(np.ascontiguousarray(shown.numpy()))
    geometry = replace(features.geometry, image_hw=features.geometry.input_hw)
    field = AttentionField(replace(features, data=seen, geometry=geometry, image=picture), picture)
    maps = whole_maps(field, size=fine, grouping=grouping, progress=progress)
    if maps is None:
        return None
    places, inside = jitter.seen(fine)
    grid = (2 * places - 1).to(maps.common)[None]

    def back(values: Tensor) -> Tensor:
        return F.grid_sample(values[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]

    grouped, plain = (F.normalize(back(units), dim=0).half() for units in (maps.grouped, maps.plain))
    return _View(Maps(grouped, plain, back(maps.common[None])[0].half()), inside.to(maps.common.device))
