"""Queries: the marks that a similarity is asked of, and how the answers to several become one. Imports no torch.

A query is a mark on the picture that is shown, or one that was made on another picture and brings the features of its mark along.
Several queries become one answer in one of three ways (:data:`COMBINES`), whose formulas are in :data:`FORMULAS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from featup_app.base.errors import LensError
from featup_app.features import Point, Size
from featup_app.marks import BoxMark, Mark, PointMark, PolygonMark, StrokeMark, mark_from_json, mark_to_json

if TYPE_CHECKING:
    from featup_app.features import FeatureMap

GROUPED = "grouped"
COSINE = "cosine"
MEASURES = (GROUPED, COSINE)
"""What similarity is: whitened, grouped and less what is common in the picture; or the plain cosine of the features."""

GROUPING = 1.0
"""Default of grouping, chosen by clicks on training pictures (decision 0085)."""

MOST_QUERIES = 200
"""That are asked at once, or stand in one set."""

Combine = Literal["mean", "maximum", "difference"]

MEAN: Combine = "mean"
MAXIMUM: Combine = "maximum"
DIFFERENCE: Combine = "difference"
COMBINES: tuple[Combine, ...] = (MEAN, MAXIMUM, DIFFERENCE)
"""Ways in which several queries become one answer."""

FORMULAS: dict[str, str] = {
    MEAN: "Similarity to the mean of the positive queries: s(x, mean q⁺) − max(0, s(x, mean q⁻)). One direction for all: best "
    "for several looks at one thing.",
    MAXIMUM: "Similarity to the positive query that is most alike: max s(x, q⁺) − max(0, max s(x, q⁻)). Any of them is enough: "
    "best for things that look different.",
    DIFFERENCE: "Mean similarity to the positive queries less mean similarity to the negative ones: mean s(x, q⁺) − mean s(x, "
    "q⁻). What is like both is near 0: best for telling two things apart.",
}
"""Each way in words with its formula, for tooltips. s(x, q) is the chosen similarity of a pixel x to a query q."""


@dataclass(frozen=True)
class QuerySource:
    """The features that a query was made of.

    Attributes:
        backbone: its name; None if it is not known.
        weights_sha256: hash of its weights; None if it is not known.
        layer: name of the layer.
        channels: C.
        normalised: whether the channels of each cell were normalised by the upsampler.
        input_hw: what the picture was resized to for the backbone; other sizes are served too.
        method: name of the upsampling method.
        image: name of the picture.
        image_sha256: its hash.
    """

    backbone: str | None
    weights_sha256: str | None
    layer: str
    channels: int
    normalised: bool
    input_hw: tuple[int, int]
    method: str
    image: str
    image_sha256: str

    @staticmethod
    def of(features: FeatureMap, method: str) -> QuerySource:
        """That of the queries on a map, in the space of the field that upsamples it."""
        found = features.provenance.get("weights_sha256")
        return QuerySource(
            backbone=features.backbone_name,
            weights_sha256=None if found is None else str(found),
            layer=features.layer,
            channels=features.channels,
            normalised=features.normalised,
            input_hw=features.geometry.input_hw,
            method=method,
            image=features.image.name,
            image_sha256=features.image.sha256,
        )

    def check_fits(self, features: FeatureMap) -> None:
        """Whether queries of this source can be asked of a map.

        Raises:
            LensError: if it is of another backbone, other weights, another layer or width, or normalised otherwise.
        """
        there = QuerySource.of(features, self.method)
        for title, own, other in (
            ("backbone", self.backbone, there.backbone),
            ("weights of the backbone", self.weights_sha256, there.weights_sha256),
            ("layer", self.layer, there.layer),
            ("number of channels", self.channels, there.channels),
            (
                "normalisation of the channels",
                *(("yes" if each else "no") for each in (self.normalised, there.normalised)),
            ),
        ):
            if own != other and own is not None and other is not None:
                raise LensError(
                    f'The queries from "{self.image}" were made with another {title} ({own}, and here it is {other}); choose '
                    "that one, or mark them again."
                )


@dataclass(frozen=True)
class QueryVectors:
    """The features of a mark, with which it can be asked of other pictures; means over its pixels, each a direction of its own.

    Attributes:
        feature: (C) of the field.
        cell: (C) mean of the coarse features that the field carries to the mark, for the similarity before grouping.
        group: (C) the same of the mean features of the groups of these cells.
        commonness: of the mark in its own picture.
        source: what they were made of.
    """

    feature: tuple[float, ...] = field(repr=False)
    cell: tuple[float, ...] = field(repr=False)
    group: tuple[float, ...] = field(repr=False)
    commonness: float
    source: QuerySource

    def __post_init__(self) -> None:
        widths = {len(self.feature), len(self.cell), len(self.group)}
        if widths != {self.source.channels}:
            raise LensError(f"The vectors of a query have {sorted(widths)} numbers instead of {self.source.channels}.")


@dataclass(frozen=True)
class Query:
    """One mark that pixels are compared with.

    Attributes:
        mark: on the picture that is shown, or on that which ``vectors`` are from.
        negative: whether likeness to it counts against a pixel.
        name: that a person gave it; may be empty.
        hidden: whether it is left out.
        vectors: of a query that was made before, for pictures other than its own; on its own picture the mark is asked.
    """

    mark: Mark
    negative: bool = False
    name: str = ""
    hidden: bool = False
    vectors: QueryVectors | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.mark, PointMark | BoxMark | StrokeMark | PolygonMark):
            raise LensError(f"A query needs a mark, such as PointMark((120, 80)), not {str(self.mark)[:40]}.")

    @property
    def words(self) -> str:
        """Its name, or its mark in words, with the picture that it was made on if it may be another one."""
        place = "" if self.vectors is None else f" of {self.vectors.source.image}"
        return self.name or f"{self.mark.words}{place}"

    def vectors_for(self, image_sha256: str) -> QueryVectors | None:
        """The vectors to ask a picture with; None if its mark is on it."""
        vectors = self.vectors
        return None if vectors is None or vectors.source.image_sha256 == image_sha256 else vectors


def as_queries(asked: Point | Query | Sequence[Query], image_hw: Size | None = None) -> tuple[Query, ...]:
    """What is asked as a tuple of queries: a point (x, y) means one positive query of it.

    Args:
        asked: a point, a query or queries.
        image_hw: height and width of the image, to which a point outside of it is moved; it stays outside if None.

    Raises:
        LensError: if there is no query, or more than :data:`MOST_QUERIES`, or something else than a query.
        MarkError: if a point is none.
    """
    if isinstance(asked, Query):
        return (asked,)
    if len(asked) == 2 and not any(isinstance(each, Query) for each in asked):
        x, y = PointMark((asked[0], asked[1])).point  # type: ignore[arg-type]  # the mark checks them
        if image_hw is not None:
            x, y = min(max(x, 0.0), float(image_hw[1])), min(max(y, 0.0), float(image_hw[0]))
        return (Query(PointMark((x, y))),)
    queries = tuple(each for each in asked if isinstance(each, Query))
    if len(queries) < len(asked):
        raise LensError("A similarity is asked of a point (x, y) or of queries.")
    if not queries:
        raise LensError("There is no query; a similarity needs at least one mark.")
    if len(queries) > MOST_QUERIES:
        raise LensError(
            f"There are {len(queries)} queries; at most {MOST_QUERIES} can be asked at once, so leave some out."
        )
    return queries


def shown(queries: Sequence[Query]) -> tuple[Query, ...]:
    """Those that are not hidden.

    Raises:
        LensError: if no positive one is among them.
    """
    asked = tuple(query for query in queries if not query.hidden)
    if all(query.negative for query in asked):
        raise LensError("No positive query is shown; show one, or mark what to look for.")
    return asked


def settled_combine(queries: Sequence[Query], combine: str | None) -> Combine:
    """How the queries are combined: as chosen, or the difference where one is negative, or else the mean.

    Raises:
        LensError: if there is no such way.
    """
    if combine is None:
        return DIFFERENCE if any(query.negative for query in queries) else MEAN
    if combine not in COMBINES:
        raise LensError(f'Queries cannot be combined by "{combine}"; choose one of: {", ".join(COMBINES)}.')
    return combine


def query_to_json(query: Query) -> dict[str, Any]:
    """The query in the types that JSON knows; :func:`query_from_json` is the reverse."""
    vectors = query.vectors
    kept = None if vectors is None else {**dataclasses.asdict(vectors)}
    return {
        "mark": mark_to_json(query.mark),
        "negative": query.negative,
        "name": query.name,
        "hidden": query.hidden,
        **({} if kept is None else {"vectors": kept}),
    }


def query_from_json(facts: Mapping[str, Any]) -> Query:
    """The query that :func:`query_to_json` described.

    Raises:
        LensError: if that describes no query.
        MarkError: if its mark is none.
    """
    try:
        values = dict(facts)
        mark = mark_from_json(values.pop("mark", None))
        negative, name, hidden = (
            values.pop(key, default) for key, default in (("negative", False), ("name", ""), ("hidden", False))
        )
        vectors = values.pop("vectors", None)
        if vectors is not None:
            vectors = dict(vectors)
            vectors["source"] = source_from_json(vectors["source"])
            for key in ("feature", "cell", "group"):
                vectors[key] = tuple(float(value) for value in vectors[key])
            vectors = QueryVectors(**vectors)
        if values or not isinstance(negative, bool) or not isinstance(hidden, bool) or not isinstance(name, str):
            raise TypeError(f"{next(iter(values), 'its name or its sign')} is not understood")
    except (KeyError, TypeError, ValueError) as error:
        raise LensError(f"This is no query: {error}.") from error
    return Query(mark, negative, name, hidden, vectors)


def source_from_json(facts: Mapping[str, Any]) -> QuerySource:
    """The source that its fields describe. Raises TypeError or ValueError if they do not."""
    values = dict(facts)
    height, width = values.pop("input_hw")
    source = QuerySource(**values, input_hw=(int(height), int(width)))
    texts = (source.layer, source.method, source.image, source.image_sha256)
    if not all(isinstance(text, str) for text in texts) or not isinstance(source.channels, int):
        raise ValueError("its source is not understood")
    return source
