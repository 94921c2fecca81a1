"""The wheel over boxes and sliders without the focus: it scrolls what they stand in, and changes none of them."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtWidgets import QAbstractSpinBox, QComboBox, QSlider, QWidget

_WATCHED = (QComboBox, QAbstractSpinBox, QSlider)


class WheelGuard(QObject):
    """The event filter of a window or dialog; it watches all boxes and sliders that the window holds when it is made.

    Args:
        window: the owner of the boxes, and of this filter.
    """

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        for kind in _WATCHED:
            for box in window.findChildren(kind):
                # Qt gives boxes the focus by the wheel itself, before any filter sees the event.
                if box.focusPolicy() == Qt.FocusPolicy.WheelFocus:
                    box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                box.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()  # Qt offers it to the parents, up to the area that scrolls
            return True
        return False
