"""Views of one image that zoom and pan together, with one crosshair, one query and one set of marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from featup_app.features import Point, Size
from featup_app.gui.marks.tools import Tool
from featup_app.gui.views.image_view import ImageView
from featup_app.images import Image, resized
from featup_app.lenses.queries import Query
from featup_app.marks import PointMark

DISPLAYED_SIDE = 4096
"""A longer image is shown reduced: no screen shows more, and a hundred megapixels make every zoom slow."""

MOST_ENLARGED, LEAST_OF_WINDOW = 64.0, 0.25
"""Limits of the zoom: screen pixels for an image pixel, and the part of its view that the whole image fills."""

_STRIPES = np.array([(58, 60, 66), (150, 74, 128)], np.uint8)
"""Colours of the pixels without data, in diagonal stripes that no picture has."""


def hatched(pixels: npt.NDArray[np.uint8], missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """A copy of (H, W, 3) pixels with stripes where ``missing``, which may have another size, has no data."""
    height, width = pixels.shape[:2]
    rows = np.arange(height) * missing.shape[0] // height
    columns = np.arange(width) * missing.shape[1] // width
    stripe = max(2, max(height, width) // 120)
    diagonal = (np.arange(height)[:, None] + np.arange(width)) // stripe % 2
    result = pixels.copy()
    there = missing[rows[:, None], columns]
    result[there] = _STRIPES[diagonal[there]]
    return result


def displayed(image: Image) -> npt.NDArray[np.uint8]:
    """The pixels of an image as a screen needs them: reduced if it is large, pixels without data striped."""
    shrink = min(1.0, DISPLAYED_SIDE / max(image.size_hw))
    pixels = resized(image.pixels, (max(1, round(image.size_hw[0] * shrink)), max(1, round(image.size_hw[1] * shrink))))
    return pixels if image.missing is None else hatched(pixels, image.missing)


class LinkedViews(QWidget):
    """The part that a grid of lenses and a comparison share.

    Attributes:
        views: by name.

    Signals: ``hovered((x, y) or None)``, ``clicked((x, y))``, ``unclicked()``, ``marked(Mark, negative, added)``,
    ``removed()``, ``held(bool)``, ``lined(first, last)``, ``moved(columns, rows)``.
    """

    hovered = Signal(object)
    clicked = Signal(object)
    unclicked = Signal()
    marked = Signal(object, bool, bool)
    removed = Signal()
    held = Signal(bool)
    lined = Signal(object, object)
    moved = Signal(int, int)

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[str, ImageView] = {}
        self._image: Image | None = None
        self._image_hw: Size = (1, 1)
        self._query: Point | None = None
        self._tool = Tool()
        self._look: tuple[Point, float] | None = None  # middle and scale; None shows the whole image in any window

    def link(self, views: Mapping[str, ImageView]) -> None:
        """Let views that were not linked before zoom and pan with the others."""
        for name, view in views.items():
            self.views[name] = view
            view.box.tool = self._tool
            view.looked.connect(lambda x, y, scale: self._look_at((x, y), scale))
            view.resized.connect(self._arrange)
            view.hovered.connect(lambda x, y: self._hover((x, y)))
            view.left.connect(lambda: self._hover(None))
            view.clicked.connect(lambda x, y: self.clicked.emit((x, y)))
            view.unclicked.connect(self.unclicked)
            view.marked.connect(self.marked)
            view.removed.connect(self.removed)
            view.held.connect(self.held)
            view.lined.connect(self.lined)
            view.moved.connect(self.moved)

    def show_image(self, image: Image) -> None:
        """Show another image everywhere; the lenses' pictures of the former one go."""
        pixels = displayed(image)
        for view in self.views.values():
            view.show_image(pixels, image.size_hw)
            view.show_crosshair(None)
            view.marks.show(())
            view.marks.show_matches(())
        self._image, self._image_hw = image, image.size_hw
        self.fit()

    def show_query(self, point: Point) -> None:
        """Mark the query pixel in every view."""
        self._query = point
        for view in self.views.values():
            view.show_query(point)

    def show_marks(self, queries: Sequence[Query], selected: int | None = None) -> None:
        """Draw what is asked in every view. One point alone is the query pixel, which has its own mark."""
        alone = len(queries) == 1 and isinstance(queries[0].mark, PointMark)
        alone = alone and not (queries[0].negative or queries[0].hidden)
        for view in self.views.values():
            view.marks.show(() if alone else queries, selected)
            view.show_query(self._query if alone else None)

    def show_line(self, line: tuple[Point, Point] | None) -> None:
        """Draw the line along which values are plotted in every view; None draws none."""
        for view in self.views.values():
            view.marks.show_line(line)

    def choose_tool(self, tool: Tool) -> None:
        """What the left mouse button draws in all views."""
        self._tool = tool
        for view in self.views.values():
            view.box.tool = tool

    def _hover(self, point: Point | None) -> None:
        for view in self.views.values():
            view.show_crosshair(point)
        self.hovered.emit(point)

    def fit(self) -> None:
        """Show the whole image in all views, also when their size changes."""
        self._look = None
        self._arrange()

    def zoom(self, factor: float) -> None:
        """Enlarge all views around their middle; a step that would pass 100 % ends there."""
        middle, scale = self._seen()
        wanted, whole = scale * factor, self._whole_pixels()
        passes = min(scale, wanted) < whole * (1 - 1e-6) and max(scale, wanted) > whole * (1 + 1e-6)
        self._look_at(middle, whole if passes else wanted)

    def zoom_to_pixels(self) -> None:
        """Show each pixel of the image as one pixel of the screen (100 %)."""
        self._look_at(self._seen()[0], self._whole_pixels())

    def _whole_pixels(self) -> float:
        """The scale of 100 %, in the units of the window system, which are several pixels on a dense screen."""
        return 1 / self.devicePixelRatioF()

    def _look_at(self, middle: Point, scale: float) -> None:
        whole = self._whole_pixels()
        least = min(self._fitting_scale() * LEAST_OF_WINDOW, whole)
        self._look = middle, min(max(scale, least), MOST_ENLARGED * whole)
        self._arrange()

    def _fitting_scale(self) -> float:
        return min((view.fitting_scale() for view in self.views.values() if view.isVisibleTo(self)), default=1.0)

    def _seen(self) -> tuple[Point, float]:
        """Middle and scale that all views show."""
        if self._look is not None:
            return self._look
        height, width = self._image_hw
        return (width / 2, height / 2), self._fitting_scale()

    def _arrange(self) -> None:
        """Give every view the same middle and scale, so that an image point has the same position in each."""
        middle, scale = self._seen()
        for view in self.views.values():
            if view.isVisibleTo(self):
                view.look_at(middle, scale)
