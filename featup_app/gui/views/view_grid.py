"""The linked views of an image side by side, or one of them alone."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QGridLayout, QWidget

from featup_app.features import Point, Size
from featup_app.gui import style
from featup_app.gui.views.file_bar import FileBar
from featup_app.gui.views.footers import LegendBar
from featup_app.gui.views.image_view import ImageView
from featup_app.gui.widgets import plain_tip
from featup_app.images import Image, resized
from featup_app.lenses import LENSES

DISPLAYED_SIDE = 4096
"""A longer image is shown reduced: no screen shows more, and a hundred megapixels make every zoom slow."""

MOST_ENLARGED, LEAST_OF_WINDOW = 64.0, 0.25
"""Limits of the zoom: screen pixels for an image pixel, and the part of its view that the whole image fills."""

IMAGE = "image"
"""Name of the view of the image itself, beside those of the lenses."""

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


class ViewGrid(QWidget):
    """The image and what each lens shows of it, zooming and panning together, with one crosshair.

    Attributes:
        views: by the name of their lens, after that of the image itself.

    Signals: ``hovered((x, y) or None)``, ``clicked((x, y))``, ``unclicked()``, ``moved(columns, rows)``, ``picked(name)``.
    """

    hovered = Signal(object)
    clicked = Signal(object)
    unclicked = Signal()
    moved = Signal(int, int)
    picked = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.file_bar = FileBar()
        self.views: dict[str, ImageView] = {
            IMAGE: ImageView("Image", tooltip="The original picture", with_lens=False, footer=self.file_bar),
            **{name: ImageView(lens.title, tooltip=lens.tooltip, footer=LegendBar()) for name, lens in LENSES.items()},
        }
        self._alone: str | None = None
        self._image_hw: Size = (1, 1)
        self._look: tuple[Point, float] | None = None  # middle and scale; None shows the whole image in any window
        self._columns = math.ceil(math.sqrt(len(self.views)))
        layout = QGridLayout(self)
        layout.setContentsMargins(style.SPACING, style.SPACING, style.SPACING, style.SPACING)
        layout.setSpacing(style.SPACING)
        for index, (name, view) in enumerate(self.views.items()):
            row, column = divmod(index, self._columns)
            layout.addWidget(view, row, column)
            layout.setRowStretch(row, 1)
            layout.setColumnStretch(column, 1)
            view.looked.connect(lambda x, y, scale: self._look_at((x, y), scale))
            view.resized.connect(self._arrange)
            view.hovered.connect(lambda x, y: self._hover((x, y)))
            view.left.connect(lambda: self._hover(None))
            view.clicked.connect(lambda x, y: self.clicked.emit((x, y)))
            view.unclicked.connect(self.unclicked)
            view.moved.connect(self.moved)
            view.maximise_asked.connect(lambda name=name: self.toggle_alone(name))
            view.picked.connect(lambda name=name: self.picked.emit(name))

    def show_image(self, image: Image) -> None:
        """Show another image everywhere; the lenses' pictures of the former one go."""
        shrink = min(1.0, DISPLAYED_SIDE / max(image.size_hw))
        pixels = resized(
            image.pixels, (max(1, round(image.size_hw[0] * shrink)), max(1, round(image.size_hw[1] * shrink)))
        )
        if image.missing is not None:
            pixels = hatched(pixels, image.missing)
        for view in self.views.values():
            view.show_image(pixels, image.size_hw)
            view.show_crosshair(None)
        self._image_hw = image.size_hw
        self.fit()
        self.file_bar.show_image(image)
        self.views["image"].subtitle.setText(image.name)
        self.views["image"].subtitle.setToolTip(plain_tip(str(image.path or image.name)))

    def show_query(self, point: Point) -> None:
        """Mark the query pixel in every view."""
        for view in self.views.values():
            view.show_query(point)

    def _hover(self, point: Point | None) -> None:
        for view in self.views.values():
            view.show_crosshair(point)
        self.hovered.emit(point)

    @property
    def alone(self) -> str | None:
        """The view that is shown alone, if one is."""
        return self._alone

    def toggle_alone(self, name: str) -> None:
        """Show one view alone, or all of them again."""
        self._alone = None if self._alone == name else name
        for other, view in self.views.items():
            view.setVisible(self._alone in (None, other))
            view.maximise.setIcon(style.icon("maximise" if self._alone is None else "restore", style.MUTED))
        layout = self.layout()
        assert isinstance(layout, QGridLayout)
        shown = [divmod(index, self._columns) for index, name in enumerate(self.views) if self._alone in (None, name)]
        for row in range(layout.rowCount()):
            layout.setRowStretch(row, int(any(row == other for other, _ in shown)))
        for column in range(layout.columnCount()):
            layout.setColumnStretch(column, int(any(column == other for _, other in shown)))
        self._arrange()
        if self._alone is not None:
            self.views[self._alone].setFocus()

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
        return min(view.fitting_scale() for view in self.views.values() if not view.isHidden())

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
            if not view.isHidden():
                view.look_at(middle, scale)

    def opacities(self) -> dict[str, float]:
        """Of the lenses' pictures over the image, by the name of their lens."""
        return {name: self.views[name].shown_opacity for name in LENSES}

    def focused(self) -> str:
        """Name of the view that has the keyboard, else of the one alone, else of the first lens."""
        for name, view in self.views.items():
            if view.hasFocus():
                return name
        return self._alone or next(iter(LENSES))
