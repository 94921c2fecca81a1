"""The comparison of the window: asks the engine column by column, and shows what comes."""

from __future__ import annotations

from PySide6.QtCore import QObject, QTimer
from PySide6.QtWidgets import QWidget

from featup_app.base.errors import FeatUpError
from featup_app.engine.comparison import ColumnView, Comparison, in_one_scale
from featup_app.engine.settings import ViewSettings
from featup_app.fields import DEFAULT_METHOD
from featup_app.gui.compare.compare_panel import DIFFERENCE, ComparePanel
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.notices import Notify
from featup_app.gui.studio import Studio

_KIND, _SCORES, _DIFFERENCE = "compare", "compare scores", "compare difference"
PLAINEST = "bilinear"
"""The method that a comparison begins with beside the chosen one."""


class CompareDesk(QObject):
    """Opens and closes the comparison, and keeps it with the image and the requests.

    Args:
        engine: computes.
        studio: has the image, the settings and the requests.
        notify: shows messages.
        views: the widget that the comparison takes the place of.
    """

    def __init__(self, engine: EngineBridge, studio: Studio, notify: Notify, views: QWidget) -> None:
        super().__init__(views)
        self._engine, self._studio, self._notify, self._views = engine, studio, notify, views
        self.panel = ComparePanel()
        self.panel.hide()
        self._comparison: Comparison | None = None
        self._scored: set[int] = set()
        self._round = 0
        panel = self.panel
        panel.columns_changed.connect(self._compare)
        panel.lens_chosen.connect(lambda _: self._ask())
        panel.current_asked.connect(lambda index: panel.replace(index, studio.field_settings))
        panel.use_asked.connect(self._use)
        panel.difference_asked.connect(self._ask_difference)
        panel.closed.connect(self.close)
        panel.clicked.connect(studio.choose_query)
        panel.marked.connect(studio.mark)
        panel.moved.connect(studio.move_query)
        studio.image_changed.connect(lambda _: QTimer.singleShot(0, self._show_image))
        studio.query_changed.connect(panel.show_query)
        studio.request_changed.connect(lambda name, _: self._ask() if self._shows(name) else None)

    @property
    def shown(self) -> bool:
        """Whether a comparison is shown."""
        return not self.panel.isHidden()

    def toggle(self) -> None:
        """Open the comparison, or go back to the views."""
        if self.shown:
            self.close()
        else:
            self.open()

    def open(self) -> None:
        """Compare the chosen settings with the plainest method, or go on with the columns of the last time."""
        if self._studio.image is None:
            self._notify("warning", "Open a picture first.")
            return
        known = self._comparison.columns if self._comparison is not None else ()
        chosen = self._studio.field_settings
        if chosen not in known:
            other = PLAINEST if chosen.method != PLAINEST else DEFAULT_METHOD
            known = (chosen, chosen.with_(method=other, fit=None))
        self.open_with(known)

    def open_with(self, columns: tuple[ViewSettings, ...]) -> None:
        """Compare these settings over the open image."""
        image = self._studio.image
        if image is None:
            return
        self._views.hide()
        self.panel.show()
        self.panel.show_image(image)
        if self._studio.query is not None:
            self.panel.show_query(self._studio.query)
        self._compare(columns)

    def close(self) -> None:
        """Show the views again."""
        self._engine.cancel(_KIND)
        self._engine.cancel(_SCORES)
        self._round += 1
        self.panel.hide()
        self._views.show()

    def _use(self, settings: ViewSettings) -> None:
        self.close()
        self._studio.choose(settings.with_(fit=None) if settings.fit is not None else settings)

    # -- asking ------------------------------------------------------------------------------------------------------

    def _compare(self, columns: tuple[ViewSettings, ...]) -> None:
        image = self._studio.image
        if image is None:
            return
        self._scored.clear()
        try:
            self._comparison = Comparison(image, columns)
        except FeatUpError as error:
            self._notify("warning", str(error))
            if self._comparison is not None:
                self.panel.show_columns(self._comparison.columns, self._comparison.titles)
                self._ask()
            return
        self.panel.show_columns(columns, self._comparison.titles)
        self._ask()

    def _shows(self, name: str) -> bool:
        return self.shown and name == self.panel.lens.currentData()

    def _show_image(self) -> None:
        image = self._studio.image
        if self.shown and image is not None and self._comparison is not None:
            self.panel.show_image(image)
            self._compare(self._comparison.columns)

    def _ask(self) -> None:
        """Ask each column, the first one first, and then for the scores that are not known yet, which no request changes."""
        comparison, request = self._comparison, self._studio.requests.get(self.panel.lens.currentData())
        if comparison is None or request is None or not self.shown:
            return
        self._round += 1
        current, found = self._round, dict[int, ColumnView]()
        self.panel.show_stale()
        self._engine.cancel(_KIND)
        self._engine.cancel(_SCORES)

        def show(each: ColumnView) -> None:
            if current == self._round:
                found[each.column] = each
                self.panel.show_found(in_one_scale(list(found.values())))

        for index in range(len(comparison.columns)):
            self._engine.compute(
                _KIND,
                lambda session, progress, index=index: comparison.view(session, index, request, progress),
                show,
                replace=False,
            )
        for index in set(range(len(comparison.columns))) - self._scored:
            self._engine.compute(
                _SCORES,
                lambda session, progress, index=index: comparison.scores(session, index, progress).scores,
                lambda scores, index=index: self._show_scores(current, index, scores),
                failed=lambda sentence, details: None,  # the column says why it has no picture
                replace=False,
            )
        if self.panel.mode == DIFFERENCE:
            self._ask_difference(*(box.currentIndex() for box in self.panel.pair))

    def _show_scores(self, asked: int, index: int, scores: dict[str, float]) -> None:
        if asked == self._round and index < len(self.panel.columns):
            self._scored.add(index)
            self.panel.columns[index].show_scores(scores)

    def _ask_difference(self, one: int, other: int) -> None:
        comparison = self._comparison
        if comparison is None or not self.shown or one == other or min(one, other) < 0:
            self.panel.show_difference("Choose two different columns.")
            return
        self._engine.compute(
            _DIFFERENCE,
            lambda session, progress: comparison.difference(session, one, other, progress),
            self.panel.show_difference,
            failed=lambda sentence, details: self.panel.show_difference(sentence),
        )
