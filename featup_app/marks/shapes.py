"""The marks that a person can draw, as frozen dataclasses in pixels of the original image, and their form in JSON.

The centre of the top left pixel is (0.5, 0.5), as everywhere. A mark knows no picture: it may lie partly outside of one, and
:mod:`featup_app.marks.coverage` finds the pixels of an output that it covers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from featup_app.base.errors import MarkError
from featup_app.features import Point

LARGEST = 1e7
"""Of coordinates and widths, in pixels; no picture is that large, and differences of squares stay exact enough."""

MOST_POINTS = 100_000
"""Of one stroke or polygon."""


@dataclass(frozen=True)
class PointMark:
    """One point.

    Raises:
        MarkError: as all marks, for coordinates that are no finite numbers, or beyond :data:`LARGEST`.
    """

    kind: ClassVar[str] = "point"
    point: Point

    def __post_init__(self) -> None:
        object.__setattr__(self, "point", _checked(self.kind, self.point))

    @property
    def path(self) -> tuple[Point, ...]:
        """The points that the mark goes through, in order; a closed mark ends where it began."""
        return (self.point,)

    @property
    def words(self) -> str:
        """The mark in words, for titles and errors."""
        return f"point {_in_words(self.point)}"


@dataclass(frozen=True)
class BoxMark:
    """A rectangle with sides along the axes; any two opposite corners, kept as the top left and the bottom right one."""

    kind: ClassVar[str] = "box"
    first: Point
    last: Point

    def __post_init__(self) -> None:
        corners = _checked(self.kind, self.first), _checked(self.kind, self.last)
        (left, right), (top, bottom) = (sorted(values) for values in zip(*corners, strict=True))
        object.__setattr__(self, "first", (left, top))
        object.__setattr__(self, "last", (right, bottom))

    @property
    def path(self) -> tuple[Point, ...]:
        """Its corners, the first one again at the end."""
        (left, top), (right, bottom) = self.first, self.last
        return (left, top), (right, top), (right, bottom), (left, bottom), (left, top)

    @property
    def words(self) -> str:
        """The mark in words, for titles and errors."""
        return f"box from {_in_words(self.first)} to {_in_words(self.last)}"


@dataclass(frozen=True)
class StrokeMark:
    """A brush stroke: all that is no farther than half the width from a line through the points, one or more."""

    kind: ClassVar[str] = "stroke"
    points: tuple[Point, ...]
    width: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", _checked_path(self.kind, self.points, 1))
        width = _number(self.kind, self.width)
        if not 0 < width <= LARGEST:
            raise MarkError(
                f"A stroke is {self.width} pixels wide; its width must be above 0, and at most {LARGEST:g}."
            )
        object.__setattr__(self, "width", width)

    @property
    def path(self) -> tuple[Point, ...]:
        """Its points."""
        return self.points

    @property
    def words(self) -> str:
        """The mark in words, for titles and errors."""
        return f"stroke from {_in_words(self.points[0])} to {_in_words(self.points[-1])}"


@dataclass(frozen=True)
class PolygonMark:
    """The inside of a closed line through three or more points. Where it crosses itself, every second part is inside."""

    kind: ClassVar[str] = "polygon"
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", _checked_path(self.kind, self.points, 3))

    @property
    def path(self) -> tuple[Point, ...]:
        """Its corners, the first one again at the end."""
        return (*self.points, self.points[0])

    @property
    def words(self) -> str:
        """The mark in words, for titles and errors."""
        return f"polygon of {len(self.points)} corners around {_in_words(self.points[0])}"


Mark = PointMark | BoxMark | StrokeMark | PolygonMark

_KINDS: dict[str, type[Mark]] = {kind.kind: kind for kind in (PointMark, BoxMark, StrokeMark, PolygonMark)}


def mark_to_json(mark: Mark) -> dict[str, Any]:
    """The mark in the types that JSON knows: its kind, and its fields by name, such as ``{"kind": "point", "point": [3, 4]}``."""
    fields = {field.name: getattr(mark, field.name) for field in dataclasses.fields(mark)}
    return {"kind": mark.kind, **{name: _plain(value) for name, value in fields.items()}}


def mark_from_json(facts: object) -> Mark:
    """The mark that :func:`mark_to_json` described.

    Raises:
        MarkError: if that describes no mark.
    """
    name = facts.get("kind") if isinstance(facts, Mapping) else facts
    if not isinstance(facts, Mapping) or not isinstance(name, str) or name not in _KINDS:
        raise MarkError(f'There is no mark of the kind "{str(name)[:40]}"; choose one of: {", ".join(_KINDS)}.')
    kind = _KINDS[name]
    known = [field.name for field in dataclasses.fields(kind)]
    wrong = next((name for name in (*known, *facts) if name != "kind" and (name in known) != (name in facts)), None)
    if wrong is not None:
        raise MarkError(
            f'A mark of the kind "{kind.kind}" {"lacks its" if wrong in known else "has no"} "{str(wrong)[:40]}"; '
            f"it is described by: {', '.join(known)}."
        )
    return kind(**{name: facts[name] for name in known})


def _in_words(point: Point) -> str:
    """Tenths of a pixel say where a mark lies."""
    return f"({round(point[0], 1):g}, {round(point[1], 1):g})"


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _checked_path(kind: str, points: object, fewest: int) -> tuple[Point, ...]:
    if not isinstance(points, Sequence) or isinstance(points, str):
        raise MarkError(f"The points of a {kind} must be a list of (x, y), not {str(points)[:40]}.")
    if not fewest <= len(points) <= MOST_POINTS:
        raise MarkError(f"A {kind} of {len(points)} points is not possible; give {fewest} to {MOST_POINTS}.")
    return tuple(_checked(kind, point) for point in points)


def _checked(kind: str, point: object) -> Point:
    if not isinstance(point, Sequence) or isinstance(point, str) or len(point) != 2:
        raise MarkError(f"A point of a {kind} must be two numbers, x and y, not {str(point)[:40]}.")
    return _number(kind, point[0]), _number(kind, point[1])


def _number(kind: str, value: object) -> float:
    try:
        if isinstance(value, str | bool):
            raise TypeError
        number = float(value)  # type: ignore[arg-type]  # numbers of NumPy too; what is none is refused
    except (TypeError, ValueError, OverflowError):
        raise MarkError(f'A {kind} needs numbers, and "{str(value)[:40]}" is none.') from None
    if not math.isfinite(number) or abs(number) > LARGEST:
        raise MarkError(f"A {kind} lies at {number:g}; coordinates must be from {-LARGEST:g} to {LARGEST:g} pixels.")
    return number
