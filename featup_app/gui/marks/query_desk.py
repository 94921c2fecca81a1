"""What is asked of the picture, for the window: marks, the map that follows the pointer, best matches, and their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QTimer
from PySide6.QtWidgets import QWidget

from featup_app.base.progress import Progress
from featup_app.features import Point
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.file_dialogs import ask_where_to_save, ask_which_to_open, folder_of
from featup_app.gui.notices import Notify
from featup_app.gui.studio import Studio
from featup_app.gui.views.inspector import Inspector
from featup_app.gui.views.similarity_tab import SimilarityTab
from featup_app.gui.views.view_grid import ViewGrid
from featup_app.lenses import SimilarityRequest
from featup_app.lenses.matches import Match, top_matches
from featup_app.lenses.queries import Query, as_queries
from featup_app.lenses.query_sets import QuerySet, read_query_set
from featup_app.lenses.similarity import SimilarityView

if TYPE_CHECKING:
    from featup_app.engine.session import Session

_QUERIES = "Queries (*.safetensors)"
_MASK = "PNG pictures (*.png)"


COARSE = "8x"
"""Size of the map that follows the pointer at once; the exact one comes when the pointer rests."""

_REST = 250
"""Milliseconds without a move after which the pointer rests."""

MATCHES, NEAR = 5, 0.06
"""Best matches that are numbered, and how far apart they are at least, as a part of the longer side."""


class QueryDesk(QObject):
    """Connects the views, the tab of the similarity and the studio.

    Args:
        engine: computes and writes.
        studio: has the image, the settings and the requests.
        grid: of the views, where marks are drawn.
        inspector: has the tab.
        notify: shows messages.
        window: the parent of the dialogs.
    """

    def __init__(
        self,
        engine: EngineBridge,
        studio: Studio,
        grid: ViewGrid,
        inspector: Inspector,
        notify: Notify,
        window: QWidget,
    ) -> None:
        super().__init__(window)
        self._engine, self._studio, self._notify, self._window = engine, studio, notify, window
        self._grid = grid
        tab = inspector.lenses[SimilarityRequest.lens]
        assert isinstance(tab, SimilarityTab)
        self._tab = tab
        self._chosen: int | None = None
        self._held = False
        self._pointer: Point | None = None
        self._rest = QTimer(self, singleShot=True, interval=_REST)
        self._rest.timeout.connect(lambda: self._studio.follow(self._pointer))
        tab.query_panel.tool_chosen.connect(grid.choose_tool)
        tab.query_panel.selected.connect(self._select)
        tab.query_panel.pin_chosen.connect(self._pin_or_not)
        tab.query_panel.save_asked.connect(self.save_queries)
        tab.query_panel.load_asked.connect(self.load_queries)
        tab.mask_panel.save_asked.connect(self.save_mask)
        tab.follow_chosen.connect(lambda _: self._switch())
        tab.matches_chosen.connect(lambda _: self._number_matches())
        grid.marked.connect(studio.mark)
        grid.marked.connect(lambda *_: inspector.setCurrentWidget(tab))  # its list shows what was marked
        grid.removed.connect(tab.query_panel.remove_chosen)
        grid.held.connect(self.hold)
        grid.hovered.connect(self._hover)
        studio.request_changed.connect(lambda name, request: self._changed() if name == tab.lens.name else None)
        studio.view_ready.connect(lambda name, view: self._number_matches() if name == tab.lens.name else None)
        studio.followed.connect(lambda name, view: grid.views[name].show_view(view))

    # -- marks and matches -----------------------------------------------------------------------------------------

    def _select(self, index: int | None) -> None:
        if index != self._chosen:
            self._chosen = index
            self._draw()

    def _changed(self) -> None:
        self._draw()
        if self._tab.query_panel.pin.isChecked():
            self._pin()

    def _pin_or_not(self, pinned: bool) -> None:
        request, view = self._studio.requests.get(self._tab.lens.name), self._studio.views.get(self._tab.lens.name)
        if not isinstance(request, SimilarityRequest):
            return
        if pinned:
            limits = view.limits() if isinstance(view, SimilarityView) else None
            self._studio.ask(replace(request, limits=request.limits or limits))
            self._pin()
        else:
            own = [
                replace(query, vectors=None) for query in request.queries if not self._hidden_elsewhere(query).hidden
            ]
            asked = own or as_queries(self._studio.query or request.point)
            self._studio.ask(replace(request, queries=tuple(asked), limits=None, title="", file=""))

    def _pin(self) -> None:
        """Give the marks of this picture their features, with which other pictures are asked."""
        image, settings, request = (
            self._studio.image,
            self._studio.field_settings,
            self._studio.requests.get(self._tab.lens.name),
        )
        if image is None or not isinstance(request, SimilarityRequest) or self._studio.needs_fit:
            return
        if all(query.vectors is not None for query in request.queries):
            return

        def work(session: Session, progress: Progress) -> tuple[Query, ...]:
            from featup_app.engine.asking import pin_queries

            return pin_queries(session, image, settings, request, progress)

        def pinned(queries: tuple[Query, ...]) -> None:
            now = self._studio.requests.get(self._tab.lens.name)
            if isinstance(now, SimilarityRequest) and now.queries == request.queries:
                self._studio.ask(replace(now, queries=queries))

        self._engine.compute("pin", work, pinned)

    def _draw(self) -> None:
        request = self._studio.requests.get(self._tab.lens.name)
        if request is not None:
            queries = self._tab.lens.marks(request)
            self._grid.show_marks([self._hidden_elsewhere(query) for query in queries], self._chosen)

    def _hidden_elsewhere(self, query: Query) -> Query:
        """Hidden if its mark lies on another picture."""
        image = self._studio.image
        foreign = image is None or query.vectors_for(image.sha256) is not None
        return replace(query, hidden=True) if foreign else query

    def _number_matches(self) -> None:
        image, view = self._studio.image, self._studio.views.get(self._tab.lens.name)
        matches: Sequence[Match] = ()
        if self._tab.matches.isChecked() and image is not None and isinstance(view, SimilarityView):
            radius = NEAR * max(image.size_hw)
            matches = top_matches(view.values, view.request.asked, image=image, k=MATCHES, radius=radius)
        self._grid.views[self._tab.lens.name].marks.show_matches(matches)

    # -- the map that follows the pointer --------------------------------------------------------------------------

    @property
    def following(self) -> bool:
        """Whether the map follows the pointer."""
        return self._held or self._tab.follow.isChecked()

    def hold(self, held: bool) -> None:
        """Follow the pointer while the space bar is held."""
        self._held = held
        self._switch()

    def _switch(self) -> None:
        self._follow(self._pointer if self.following else None)

    def _hover(self, point: Point | None) -> None:
        self._pointer = point
        if self.following:
            self._follow(point)

    def _follow(self, point: Point | None) -> None:
        if point is None:
            self._rest.stop()
            self._studio.follow(None)
        else:
            self._studio.follow(point, size=COARSE)
            self._rest.start()

    # -- files -----------------------------------------------------------------------------------------------------

    def save_mask(self) -> None:
        """Ask where to write the mask, and write it."""
        from featup_app.engine.asking import save_mask

        self._save("mask", "Save mask", f"{self._stem()}-mask.png", _MASK, save_mask)

    def save_queries(self) -> None:
        """Ask where to write the queries, and write them."""
        from featup_app.engine.asking import save_queries

        self._save("queries", "Save marks", f"{self._stem()}-marks.safetensors", _QUERIES, save_queries)

    def load_queries(self) -> None:
        """Ask for a file with queries, and ask the picture about them."""
        if self._studio.image is None:
            self._notify("warning", "Open a picture first.")
            return
        path = ask_which_to_open(self._window, "Load marks", folder_of(self._studio.image), _QUERIES)
        if path is not None:
            self._engine.files(
                "load queries", lambda progress: read_query_set(path), lambda found: self._loaded(found, str(path))
            )

    def _loaded(self, found: QuerySet, path: str) -> None:
        request = self._studio.requests.get(SimilarityRequest.lens)
        if isinstance(request, SimilarityRequest):
            self._studio.ask(
                replace(
                    request,
                    queries=found.queries,
                    measure=found.measure,
                    grouping=found.grouping,
                    combine=found.combine,
                    title=found.name,
                    file=path,
                )
            )

    def _save(self, what: str, title: str, proposed: str, pattern: str, write: Callable[..., Path]) -> None:
        image, settings = self._studio.image, self._studio.field_settings
        request: Any = self._studio.requests.get(SimilarityRequest.lens)
        if image is None or request is None:
            self._notify("warning", "Open a picture first.")
            return
        path = ask_where_to_save(self._window, title, folder_of(image) / proposed, pattern)
        if path is None:
            return
        self._engine.compute(
            f"save {what}",
            lambda session, progress: write(session, image, settings, request, path, progress),
            lambda written: self._notify("information", f"Saved the {what} as {written.name} in {written.parent}."),
            replace=False,
        )

    def _stem(self) -> str:
        image = self._studio.image
        return "" if image is None else Path(image.name).stem
