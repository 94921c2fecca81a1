"""What is asked of the lens of similarity: queries and how they are answered; and how a person writes that. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from featup_app.base.errors import LensError, MarkError
from featup_app.base.words import slug
from featup_app.features import Point
from featup_app.lenses.lens import Limits, Request
from featup_app.lenses.queries import (
    COMBINES,
    COSINE,
    GROUPED,
    GROUPING,
    MEASURES,
    Combine,
    Query,
    as_queries,
    query_to_json,
    settled_combine,
    shown,
)
from featup_app.lenses.query_sets import read_query_set
from featup_app.marks import PointMark, check_inside, mark_to_json

if TYPE_CHECKING:
    from featup_app.images import Image

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"

AUTO: Literal["auto"] = "auto"
"""The proposed threshold (:func:`featup_app.lenses.proposed_threshold`)."""

MASK = "mask"
"""Option that a person writes for a threshold."""

USAGE = (
    "similarity@X,Y (a point in pixels of the image) or similarity@FILE (queries that were saved as .safetensors), or "
    "similarity:cosine@... for the plain cosine, similarity:mask@... or similarity:mask=0.5@... for a mask beside the picture, "
    "similarity:mean@FILE, similarity:maximum@FILE or similarity:difference@FILE for how queries are combined"
)
ARGUMENT = rf"""
    (?P<options>(?::\s*[a-z]+\s*(?:=\s*[^:@,\s]+\s*)?)*)
    @\s*(?:(?P<x>{_NUMBER})\s*,\s*(?P<y>{_NUMBER})
    |"(?P<double>[^"]+)"|'(?P<single>[^']+)'|(?P<plain>[^,"'\s][^,"']*?\.safetensors))"""
"""Verbose regular expression of what follows the lens's name on the command line."""


@dataclass(frozen=True)
class SimilarityRequest(Request):
    """Similarity to queries; ``SimilarityRequest((x, y))`` asks for that to the feature under a point in image pixels.

    Attributes:
        queries: the marks that are asked, also hidden ones, at least one.
        colormap, limits: of the picture; limits as they suit the image if None.
        measure: one of :data:`~featup_app.lenses.queries.MEASURES`.
        grouping: 0 to 1, see :func:`~featup_app.lenses.similarity`; without effect on the plain cosine.
        outline: whether a window outlines the group of the cell under the point, if one point alone is asked; the plain cosine
            has none.
        combine: how the answers to several queries become one; by the signs of the queries if None.
        threshold: value from which on pixels belong to the mask, :data:`AUTO` for the proposed one, None for no mask.
        title: of the set that the queries are from; may be empty.
        file: that they were read from; may be empty.
    """

    lens: ClassVar[str] = "similarity"
    queries: tuple[Query, ...]
    colormap: str = "viridis"
    limits: Limits | None = None
    measure: str = GROUPED
    grouping: float = GROUPING
    outline: bool = False
    combine: str | None = None
    threshold: float | Literal["auto"] | None = None
    title: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "queries", as_queries(self.queries))

    @property
    def point(self) -> Point:
        """The point that is asked; of several queries or larger marks the first point of the first one."""
        return self.queries[0].mark.path[0]

    @property
    def asked(self) -> tuple[Query, ...]:
        """The queries that are shown. Raises LensError if no positive one is."""
        return shown(self.queries)

    @property
    def only_point(self) -> Point | None:
        """The point, if one point of the picture alone is asked."""
        queries = [query for query in self.queries if not query.hidden]
        alone = queries[0] if len(queries) == 1 else None
        if alone is None or alone.negative or alone.vectors is not None or not isinstance(alone.mark, PointMark):
            return None
        return alone.mark.point

    @property
    def settled_combine(self) -> Combine:
        """How the answers become one. Raises LensError if there is no such way."""
        return settled_combine(self.asked, self.combine)

    @property
    def words(self) -> str:
        """What is asked, for titles."""
        queries = [query for query in self.queries if not query.hidden]
        if self.only_point is not None and not queries[0].name:
            return "x {:.1f}, y {:.1f}".format(*self.only_point)
        negative = sum(query.negative for query in queries)
        if self.title:
            return self.title
        if len(queries) == 1:
            return queries[0].words
        return f"{len(queries)} queries" + (f", {negative} negative" if negative else "")

    def computation(self) -> Hashable:
        queries = tuple(dataclasses.replace(query, name="") for query in self.queries if not query.hidden)
        combine = self.combine if len(queries) > 1 else None
        grouped = (self.grouping, self.outline) if self.measure == GROUPED else None
        return queries, combine, self.measure, grouped, self.threshold == AUTO

    def stem(self) -> str:
        start, point = COSINE if self.measure == COSINE else self.lens, self.only_point
        if point is not None:
            return "{}-{:g}-{:g}".format(start, *point)
        queries = [query for query in self.queries if not query.hidden]
        if self.combine is not None and len(queries) > 1:
            start = f"{start}-{self.combine}"
        if self.title:
            return f"{start}-{slug(self.title) or 'queries'}"
        facts = json.dumps([query_to_json(query) for query in queries], sort_keys=True)
        return f"{start}-{len(queries)}-queries-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"

    def inputs(self) -> tuple[Path, ...]:
        return (Path(self.file),) if self.file else ()

    def gives_mask(self) -> bool:
        return self.threshold is not None

    def check_image(self, image: Image) -> None:
        if self.measure not in MEASURES:
            raise LensError(f'There is no similarity "{self.measure}"; choose one of: {", ".join(MEASURES)}.')
        if self.threshold not in (None, AUTO) and not (_is_number(self.threshold) and -1 <= float(self.threshold) <= 1):
            raise LensError(f'The threshold is {self.threshold}; it must be "{AUTO}", or a number from -1 to 1.')
        settled_combine(self.asked, self.combine)
        height, width = image.size_hw
        for query in self.asked:
            if query.vectors_for(image.sha256) is not None:
                continue
            try:
                check_inside(query.mark, image.size_hw)
            except MarkError as error:
                raise LensError(
                    f'The {query.mark.words} lies outside of "{image.name}", which is {width} pixels wide and {height} high.'
                ) from error

    def as_json(self) -> dict[str, Any]:
        return {**super().as_json(), "queries": [query_to_json(query) for query in self.queries]}

    def provenance(self) -> dict[str, Any]:
        """What was asked, as records of pictures keep it: the point alone, or all queries without their vectors."""
        point = self.only_point
        if point is not None:
            return {"point_xy": point}
        return {
            **({"set": self.title} if self.title else {}),
            "queries": [_recorded(query) for query in self.asked],
            "combine": self.settled_combine,
        }


def _recorded(query: Query) -> dict[str, Any]:
    source = None if query.vectors is None else query.vectors.source
    return {
        "mark": mark_to_json(query.mark),
        "negative": query.negative,
        **({"name": query.name} if query.name else {}),
        **({} if source is None else {"image": source.image, "image_sha256": source.image_sha256}),
    }


def parsed(found: re.Match[str]) -> SimilarityRequest:
    """The request that a match of :data:`ARGUMENT` stands for; a file of queries is read.

    Raises:
        LensError: for an option that there is not, or a file that cannot be read.
    """
    file = found["double"] or found["single"] or found["plain"]
    if file:
        saved = read_query_set(Path(file))
        request = SimilarityRequest(
            saved.queries,
            measure=saved.measure,
            grouping=saved.grouping,
            combine=saved.combine,
            title=saved.name,
            file=file,
        )
    else:
        request = SimilarityRequest(as_queries((float(found["x"]), float(found["y"]))))
    for option in filter(None, re.split(r"\s*:\s*", found["options"].strip())):
        request = dataclasses.replace(request, **_option(option.strip().lower()))
    return request


def _option(text: str) -> dict[str, Any]:
    """The fields of a request that an option sets."""
    name, given, value = (part.strip() for part in text.partition("="))
    if name in MEASURES and not given:
        return {"measure": name}
    if name in COMBINES and not given:
        return {"combine": name}
    if name == MASK:
        if value in ("", AUTO):
            return {"threshold": AUTO}
        if _is_number(value) and -1 <= float(value) <= 1:
            return {"threshold": float(value)}
        raise LensError(f'The threshold "{value}" is no number from -1 to 1; write mask=0.5, or mask alone.')
    raise LensError(f'A similarity has no option "{text}"; it has: {", ".join((*MEASURES, *COMBINES, MASK))}.')


def _is_number(value: object) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
