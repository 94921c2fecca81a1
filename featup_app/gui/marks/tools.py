"""Drawing marks with the mouse: the box of a view in which dragging draws what the chosen tool is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyqtgraph as pg
from PySide6.QtCore import QPointF, Qt, Signal

from featup_app.base.errors import MarkError
from featup_app.features import Point
from featup_app.marks import BoxMark, Mark, PolygonMark, StrokeMark

POINT, BOX, BRUSH, OUTLINE, LINE = "point", "box", "brush", "outline", "line"

_THIN = 1e-3
"""Width of the stroke of a line, in image pixels."""


@dataclass(frozen=True)
class Tool:
    """What the mouse draws: its name, and the width of the brush in image pixels."""

    name: str = POINT
    width: float = 20.0

    def mark(self, points: list[Point]) -> Mark | None:
        """The mark of a drag through these image points; None if it is too short for one."""
        try:
            if self.name == BOX:
                return BoxMark(points[0], points[-1]) if _apart(points[0], points[-1]) else None
            if self.name == LINE:
                return StrokeMark((points[0], points[-1]), _THIN) if points[0] != points[-1] else None
            if self.name == BRUSH:
                return StrokeMark(tuple(points), self.width)
            return PolygonMark(tuple(points)) if len(points) > 2 else None
        except MarkError:
            return None


def is_negative(modifiers: Qt.KeyboardModifier) -> bool:
    """Whether a click or drag with these keys marks what is not meant: Alt, or Ctrl where the desktop keeps Alt for itself."""
    return bool(modifiers & (Qt.KeyboardModifier.AltModifier | Qt.KeyboardModifier.ControlModifier))


def is_added(modifiers: Qt.KeyboardModifier) -> bool:
    """Whether a click or drag with these keys adds to what is asked, and does not replace it."""
    return is_negative(modifiers) or bool(modifiers & Qt.KeyboardModifier.ShiftModifier)


class MarkingBox(pg.ViewBox):
    """A view box whose left button draws while a tool other than the point is chosen; the middle button always moves the view.

    Signals:
        drawing(Mark or None): what is being drawn, and None when it ends.
        drawn(Mark, modifiers): a mark is complete.
    """

    drawing = Signal(object)
    drawn = Signal(object, object)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tool = Tool()
        self._points: list[Point] = []

    def mouseDragEvent(self, event: Any, axis: Any = None) -> None:
        if self.tool.name == POINT or event.button() != Qt.MouseButton.LeftButton:
            super().mouseDragEvent(event, axis)
            return
        event.accept()
        if event.isStart():
            self._points = [self._image_point(event.buttonDownScenePos())]
        self._points.append(self._image_point(event.scenePos()))
        mark = self.tool.mark(self._points)
        if event.isFinish():
            self._points = []
            self.drawing.emit(None)
            if mark is not None:
                self.drawn.emit(mark, event.modifiers())
        else:
            self.drawing.emit(mark)

    def _image_point(self, scene_position: QPointF) -> Point:
        position = self.mapSceneToView(scene_position)
        return position.x(), position.y()


def _apart(first: Point, last: Point) -> bool:
    return first[0] != last[0] and first[1] != last[1]
