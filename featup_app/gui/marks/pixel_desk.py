"""Fills the tab of the pixel while it is in front."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import QObject

from featup_app.base.progress import Progress
from featup_app.engine.settings import ViewSettings
from featup_app.features import Point
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.marks.tools import LINE, Tool
from featup_app.gui.studio import Studio
from featup_app.gui.views.inspector import Inspector
from featup_app.gui.views.view_grid import ViewGrid
from featup_app.lenses import LENSES
from featup_app.lenses.profile import Profile, profile
from featup_app.lenses.queries import Query

if TYPE_CHECKING:
    from featup_app.engine.asking import PixelFacts
    from featup_app.engine.session import Session

_KIND = "pixel"


class PixelDesk(QObject):
    """Asks about the query pixel whenever it, the features or what is asked changes.

    Args:
        engine: computes.
        studio: has the image, the settings, the query and the views.
        grid: where lines are drawn.
        inspector: has the tab.
    """

    def __init__(self, engine: EngineBridge, studio: Studio, grid: ViewGrid, inspector: Inspector) -> None:
        super().__init__(grid)
        self._engine, self._studio, self._grid = engine, studio, grid
        self._inspector, self._tab = inspector, inspector.pixel
        self._asked: tuple[str, ViewSettings, Point, tuple[Query, ...]] | None = None
        self._line: tuple[Point, Point] | None = None
        inspector.currentChanged.connect(lambda _: self._ask())
        studio.view_ready.connect(lambda *_: self._renew())
        studio.query_changed.connect(lambda _: self._ask())
        studio.image_changed.connect(lambda _: self._forget_line())
        self._tab.line_chosen.connect(self._draw_lines_or_not)
        grid.lined.connect(self._draw_line)

    def _renew(self) -> None:
        self._ask()
        if self._line is not None:
            self._plot()

    def _ask(self) -> None:
        image, point, settings = self._studio.image, self._studio.query, self._studio.field_settings
        if image is None or point is None or self._studio.needs_fit or self._inspector.currentWidget() is not self._tab:
            return
        marks = [query for name, request in self._studio.requests.items() for query in LENSES[name].marks(request)]
        queries = tuple(query for query in marks if not query.hidden)
        asked = image.sha256, settings, point, queries
        if asked == self._asked:
            return
        self._asked = asked

        def work(session: Session, progress: Progress) -> PixelFacts:
            from featup_app.engine.asking import pixel_facts

            return pixel_facts(session, image, settings, point, queries, progress)

        self._engine.compute(_KIND, work, self._tab.show_facts, stopped=self._stopped)

    def _stopped(self) -> None:
        self._asked = None

    def _draw_lines_or_not(self, drawn: bool) -> None:
        self._grid.choose_tool(Tool(LINE) if drawn else Tool())
        if not drawn:
            self._forget_line()

    def _forget_line(self) -> None:
        self._line = None
        self._plot()

    def _draw_line(self, start: Point, end: Point) -> None:
        self._line = start, end
        self._inspector.setCurrentWidget(self._tab)
        self._plot()

    def _plot(self) -> None:
        image, found = self._studio.image, dict[str, Profile]()
        if self._line is not None and image is not None:
            for name, view in self._studio.views.items():
                values = np.atleast_3d(view.values.T).T[0]  # of several components the first
                values = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
                found[LENSES[name].title] = profile(values, *self._line, image_hw=image.size_hw)
        self._tab.show_profiles(found)
        self._grid.show_line(self._line)
