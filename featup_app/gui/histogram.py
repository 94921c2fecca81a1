"""A histogram of a map with a threshold in it, which the mouse and the arrow keys move."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from featup_app.gui import style
from featup_app.lenses.lens import Values

_BINS = 80
_HEIGHT = 64

_LEAST_RANGE = 1e-3
"""Of the values, relative to them: constant maps have bins too."""


class Histogram(QWidget):
    """How many pixels have which value, and a line at the threshold.

    Args:
        tooltip: what the chosen side of the line is.

    Signals:
        moved(value): the person moved the threshold.
    """

    moved = Signal(float)

    def __init__(self, tooltip: str) -> None:
        super().__init__()
        self.setFixedHeight(_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Threshold")
        self.setToolTip(tooltip)
        self._values: Values | None = None
        self._shares = np.zeros(_BINS)
        self._low, self._high = 0.0, 1.0
        self._threshold: float | None = None
        self._below = False

    def sizeHint(self) -> QSize:
        return QSize(240, _HEIGHT)

    def show_values(self, values: Values) -> None:
        """Count the values of a map, once for each map."""
        if values is self._values:
            return
        self._values = values
        low, high = float(values.min()), float(values.max())
        self._low, self._high = low, max(high, low + _LEAST_RANGE * max(1.0, abs(low)))
        counts, _ = np.histogram(values, _BINS, (self._low, self._high))
        self._shares = np.sqrt(counts / max(1, counts.max()))
        self.update()

    def show_threshold(self, threshold: float | None, *, below: bool = False) -> None:
        """Draw the line at a value, and what is above it, or below it, as chosen; None draws none."""
        self._threshold, self._below = threshold, below
        self.update()

    def position_of(self, value: float) -> float:
        """Where a value lies, in pixels from the left."""
        return (value - self._low) / (self._high - self._low) * self.width()

    def _move_to(self, x: float) -> None:
        share = min(max(x / max(1, self.width()), 0.0), 1.0)
        self.moved.emit(self._low + share * (self._high - self._low))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._move_to(event.position().x())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._move_to(event.position().x())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        step = {int(Qt.Key.Key_Left): -1, int(Qt.Key.Key_Right): 1}.get(event.key())
        if step is None or self._threshold is None:
            super().keyPressEvent(event)
        else:
            self._move_to(self.position_of(self._threshold) + step * self.width() / 200)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(style.CANVAS))
        width = self.width() / _BINS
        for index, share in enumerate(self._shares):
            value = self._low + (index + 0.5) / _BINS * (self._high - self._low)
            inside = self._threshold is not None and (value >= self._threshold) != self._below
            bar = QRectF(index * width, self.height() * (1 - share), max(1.0, width - 0.5), self.height() * share)
            painter.fillRect(bar, QColor(style.ACCENT if inside else style.DISABLED))
        if self._threshold is not None:
            x = self.position_of(self._threshold)
            painter.setPen(QPen(QColor(style.TEXT), 2))
            painter.drawLine(QPointF(x, 0), QPointF(x, self.height()))
        if self.hasFocus():
            painter.setPen(QPen(QColor(style.ACCENT), 1))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
