"""The docked panels below the image views, which appear when they have something to show."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDockWidget, QFrame, QMainWindow, QScrollArea, QWidget

_LARGEST_SHARE = 1 / 3
"""Of the height of the window, so that the image views stay its largest part."""

_LEAST_HEIGHT = 80


class BottomDock(QDockWidget):
    """A docked panel that is hidden until a desk needs it.

    Args:
        name: the name under which the window saves the state of the dock.
        title: the title that is shown.
        panel: the contents.
        height: pixels that the panel gets when it appears, at most a third of the window.
    """

    def __init__(self, name: str, title: str, panel: QWidget, *, height: int) -> None:
        super().__init__(title)
        self._height = height
        self._needed = self._put_away = False
        self.setObjectName(name)
        area = QScrollArea()  # so that no panel makes the window larger than a small screen
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setWidgetResizable(True)
        area.setMinimumHeight(_LEAST_HEIGHT)
        area.setWidget(panel)
        self.setWidget(area)

    def keep_while(self, needed: bool) -> None:
        """Hide the panel when what it shows has gone, and bring it back with that; in between the person may open it."""
        if needed and self._put_away:
            self.appear()
        elif self._needed and not needed and not self.isHidden():
            self.hide()
            self._put_away = True
        self._needed = needed

    def appear(self) -> None:
        """Show the panel in front of the other docked panels."""
        self._put_away = False
        if not self.isVisible():
            self.show()
            window = self.parent()
            if isinstance(window, QMainWindow):
                height = min(self._height, round(_LARGEST_SHARE * window.height()))
                window.resizeDocks([self], [height], Qt.Orientation.Vertical)
        self.raise_()
