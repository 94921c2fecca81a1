"""Marks as they lie on a picture: what is asked, what is being drawn, and the numbers of the best matches."""

from __future__ import annotations

from collections.abc import Sequence

import pyqtgraph as pg
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QPainterPath, QPainterPathStroker, QPen, QPolygonF
from PySide6.QtWidgets import QGraphicsPathItem

from featup_app.features import Point
from featup_app.gui import style
from featup_app.lenses.matches import Match
from featup_app.lenses.queries import Query
from featup_app.marks import Mark, PointMark, StrokeMark

_WIDTH, _SELECTED_WIDTH = 1.6, 3.0
"""Of lines, in screen pixels."""

_RING, _SELECTED_RING = 14, 18
"""Diameter of the ring of a point, in screen pixels."""


class MarkLayer:
    """Draws marks into the box of a view, in image pixels. Positive ones are white rings and lines, negative ones orange with a
    bar in the ring, so that colour is not all that tells them apart.

    Args:
        box: of the view.
    """

    def __init__(self, box: pg.ViewBox) -> None:
        self._box = box
        self._shadow = self._path_item(pg.mkPen(style.QUERY_SHADOW, width=4))
        self._lines = {
            (negative, selected): self._path_item(
                pg.mkPen(_colour(negative), width=_SELECTED_WIDTH if selected else _WIDTH)
            )
            for negative in (False, True)
            for selected in (False, True)
        }
        self._drawing = self._path_item(pg.mkPen(style.QUERY_RING, width=_WIDTH, dash=(4, 3)))
        self._line = [
            self._path_item(pg.mkPen(colour, width=width))
            for colour, width in ((style.QUERY_SHADOW, 4), (style.ACCENT, _WIDTH))
        ]
        self._rings, self._centres = pg.ScatterPlotItem(hoverable=False), pg.ScatterPlotItem(hoverable=False)
        for item in (self._rings, self._centres):
            box.addItem(item, ignoreBounds=True)
        self._numbers: list[pg.TextItem] = []

    def show(self, queries: Sequence[Query], selected: int | None = None) -> None:
        """Draw the marks of queries; hidden ones are not drawn, and the selected one is drawn thicker."""
        shown = [(query, index == selected) for index, query in enumerate(queries) if not query.hidden]
        paths = {key: QPainterPath() for key in self._lines}
        whole = QPainterPath()
        rings, centres = [], []
        for query, chosen in shown:
            if isinstance(query.mark, PointMark):
                pen, size = pg.mkPen(_colour(query.negative), width=_WIDTH), _SELECTED_RING if chosen else _RING
                shadow = pg.mkPen(style.QUERY_SHADOW, width=4)
                rings += [{"pos": query.mark.point, "size": size, "pen": each, "brush": None} for each in (shadow, pen)]
                centres.append(
                    {
                        "pos": query.mark.point,
                        "symbol": "_" if query.negative else "o",
                        "size": 7 if query.negative else 3,
                        "pen": pen,
                        "brush": pg.mkBrush(_colour(query.negative)),
                    }
                )
                continue
            path = outline_of(query.mark)
            paths[query.negative, chosen].addPath(path)
            whole.addPath(path)
        self._shadow.setPath(whole)
        for key, item in self._lines.items():
            item.setPath(paths[key])
        self._rings.setData(rings)
        self._centres.setData(centres)

    def show_drawing(self, mark: Mark | None) -> None:
        """Draw what the mouse is drawing; None for nothing."""
        self._drawing.setPath(QPainterPath() if mark is None else outline_of(mark))

    def show_line(self, line: tuple[Point, Point] | None) -> None:
        """Draw a line between two image points; None draws none."""
        path = QPainterPath()
        if line is not None:
            path.moveTo(*line[0])
            path.lineTo(*line[1])
        for item in self._line:
            item.setPath(path)

    def show_matches(self, matches: Sequence[Match]) -> None:
        """Number the best matches, the highest with 1."""
        for item in self._numbers:
            self._box.removeItem(item)
        self._numbers = []
        for number, match in enumerate(matches, start=1):
            item = pg.TextItem(str(number), color=style.QUERY_RING, fill=style.MATCH_FILL, anchor=(0.5, 0.5))
            item.setPos(*match.point)
            self._box.addItem(item, ignoreBounds=True)
            self._numbers.append(item)

    @property
    def numbers(self) -> list[str]:
        """The numbers that are shown."""
        return [item.toPlainText() for item in self._numbers]

    @property
    def points(self) -> int:
        """How many point marks are drawn."""
        return len(self._centres.points())

    @property
    def lines(self) -> QPainterPath:
        """The outlines of all other marks, in image pixels."""
        return self._shadow.path()

    def _path_item(self, pen: QPen) -> QGraphicsPathItem:
        pen.setCosmetic(True)
        item = QGraphicsPathItem()
        item.setPen(pen)
        self._box.addItem(item, ignoreBounds=True)
        return item


def outline_of(mark: Mark) -> QPainterPath:
    """The outline of a mark that is no point, in image pixels."""
    path = QPainterPath()
    path.addPolygon(QPolygonF([QPointF(x, y) for x, y in mark.path]))
    if not isinstance(mark, StrokeMark):
        return path
    if len(mark.path) == 1:
        path = QPainterPath()
        path.addEllipse(QPointF(*mark.path[0]), mark.width / 2, mark.width / 2)
        return path
    stroker = QPainterPathStroker()
    stroker.setWidth(mark.width)
    stroker.setCapStyle(Qt.PenCapStyle.RoundCap)
    stroker.setJoinStyle(Qt.PenJoinStyle.RoundJoin)
    return stroker.createStroke(path).simplified()


def _colour(negative: bool) -> str:
    return style.MARK_NEGATIVE if negative else style.QUERY_RING
