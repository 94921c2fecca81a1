"""The comparison in place of the views: columns side by side, or two of them in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QButtonGroup,
    QGridLayout,
    QSlider,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from featup_app.engine.comparison import LEAST_COLUMNS, MOST_COLUMNS, ColumnView, DifferenceMap
from featup_app.engine.settings import ViewSettings
from featup_app.gui import style
from featup_app.gui.compare.column import Column
from featup_app.gui.views.footers import LegendBar
from featup_app.gui.views.image_view import ImageView
from featup_app.gui.views.linked_views import LinkedViews, displayed
from featup_app.gui.widgets import ElidedComboBox, button, choice_buttons, icon_button, row_of
from featup_app.images import Image, resized
from featup_app.lenses import LENSES
from featup_app.lenses.lens import Pixels

SIDE, SWIPE, BLINK, DIFFERENCE = "side", "swipe", "blink", "difference"
_MODES = {
    SIDE: ("All", "All columns beside each other"),
    SWIPE: ("Divider", "Two columns in one picture: the first one left of the divider, the second one right of it"),
    BLINK: ("Blink", "Two columns in turn at the same place"),
    DIFFERENCE: ("Difference", "How far the features of two columns point apart: cosine distance at each pixel"),
}
_BLINK = 700
"""Milliseconds that each column is shown."""

_AROUND = 150
"""Pixels of the height of a column that are not its picture."""


class ComparePanel(LinkedViews):
    """Signals, beside those of all linked views: ``columns_changed(tuple of ViewSettings)``, ``lens_chosen(name)``,
    ``current_asked(index)``, ``use_asked(ViewSettings)``, ``difference_asked(one, other)``, ``closed()``."""

    columns_changed = Signal(object)
    lens_chosen = Signal(str)
    current_asked = Signal(int)
    use_asked = Signal(object)
    difference_asked = Signal(int, int)
    closed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._settings: list[ViewSettings] = []
        self._found: dict[int, ColumnView] = {}
        self._second = False
        self.columns: list[Column] = []
        self.single = ImageView("", tooltip="Two columns of the comparison in one picture", footer=LegendBar())
        self.single.maximise.hide()
        self.divider = QSlider(Qt.Orientation.Horizontal)
        self.divider.setRange(0, 1000)
        self.divider.setValue(500)
        self.divider.setAccessibleName("Divider")
        self.divider.setToolTip("Where the first column ends and the second one begins")
        self.divider.valueChanged.connect(lambda _: self._show_pair())
        self._timer = QTimer(self, interval=_BLINK)
        self._timer.timeout.connect(self._blink)
        self.link({"single": self.single})
        self._lay_out()

    def _lay_out(self) -> None:
        self.lens = ElidedComboBox(usual_width=110)
        self.lens.setMinimumWidth(70)
        self.lens.setAccessibleName("What is compared")
        for name, lens in LENSES.items():
            self.lens.addItem(lens.title, name)
        self.lens.activated.connect(lambda _: self.lens_chosen.emit(self.lens.currentData()))
        group = QButtonGroup(self)
        self.modes = choice_buttons(_MODES, group)
        group.buttonClicked.connect(lambda _: self._show_mode())
        self.pair = [ElidedComboBox(usual_width=120) for _ in range(2)]
        for box, name in zip(self.pair, ("First column", "Second column"), strict=True):
            box.setAccessibleName(name)
            box.setMinimumWidth(60)
            box.activated.connect(lambda _: self._show_mode())
        self.add = button("Add", "Compare one more method or other settings")
        self.add.clicked.connect(lambda: self._change([*self._settings, self._other()]))
        self.close_button = icon_button("close", "Close the comparison", "Go back to the views (Ctrl+M)")
        self.close_button.clicked.connect(lambda: self.closed.emit())
        bar = row_of(self.lens, *self.modes.values(), self.add)
        bar.addWidget(self.close_button)
        side = QWidget()
        self._cells = QGridLayout(side)
        self._cells.setContentsMargins(0, 0, 0, 0)
        self._cells.setSpacing(style.SPACING)
        one = QWidget()
        inner = QVBoxLayout(one)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addWidget(self.single, 1)
        inner.addLayout(row_of(self.pair[0], self.divider, self.pair[1], stretched=1))
        self.pages = QStackedWidget()
        self.pages.addWidget(side)
        self.pages.addWidget(one)
        column = QVBoxLayout(self)
        column.setContentsMargins(style.SPACING, style.SPACING, style.SPACING, style.SPACING)
        column.addLayout(bar)
        column.addWidget(self.pages, 1)

    # -- columns -------------------------------------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """How the columns are shown."""
        return next(name for name, tool in self.modes.items() if tool.isChecked())

    def show_columns(self, settings: Sequence[ViewSettings], titles: Sequence[str]) -> None:
        """Show other columns, without pictures yet."""
        self._settings, self._found = list(settings), {}
        while len(self.columns) < len(settings):
            self._add_column()
        while len(self.columns) > len(settings):
            gone = self.columns.pop()
            del self.views[str(len(self.columns))]
            self._cells.removeWidget(gone)
            gone.setParent(None)
            gone.deleteLater()
        chosen = [box.currentIndex() for box in self.pair]
        for place, box in enumerate(self.pair):
            box.clear()
            box.addItems(list(titles))
            box.setCurrentIndex(chosen[place] if 0 <= chosen[place] < len(titles) else place)
        for index, column in enumerate(self.columns):
            column.show_settings(settings[index], titles[index])
            column.close_button.setEnabled(len(settings) > LEAST_COLUMNS)
            column.view.set_stale(True)
        self.add.setEnabled(len(settings) < MOST_COLUMNS)
        self._place_columns()
        self._show_mode()

    def _add_column(self) -> None:
        column, index = Column(), len(self.columns)
        self.columns.append(column)
        self.link({str(index): column.view})
        if self._image is not None:
            column.view.show_image(displayed(self._image), self._image_hw)
            column.view.show_query(self._query)
        column.method_chosen.connect(
            lambda name: self.replace(index, self._settings[index].with_(method=name, fit=None))
        )
        column.current_asked.connect(lambda: self.current_asked.emit(index))
        column.use_asked.connect(lambda: self.use_asked.emit(self._settings[index]))
        column.removed.connect(lambda: self._change([s for other, s in enumerate(self._settings) if other != index]))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._place_columns()

    def _place_columns(self) -> None:
        """In as many rows as let the pictures be largest."""
        count, page = len(self.columns), self.pages.size()
        if not count:
            return
        height, width = self._image_hw

        def scale(rows: int) -> float:
            across = math.ceil(count / rows)
            return min(page.width() / across / width, max(1.0, page.height() / rows - _AROUND) / height)

        rows = max(range(1, count + 1), key=lambda rows: (scale(rows), -rows))
        across = math.ceil(count / rows)
        for index, column in enumerate(self.columns):
            self._cells.addWidget(column, *divmod(index, across))
        for line in range(MOST_COLUMNS):
            self._cells.setRowStretch(line, int(line < rows))
            self._cells.setColumnStretch(line, int(line < across))

    def replace(self, index: int, settings: ViewSettings) -> None:
        """Give a column other settings."""
        self._change([settings if other == index else each for other, each in enumerate(self._settings)])

    def _change(self, settings: Sequence[ViewSettings]) -> None:
        self.columns_changed.emit(tuple(settings))

    def _other(self) -> ViewSettings:
        """Settings that no column has yet: another method of the last one."""
        last, box = self._settings[-1], self.columns[-1].method
        names = [box.itemData(index) for index in range(box.count())]
        taken = {settings.method for settings in self._settings}
        return last.with_(method=next(name for name in names if name not in taken), fit=None)

    # -- pictures ------------------------------------------------------------------------------------------------------

    def show_image(self, image: Image) -> None:
        super().show_image(image)
        self._found = {}
        self._place_columns()

    def show_stale(self) -> None:
        """Dim all pictures until newer ones come."""
        for view in self.views.values():
            view.set_stale(True)

    def show_found(self, found: Sequence[ColumnView]) -> None:
        """Show the answers that there are, in one scale."""
        for each in found:
            self._found[each.column] = each
            self.columns[each.column].show_answer(each)
        if self.mode in (SWIPE, BLINK):
            self._show_pair()

    def show_difference(self, found: DifferenceMap | str) -> None:
        """Show the difference of two columns, or the sentence why there is none."""
        if self.mode != DIFFERENCE:
            return
        if isinstance(found, str):
            self.single.show_nothing(found)
            return
        self.single.title.setText("Difference")
        self.single.show_lens(found.picture())
        self.single.subtitle.setText(f"{found.one} and {found.other}")
        assert isinstance(self.single.footer, LegendBar)
        self.single.footer.show_legend(found.legend())

    # -- two in one ----------------------------------------------------------------------------------------------------

    def _show_mode(self) -> None:
        mode = self.mode
        self.divider.setVisible(mode == SWIPE)
        self.pages.setCurrentIndex(0 if mode == SIDE else 1)
        self._timer.stop()
        if mode == BLINK:
            self._timer.start()
        if mode == DIFFERENCE:
            self.single.set_stale(True)
            self.difference_asked.emit(*(box.currentIndex() for box in self.pair))
        elif mode != SIDE:
            self._show_pair()
        self._arrange()

    def _blink(self) -> None:
        self._second = not self._second
        self._show_pair()

    def _show_pair(self) -> None:
        chosen = [self._found.get(box.currentIndex()) for box in self.pair]
        views = [None if each is None else each.view for each in chosen]
        if views[0] is None or views[1] is None:
            missing = next((each.error for each in chosen if each is not None and each.error), None)
            self.single.show_nothing(missing or "This column is still being computed.")
            return
        first, second = (box.currentText() for box in self.pair)
        if self.mode == BLINK:
            self.single.show_view(views[1] if self._second else views[0])
            self.single.title.setText(second if self._second else first)
            return
        share = self.divider.value() / 1000
        self.single.show_view(views[0])
        self.single.show_lens(joined(views[0].picture(), views[1].picture(), share))
        self.single.show_outline(None)
        self.single.title.setText(f"{first} | {second}")


def joined(left: Pixels, right: Pixels, share: float) -> Pixels:
    """The left part of one picture beside the right part of another, at the size of the larger one.

    Args:
        left, right: (H, W, 3) uint8 of the same image.
        share: of the width that the left one gets, 0 to 1.
    """
    larger = max(left.shape[:2], right.shape[:2])
    left, right = (part if part.shape[:2] == larger else resized(part, larger) for part in (left, right))
    result = np.array(right)
    column = round(share * larger[1])
    result[:, :column] = left[:, :column]
    if 0 < column < larger[1]:
        result[:, column - 1 : column + 1] = 255
    return result
