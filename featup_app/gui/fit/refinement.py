"""Refining while idle: a fit behind the picture that is shown, which takes its place when it has ended, and can be undone."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import replace

from PySide6.QtCore import QObject, QTimer
from PySide6.QtGui import QCursor

from featup_app.base.words import percent_below
from featup_app.engine.fit_book import FitRecord, features_key
from featup_app.engine.fits import FitRequest
from featup_app.engine.power import on_battery, processor_free
from featup_app.engine.settings import ViewSettings
from featup_app.fields.implicit.recipe import DEFAULT, STARTS
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.fit.fit_desk import FitDesk
from featup_app.gui.notices import Notify
from featup_app.gui.studio import FIRST, FITTED, Studio
from featup_app.images import Image

IDLE_SECONDS = 10.0
"""Seconds without a choice or a move of the pointer after which nobody is at work."""

_TICK_MILLISECONDS = 500


class Refinement(QObject):
    """Starts a fit of the features that are shown, from the field that is shown, and shows it when it has ended.

    The fit goes on while nobody is at work and the computer has mains power. Each picture is refined once.

    Args:
        desk: runs the fit.
        studio: has the choices.
        engine: is asked whether it is busy.
        notify: shows messages.
    """

    def __init__(self, desk: FitDesk, studio: Studio, engine: EngineBridge, notify: Notify) -> None:
        super().__init__(desk)
        self._desk, self._studio, self._engine, self._notify = desk, studio, engine, notify
        self._tried: set[Hashable] = set()
        self._acted, self._pointer = time.monotonic(), QCursor.pos()
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK_MILLISECONDS)
        self._timer.timeout.connect(self._tick)
        for signal in (studio.settings_changed, studio.request_changed, studio.image_changed):
            signal.connect(self._act)
        desk.behind_ended.connect(self._ended)

    @property
    def enabled(self) -> bool:
        """Whether pictures are refined."""
        return self._timer.isActive()

    def enable(self, wanted: bool) -> None:
        """Refine pictures from now on, or no more; a fit that runs for that is given up."""
        self._act()
        if wanted:
            self._timer.start()
            return
        self._timer.stop()
        running = self._desk.book.running
        if running is not None and running.behind:
            self._tried.discard(running.key)
            self._desk.discard()

    def _act(self, *_: object) -> None:
        """Somebody is at work."""
        self._acted = time.monotonic()
        self._desk.hold(True)

    def _tick(self) -> None:
        pointer = QCursor.pos()
        if pointer != self._pointer:
            self._pointer = pointer
            self._act()
        free = processor_free()  # asked each time, as it reports the time since the last call
        if time.monotonic() - self._acted < IDLE_SECONDS or on_battery():
            self._desk.hold(True)
            return
        self._desk.hold(False)
        image, settings = self._studio.image, self._studio.settings
        if free and image is not None and self._wanted(image, settings):
            self._tried.add(features_key(image, settings))
            start = settings.method if settings.method in STARTS else DEFAULT.start
            self._desk.start_behind(FitRequest(replace(DEFAULT, name="refined", start=start)))

    def _wanted(self, image: Image, settings: ViewSettings) -> bool:
        """Whether a picture is shown that has no fit yet, and nothing else is computed."""
        desk = self._desk
        if settings.method == FITTED or FIRST not in self._studio.views:
            return False
        known = features_key(image, settings) in self._tried or desk.book.alike(image, settings)
        return not known and not desk.running and not self._engine.busy

    def _ended(self, record: FitRecord) -> None:
        """Show the fit in place of the picture that it was made behind."""
        studio, report = self._studio, record.report
        shown = studio.image is not None and record.key == features_key(studio.image, studio.settings)
        if not shown or studio.settings.method == FITTED or report is None or report.held_out is None:
            return
        assert report.state is not None
        method = studio.settings.method
        self._desk.book.show(record)
        studio.exchange(record.settings_to_show(studio.settings))
        gain = percent_below(report.held_out, report.state.bilinear)
        sentence = (
            f"The picture was refined while you were away: held-out error {report.held_out:.3f}, {gain} than bilinear."
        )
        self._notify("information", sentence, action=("Undo", lambda: self._undo(record, method)))

    def _undo(self, record: FitRecord, method: str) -> None:
        """Back to the method from before, with whatever else was chosen meanwhile; the fit stays in the list."""
        studio = self._studio
        if studio.settings.method == FITTED and studio.fit == record.number:
            studio.exchange(studio.settings.with_(method=method))
