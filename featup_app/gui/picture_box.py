"""A picture in a docked panel: as large as possible at its aspect ratio, with a line of text below."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QWidget

from featup_app.gui import style

_TEXT_HEIGHT = 20
_LEAST = 90


class PictureBox(QWidget):
    """Shows pixels with a caption.

    Args:
        caption: below the picture.
        tip: tooltip.
        smooth: whether pixels are interpolated when enlarged; otherwise each is a square, as for the cells of a grid.

    Signals:
        clicked(): a left click on the picture.
    """

    clicked = Signal()

    def __init__(self, caption: str = "", tip: str = "", *, smooth: bool = False) -> None:
        super().__init__()
        self._image: QImage | None = None
        self._caption = caption
        self._smooth = smooth
        self._marked = False
        self.setToolTip(tip)
        self.setAccessibleName(caption)
        self.setMinimumSize(_LEAST, _LEAST + _TEXT_HEIGHT)

    @property
    def caption(self) -> str:
        """The line below the picture."""
        return self._caption

    def show_picture(self, pixels: NDArray[np.uint8] | None, caption: str | None = None) -> None:
        """Show (H, W, 3) uint8 RGB, or nothing; perhaps with another caption."""
        if pixels is None:
            self._image = None
        else:
            height, width, _ = pixels.shape
            data = np.ascontiguousarray(pixels).tobytes()
            self._image = QImage(data, width, height, 3 * width, QImage.Format.Format_RGB888).copy()
        if caption is not None:
            self._caption = caption
            self.setAccessibleName(caption)
        self.update()

    def mark(self, marked: bool) -> None:
        """Frame the picture as the chosen one, or remove the frame."""
        self._marked = marked
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(180, 180 + _TEXT_HEIGHT)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, self._smooth)
        room = QRectF(0, 0, self.width(), self.height() - _TEXT_HEIGHT)
        bottom = room.bottom()
        if self._image is not None:
            scale = min(room.width() / self._image.width(), room.height() / self._image.height())
            width, height = self._image.width() * scale, self._image.height() * scale
            target = QRectF((room.width() - width) / 2, (room.height() - height) / 2, width, height)
            bottom = target.bottom()
            painter.drawImage(target, self._image)
            if self._marked:
                painter.setPen(QPen(QColor(style.ACCENT), 2))
                painter.drawRect(target.adjusted(1, 1, -1, -1))
        painter.setPen(QColor(style.MUTED))
        text = painter.fontMetrics().elidedText(self._caption, Qt.TextElideMode.ElideRight, self.width())
        below = QRectF(0, bottom, self.width(), _TEXT_HEIGHT)
        painter.drawText(below, Qt.AlignmentFlag.AlignCenter, text)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if self._image is not None and event.button() == Qt.MouseButton.LeftButton:
            self.clicked.emit()
        super().mouseReleaseEvent(event)
