"""Comparing two to four settings over one image: the same lens, colours that mean the same, cost and label-free scores.

Importing this imports no torch. The methods of :class:`Comparison` take the session, whose thread calls them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featup_app.base.errors import FeatUpError
from featup_app.base.peak_memory import extra_megabytes
from featup_app.base.progress import Progress, part_of, silent
from featup_app.engine.comparison_titles import titles_of
from featup_app.engine.scoring import MethodScores, score_method
from featup_app.engine.settings import ViewSettings
from featup_app.fields import find_method
from featup_app.images import Image
from featup_app.lenses import (
    CAMView,
    FeatureSpace,
    LensView,
    Look,
    PCARequest,
    PCAView,
    Request,
    heat_picture,
    space_of,
)
from featup_app.lenses.lens import ColorRange, Limits, Pixels, Values

if TYPE_CHECKING:
    from featup_app.engine.session import Session
    from featup_app.fields import FeatureField
    from featup_app.lenses import LockedBasis

LEAST_COLUMNS, MOST_COLUMNS = 2, 4
_DRAWN_CHANNELS = 3
_AT_ONCE = 0.002
"""Seconds in which only what was there before can be had."""

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Cost:
    """What a column costs.

    Attributes:
        features_seconds: for the backbone, once loaded; None where its features were there before.
        field_seconds: for making the field of them; None where it was there before.
        drawing_seconds: for three channels at the output size.
        peak_mb: memory that making and drawing need beyond what was used before and the result, in units of 1e6 bytes; None
            where the system does not report it.
    """

    features_seconds: float | None
    field_seconds: float | None
    drawing_seconds: float
    peak_mb: float | None

    def in_words(self) -> tuple[str, ...]:
        """Lines for a caption."""
        memory = "" if self.peak_mb is None else f", {self.peak_mb:.0f} MB"
        lines = [f"upsampled in {_seconds((self.field_seconds or 0.0) + self.drawing_seconds)}{memory}"]
        lines += [] if self.features_seconds is None else [f"features in {_seconds(self.features_seconds)}"]
        return tuple(lines)


@dataclass(frozen=True, eq=False)
class ColumnView:
    """What one column shows: a view with the look that it was read from, or the sentence why there is none.

    Attributes:
        column: its index.
        view, look: the answer of the lens to the request; None if it failed.
        cost: of the column; None if it failed before it was known.
        note: a sentence about its colours, if they do not mean what those of the first column mean.
        error: why it failed; None if it did not.
    """

    column: int
    view: LensView | None = None
    look: Look | None = None
    cost: Cost | None = None
    note: str | None = None
    error: str | None = None


@dataclass(frozen=True, eq=False)
class DifferenceMap:
    """How far the features of two columns point apart.

    Attributes:
        one, other: titles of the columns.
        values: (H, W) cosine distance, 0 .. 2.
        limits: values of the first and the last colour.
        colormap: of the picture.
    """

    one: str
    other: str
    values: Values
    limits: Limits
    colormap: str = "magma"

    def picture(self) -> Pixels:
        """(H, W, 3) uint8 RGB."""
        return heat_picture(self.values, colormap=self.colormap, limits=self.limits)

    def legend(self) -> ColorRange:
        """What the colours mean."""
        words = "Cosine distance between the features of the two columns at each pixel, over all channels"
        return ColorRange(self.colormap, self.limits, "cosine distance", words)

    def reading(self, row: int, column: int) -> str:
        """The value at a pixel, for a status bar."""
        return f"distance {self.values[row, column]:.3f}"


class Comparison:
    """Two to four columns over one image, each with settings of its own.

    Args:
        image: the picture.
        columns: the settings of each column.

    Attributes:
        image, columns: as given.
        titles: of the columns; they name only what differs between them.

    Raises:
        FeatUpError: for fewer or more columns, or two with the same settings.
        UpsamplerError: for an unknown method.
    """

    def __init__(self, image: Image, columns: Sequence[ViewSettings]) -> None:
        if not LEAST_COLUMNS <= len(columns) <= MOST_COLUMNS:
            raise FeatUpError(
                f"A comparison has {LEAST_COLUMNS} to {MOST_COLUMNS} columns, and {len(columns)} were asked for; name as many "
                "methods or other settings that differ."
            )
        self.image = image
        self.columns = tuple(columns)
        self.titles = titles_of(self.columns)
        for index, settings in enumerate(self.columns):
            if settings in self.columns[:index]:
                raise FeatUpError(
                    f'Two columns of the comparison are the same, "{find_method(settings.method).title}" with equal settings; '
                    "leave one out."
                )
        self._bases: dict[tuple[FeatureSpace, str], LockedBasis] = {}
        self._settled: dict[Request, Request] = {}
        self._features_seconds: dict[Any, float | None] = {}
        self._costs: dict[int, Cost] = {}

    # -- views ---------------------------------------------------------------------------------------------------------

    def view(self, session: Session, index: int, request: Request, progress: Progress = silent) -> ColumnView:
        """What a lens shows of one column. Colours of single columns get one scale by :func:`in_one_scale`.

        Columns are asked in their order: the first one that works decides about what all share, which are the class of an
        activation map and the principal components of each feature space.

        Args:
            session: computes.
            index: of the column.
            request: the same for all columns.
            progress: may cancel.

        Returns:
            The view, whose ``request`` is the given one but for what the answer settled; or the sentence of the FeatUpError that
            kept it from being made.
        """
        try:
            request.check_image(self.image)
            cost = self._cost(session, index, progress)
        except FeatUpError as error:
            return ColumnView(index, error=str(error))
        try:
            asked = self._settled.get(request, request)
            view, look, note = self._answer(session, index, asked, progress)
        except FeatUpError as error:
            return ColumnView(index, cost=cost, error=str(error))
        if (settled := _settled(view)) != request:
            self._settled.setdefault(request, settled)
        return ColumnView(index, view, look, cost, note)

    def views(self, session: Session, request: Request, progress: Progress = silent) -> tuple[ColumnView, ...]:
        """What a lens shows of all columns, in one scale; arguments and failures as in :meth:`view`."""
        count = len(self.columns)
        found = []
        for index, title in enumerate(self.titles):
            progress(title, index, count)
            found.append(self.view(session, index, request, _of_column(progress, title)))
        return in_one_scale(found)

    def _answer(
        self, session: Session, index: int, request: Request, progress: Progress
    ) -> tuple[LensView, Look, str | None]:
        settings = self.columns[index]
        if not isinstance(request, PCARequest) or request.basis is not None:
            return *session.view_and_look(self.image, settings, request, progress), None
        from featup_app.lenses import BasisPicture, LockedBasis
        from featup_app.lenses.pca_bases import hold

        field = session.field(self.image, settings, progress)
        space = space_of(field)
        known = self._bases.get((space, request.fit))
        asked = request if known is None else replace(request, basis=hold(known))
        view, look = session.view_and_look(self.image, settings, asked, progress)
        assert isinstance(view, PCAView)
        if known is None:
            picture = BasisPicture(self.image.name, self.image.sha256, field.geometry.input_hw)
            self._bases[space, request.fit] = LockedBasis(view.basis, space, (picture,))
        first = next(known for known, fit in self._bases if fit == request.fit)
        note = f"PCA colours of its own: {why}." if (why := first.difference(space)) is not None else None
        return view.with_request(request), look, note

    # -- cost and scores -----------------------------------------------------------------------------------------------

    def _cost(self, session: Session, index: int, progress: Progress) -> Cost:
        """The cost of a column, measured when it is first asked for. Raises FeatUpError."""
        if index not in self._costs:
            settings = self.columns[index]
            session.backbone(settings, progress)
            key = settings.backbone, settings.weights_file, settings.layer, settings.input_size
            _, seconds = _timed(lambda: session.features(self.image, settings, progress))
            features_seconds = self._features_seconds.setdefault(key, seconds)
            self._costs[index] = self._measured(session, settings, features_seconds, progress)
        return self._costs[index]

    def _measured(
        self, session: Session, settings: ViewSettings, features_seconds: float | None, progress: Progress
    ) -> Cost:
        import torch

        taken: dict[str, float | None] = {}

        def draw() -> torch.Tensor:
            field, taken["field"] = _timed(lambda: session.field(self.image, settings, progress))
            look = session.look(self.image, settings, progress, channels=_DRAWN_CHANNELS)
            matrix = torch.eye(min(_DRAWN_CHANNELS, field.channels), field.channels)
            started = time.perf_counter()
            drawn = field.project(matrix, size=look.size, progress=progress)
            if drawn.is_cuda:
                torch.cuda.synchronize(drawn.device)
            taken["drawing"] = time.perf_counter() - started
            return drawn

        peak_mb = extra_megabytes(draw, str(session.backbone(settings).device))
        if "drawing" not in taken:
            draw()
        return Cost(features_seconds, taken["field"], taken["drawing"] or 0.0, peak_mb)

    def scores(self, session: Session, index: int, progress: Progress = silent) -> MethodScores:
        """The label-free scores of a column, without the held-out error, which takes long.

        Raises:
            FeatUpError: if its features or field cannot be had.
        """
        return score_method(session, self.image, self.columns[index], held_out=False, progress=progress)

    # -- differences ---------------------------------------------------------------------------------------------------

    def difference(self, session: Session, one: int, other: int, progress: Progress = silent) -> DifferenceMap:
        """The cosine distance between the features of two columns, at the output size of the first of them.

        Args:
            session: computes.
            one, other: indices of the columns.
            progress: may cancel.

        Raises:
            LensError: if their features are of different spaces.
            FeatUpError: if the features of one cannot be had, or the map does not fit into memory.
        """
        from featup_app.fields.field import DEFAULT_TILE_BUDGET
        from featup_app.lenses import cosine_distance
        from featup_app.lenses.pictures import numbers_of

        mine, theirs = (self._field(session, index, progress) for index in (one, other))
        look = session.look(self.image, self.columns[one], progress, channels=1, in_tiles=2 * mine.channels)
        budget = min(DEFAULT_TILE_BUDGET, int(session.memory_budget))
        distance = cosine_distance(mine, theirs, size=look.size, memory_budget=budget, progress=progress)
        session.kept.settle()
        values = numbers_of(distance)
        limits = 0.0, max(float(np.percentile(values, 99.5)), 1e-6)
        return DifferenceMap(self.titles[one], self.titles[other], values, limits)

    def _field(self, session: Session, index: int, progress: Progress) -> FeatureField:
        return session.field(self.image, self.columns[index], progress)


def in_one_scale(columns: Sequence[ColumnView]) -> tuple[ColumnView, ...]:
    """The same views with common limits of their colours: from the lowest to the highest limit of all.

    Views without limits, such as colours of principal components, stay as they are.
    """
    legends = {each.column: _limits(each.view) for each in columns}
    known = [limits for limits in legends.values() if limits is not None]
    if not known:
        return tuple(columns)
    common = min(low for low, _ in known), max(high for _, high in known)
    return tuple(
        each if legends[each.column] is None or each.view is None else replace(each, view=_scaled(each.view, common))
        for each in columns
    )


def _limits(view: LensView | None) -> Limits | None:
    """The limits of the colours of a view, if its request can set them."""
    legend = None if view is None else view.legend()
    if view is None or not isinstance(legend, ColorRange):
        return None
    return legend.limits if any(field.name == "limits" for field in fields(view.request)) else None


def _scaled(view: LensView, limits: Limits) -> LensView:
    request: Request = replace(view.request, limits=limits)  # type: ignore[call-arg]  # _limits has looked
    return view.with_request(request)


def _settled(view: LensView) -> Request:
    """What the other columns are asked, so that all show the same. Other heads number their classes otherwise."""
    return view.named_request() if isinstance(view, CAMView) else view.settled_request()


def _of_column(progress: Progress, title: str) -> Progress:
    return part_of(progress, words=lambda words: f"{title}: {words}")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.01 else "under 0.01 s"


def _timed(make: Callable[[], _Value]) -> tuple[_Value, float | None]:
    """A result and the seconds that it took; None for one that was there before."""
    started = time.perf_counter()
    value = make()
    seconds = time.perf_counter() - started
    return value, None if seconds < _AT_ONCE else seconds
