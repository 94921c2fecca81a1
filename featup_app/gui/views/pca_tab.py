"""Settings of the PCA view: which components are shown, what they are fitted on, and how much they explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PySide6.QtCore import QRectF, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QComboBox, QGridLayout, QHBoxLayout, QPushButton, QWidget

from featup_app.gui import style
from featup_app.gui.histogram import Histogram
from featup_app.gui.views.lens_tab import LensTab, heading
from featup_app.gui.widgets import PlainLabel, button, row_of
from featup_app.images import Image
from featup_app.lenses import LensView, PCARequest, PCAView, Request

_COLOURS = ("Red", "Green", "Blue")
_TRIPLES = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
_FITS = (
    ("grid", "Low-res map", "Fit on the backbone's own feature grid: colours mean the same for every method"),
    ("field", "These features", "Fit on the upsampled features alone"),
    ("joint", "All methods", "Fit on the upsampled features of all methods together, one set of colours for all"),
)

_FOREGROUNDS = ((None, "None"), ("above", "High first component"), ("below", "Low first component"))


class _ShareBars(QWidget):
    """How much variance each component explains, as bars with numbers."""

    ROW = 20

    def __init__(self) -> None:
        super().__init__()
        self._shares: Sequence[float] = ()
        self._shown: Sequence[int] = ()
        self.setFixedHeight(9 * self.ROW)
        self.setToolTip("Share of the variation in the features that each principal component explains")

    def show_shares(self, shares: Sequence[float], shown: Sequence[int]) -> None:
        self._shares, self._shown = shares, shown
        self.setFixedHeight(max(1, len(shares)) * self.ROW)
        self.setAccessibleDescription(", ".join(f"{i + 1}: {100 * s:.1f} %" for i, s in enumerate(shares)))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colours = dict(zip(self._shown, style.COMPONENTS, strict=False))
        largest = max([*self._shares, 1e-9])
        room = self.width() - 84
        for index, share in enumerate(self._shares):
            top = index * self.ROW
            painter.setPen(QColor(style.MUTED))
            painter.drawText(
                QRectF(0, top, 18, self.ROW),
                Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
                str(index + 1),
            )
            painter.drawText(
                QRectF(self.width() - 52, top, 52, self.ROW),
                Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
                f"{100 * share:.1f} %",
            )
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(colours.get(index + 1, style.BORDER)))
            painter.drawRoundedRect(QRectF(26, top + 5, max(2.0, room * share / largest), self.ROW - 10), 3, 3)


class PCATab(LensTab):
    """Components, their fit, their shares of the variance, and the foreground.

    Signals:
        lock_asked(bool): keep the components, fitted on the mask of the similarity alone if true.
        save_asked(), load_asked(): the buttons for files.
    """

    lock_asked = Signal(bool)
    save_asked = Signal()
    load_asked = Signal()

    def build(self) -> None:
        self._request = PCARequest()
        self.column.addWidget(heading("Components"))
        row = QHBoxLayout()
        self.triples: list[QPushButton] = []
        for triple in _TRIPLES:
            shown = QPushButton(f"{triple[0]}–{triple[2]}")
            shown.setCheckable(True)
            shown.setToolTip(f"Show components {triple[0]} to {triple[2]} as red, green and blue")
            shown.clicked.connect(lambda _=False, numbers=triple: self._ask(numbers=numbers))
            self.triples.append(shown)
            row.addWidget(shown)
        self.column.addLayout(row)
        grid = QGridLayout()
        self.channels: list[QComboBox] = []
        for column, colour in enumerate(_COLOURS):
            box = QComboBox()
            box.setAccessibleName(f"Component shown as {colour.lower()}")
            box.setToolTip(f"Which component is shown as {colour.lower()}")
            box.addItems([str(number) for number in range(1, 10)])
            box.activated.connect(self._boxes_changed)
            label = PlainLabel(colour)
            label.setBuddy(box)
            grid.addWidget(label, 0, column)
            grid.addWidget(box, 1, column)
            self.channels.append(box)
        self.column.addLayout(grid)
        self.column.addWidget(heading("Fit on"))
        self.fit = QComboBox()
        self.fit.setAccessibleName("Fit on")
        for value, title, tooltip in _FITS:
            self.fit.addItem(title, value)
            self.fit.setItemData(self.fit.count() - 1, tooltip, Qt.ItemDataRole.ToolTipRole)
        self.fit.setToolTip("What the principal components are computed from")
        self.fit.activated.connect(lambda: self._ask(fit=self.fit.currentData()))
        self.column.addWidget(self.fit)
        self._build_lock()
        self.column.addWidget(heading("Explained variance"))
        self.bars = _ShareBars()
        self.column.addWidget(self.bars)
        self._build_foreground()
        self.show_request(self._request)

    def _build_lock(self) -> None:
        self.locked = PlainLabel("", objectName="muted")
        self.locked.setWordWrap(True)
        self.lock = button(
            "Lock", "Keep these components for other pictures, so that equal colours mean equal features"
        )
        self.lock_mask = button(
            "Lock on mask", "Fit the components on the pixels of the similarity's mask alone, and keep them"
        )
        self.unlock = button("Unlock", "Fit the components to each picture again")
        self.save, self.load = (
            button("Save…", "Save the locked components"),
            button("Load…", "Use components that were saved"),
        )
        self.lock.clicked.connect(lambda: self.lock_asked.emit(False))
        self.lock_mask.clicked.connect(lambda: self.lock_asked.emit(True))
        self.unlock.clicked.connect(lambda: self._ask(basis=None))
        self.save.clicked.connect(lambda: self.save_asked.emit())
        self.load.clicked.connect(lambda: self.load_asked.emit())
        self.column.addLayout(row_of(self.lock, self.lock_mask, self.unlock))
        self.column.addWidget(self.locked)
        self.column.addLayout(row_of(self.save, self.load))

    def _build_foreground(self) -> None:
        self.column.addWidget(heading("Foreground"))
        self.foreground = QComboBox()
        self.foreground.setAccessibleName("Foreground")
        for value, title in _FOREGROUNDS:
            self.foreground.addItem(title, value)
        self.foreground.setToolTip(
            "Often the first component tells the main thing from what is around it; on which side it lies differs between "
            "pictures."
        )
        self.foreground.activated.connect(lambda: self._ask(foreground=self.foreground.currentData()))
        self.histogram = Histogram(
            "How many pixels have which value of the first component (square roots). Drag the line: the foreground is blue."
        )
        self.histogram.moved.connect(lambda value: self._ask(threshold=value))
        self.column.addWidget(self.foreground)
        self.column.addWidget(self.histogram)

    def show_image(self, image: Image) -> None:
        self.bars.show_shares((), ())

    def show_view(self, view: LensView) -> None:
        assert isinstance(view, PCAView)
        self.bars.show_shares(view.explained, view.numbers)
        if view.locked is not None:
            pictures = view.locked.pictures
            names = pictures[0].name if len(pictures) == 1 else f"{len(pictures)} pictures"
            part = " (a part of it)" if len(pictures) == 1 and pictures[0].share < 1 else ""
            self.locked.setText(f"Locked: fitted on {names}{part}.")
        self.locked.setVisible(view.locked is not None)
        if view.first is not None:
            self.histogram.show_values(view.first)

    def _boxes_changed(self) -> None:
        self._ask(numbers=tuple(int(box.currentText()) for box in self.channels))

    def _ask(self, **changes: Any) -> None:
        self.show_request(replace(self._request, **changes))
        self.asked.emit(self._request)

    def show_request(self, request: Request) -> None:
        assert isinstance(request, PCARequest)
        self._request = request
        for box, number in zip(self.channels, request.numbers, strict=True):
            box.setCurrentIndex(number - 1)
        for shown, triple in zip(self.triples, _TRIPLES, strict=True):
            shown.setChecked(request.numbers == triple)
        self.fit.setCurrentIndex(self.fit.findData(request.fit))
        locked = request.basis is not None
        self.fit.setEnabled(not locked)
        for each in (self.unlock, self.save):
            each.setEnabled(locked)
        self.locked.setVisible(locked)
        self.foreground.setCurrentIndex(self.foreground.findData(request.foreground))
        self.histogram.setVisible(request.foreground is not None)
        self.histogram.show_threshold(request.threshold, below=request.foreground == "below")
