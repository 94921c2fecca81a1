"""The implicit fits of the window. Choosing the method starts one; it runs in pieces, is shown, kept and compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QWidget

from featup_app.engine.fit_book import FitBook, FitRecord, features_key
from featup_app.engine.fits import FitRefusal, FitReport, FitRequest
from featup_app.engine.fitting import begin_fit, live_size_text
from featup_app.engine.jobs import Progressed
from featup_app.engine.settings import ViewSettings
from featup_app.fields import DEFAULT_METHOD
from featup_app.gui.bottom_dock import BottomDock
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.fit.fit_drawing import FitDrawing
from featup_app.gui.fit.fit_files import FitFiles
from featup_app.gui.fit.fit_panel import FitPanel
from featup_app.gui.notices import Notify
from featup_app.gui.studio import FIRST, FITTED, Studio
from featup_app.images import Image

if TYPE_CHECKING:
    from featup_app.base.progress import Progress
    from featup_app.engine.session import Session

REFRESH_SECONDS = 1.0
"""Seconds between two pictures of a running fit."""

_HEIGHT = 290
"""Pixels that the panel gets when it appears."""

_Seen = tuple[ViewSettings, "int | None"]
"""Settings of a picture, and the number of its fit if it shows one."""


class FitDesk(QObject):
    """Runs one fit at a time on the engine's thread, in pieces, so that image views are computed between them.

    Args:
        engine: fits.
        studio: has the image and the settings, and shows a fit.
        notify: shows messages.
        window: the parent of the dialogs.

    Signals:
        behind_ended(FitRecord): a fit that ran behind what is shown has ended, and is kept.
    """

    behind_ended = Signal(object)

    def __init__(self, engine: EngineBridge, studio: Studio, notify: Notify, window: QWidget) -> None:
        super().__init__(window)
        self._engine, self._studio, self._notify, self._window = engine, studio, notify, window
        self.book = FitBook()
        self._job = 0
        self._held = self._waiting = False
        self._refreshed = 0.0
        self._seen: _Seen | None = None
        self._back_to: _Seen | None = None
        self.panel = FitPanel()
        self.files = FitFiles(
            engine, studio, self.book, notify, window, add=self._add, show=self._show, remove=self._remove
        )
        self._drawing = FitDrawing(self.panel, self._studio, self._engine)
        self.dock = BottomDock("fit", "Fit", self.panel, height=_HEIGHT)

        panel = self.panel
        panel.pause_toggled.connect(self._pause)
        panel.stop_asked.connect(self.stop)
        panel.discard_asked.connect(self.discard)
        panel.more_asked.connect(self.more)
        panel.new_asked.connect(lambda: self.start(panel.settings.request()))
        panel.chosen.connect(self.choose)
        panel.comparison.chosen.connect(self.choose)
        panel.save_asked.connect(self.files.ask_to_save)
        panel.open_asked.connect(self.files.ask_to_open)
        panel.forget_asked.connect(self._forget_shown)
        panel.tab_opened.connect(lambda _: self._draw_tab())
        studio.fit_wanted.connect(self._start_wanted)
        studio.view_ready.connect(lambda name, view: self._remember_shown() if name == FIRST else None)
        studio.settings_changed.connect(lambda _: self._features_changed())
        studio.image_changed.connect(lambda _: self._image_changed())
        engine.progressed.connect(self._progressed)

    @property
    def running(self) -> bool:
        """Whether a fit runs, perhaps paused."""
        return self.book.running is not None

    @property
    def paused(self) -> bool:
        """Whether the running fit is paused."""
        return self.running and self.book.paused

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the fits of this image."""
        return tuple(record.number for record in self.book.of_image(self._studio.image))

    # -- fitting ---------------------------------------------------------------------------------------------------

    def compute(self) -> None:
        """The Compute button while the method is chosen: start a new fit if its settings have changed, else compute the views."""
        record, request = self._shown_record(), self.panel.settings.request()
        if record is not None and record.request not in (None, request):
            self.start(request)
        else:
            self._studio.compute()

    def start(self, request: FitRequest) -> None:
        """Start a fit of the open image; a running fit is stopped and kept."""
        image, studio = self._studio.image, self._studio
        if image is None:
            self._notify("warning", "There is nothing to fit yet; open a picture first.")
            return
        self._settle()
        settings = studio.settings.with_(method=FITTED)
        record = self._add(image, settings, request, request.title)
        self.book.run(record)
        self._back_to = self._seen
        if studio.settings != settings:
            studio.choose(settings)
        self.panel.settings.show_request(request)
        self._begin(record, request)

    def start_behind(self, request: FitRequest) -> None:
        """Start a fit behind what is shown, of the same features; it is shown if the method is chosen meanwhile."""
        image, settings = self._studio.image, self._studio.settings.with_(method=FITTED)
        assert image is not None
        record = self._add(image, settings, request, request.title, behind=True)
        self.book.run(record)
        self._begin(record, request)

    def _begin(self, record: FitRecord, request: FitRequest) -> None:
        self.panel.begin(request.title)
        self._list()
        number, image, settings = record.number, record.image, record.settings
        self._ask(record, lambda session, progress: begin_fit(session, number, image, settings, request, progress))

    def hold(self, held: bool) -> None:
        """Let a fit that runs behind what is shown wait, or go on."""
        self._held = held
        if not held and self._waiting:
            self._waiting = False
            self._continue()

    def _start_wanted(self) -> None:
        """Start a fit, since the method is chosen and these features have none; one that runs behind is shown."""
        record, image = self.book.running, self._studio.image
        if image is None:
            return
        if record is None or record.key != features_key(image, self._studio.settings):
            self.start(self.panel.settings.request())
        elif record.behind:
            record.behind = False
            self.dock.appear()
            if record.showable:
                self._show_live(record, first=True)
            self.hold(False)

    def _ask(self, record: FitRecord, work: Callable[[Session, Progress], Any]) -> None:
        def failed(sentence: str, details: str) -> None:
            self._studio.report(sentence, details)
            self._ended_early(record, failed=True)

        job = self._engine.compute(
            "fit", work, self._answered, failed=failed, stopped=lambda: self._ended_early(record, failed=False)
        )
        self._job = job.id

    def _continue(self) -> None:
        record = self.book.running
        if record is not None and record.behind and self._held:
            self._waiting = True
        elif record is not None and not self.book.paused:
            number = record.number
            self._ask(record, lambda session, progress: session.fits.go_on(number, progress=progress))

    def _pause(self, paused: bool) -> None:
        self.book.paused = paused
        if not paused:
            self._continue()

    def stop(self) -> None:
        """End the running fit and keep its best state."""
        if self.book.running is not None:
            self._engine.cancel("fit")
            self._end(self.book.running)

    def discard(self) -> None:
        """Discard the running fit; the pictures from before it come back."""
        record = self.book.running
        if record is not None:
            self._waiting = False
            self._engine.cancel("fit")
            self._remove(record)
            self._restore()

    def more(self) -> None:
        """Continue the fit that is shown and has ended, for half as many steps as it has done."""
        record = self._shown_record()
        if record is None or record.report is None or record.report.state is None:
            return
        self._settle()
        number, steps = record.number, max(1, record.report.state.step // 2)
        self.book.run(record, continued=True)
        self.panel.show_pause(False)
        self._show_record(record)
        self._list()
        self._ask(record, lambda session, progress: session.fits.extend(number, steps))

    def _settle(self) -> None:
        """End the running fit; it is kept if it has features to show."""
        record = self.book.running
        if record is not None:
            self._waiting = record.behind = False
            self._engine.cancel("fit")
            self.book.running = None
            self._studio.live_size = None
            if not record.usable:
                self._remove(record)

    def _end(self, record: FitRecord) -> None:
        """The running fit has ended; show its best state."""
        self.book.running = None
        self._studio.live_size = None
        behind, record.behind = record.behind, False
        if not record.usable:
            self._remove(record)
            self._restore()
            return
        self._list()
        if behind:
            self._show_record(self._shown_record())
            self.behind_ended.emit(record)
            return
        self._show_record(self._shown_record() or record)
        if self._studio.fit == record.number and self._studio.settings.method == FITTED:
            self._studio.refresh(classes=True)
            self._draw_tab()
        else:
            self._notify("information", record.ended_sentence(), action=("Show it", lambda: self.choose(record.number)))

    def _restore(self) -> None:
        """Show what was shown before a fit: another fit, or another method."""
        studio = self._studio
        studio.live_size = None
        self._list()
        if studio.settings.method != FITTED or studio.fit is not None:
            self._show_record(self._shown_record())
            return  # something else is shown by now
        settings, number = self._back_to or (studio.settings, None)
        record = self.book.find(number)
        if record is not None and record.usable:
            self._show(record)
            return
        self._show_record(None)
        studio.choose(settings if settings.method != FITTED else studio.settings.with_(method=DEFAULT_METHOD))

    def _remember_shown(self) -> None:
        self._seen = self._studio.settings, self._studio.field_settings.fit

    # -- answers ---------------------------------------------------------------------------------------------------

    def _progressed(self, event: Progressed) -> None:
        record = self.book.running
        if event.job.id == self._job and record is not None and not record.usable:
            self.panel.show_stage(event.words, event.done, event.total)

    def _answered(self, answer: FitReport | FitRefusal) -> None:
        """A piece of the running fit is done, or the fit needs too much memory."""
        record = self.book.running
        if record is None or record.number != answer.number:
            return
        if isinstance(answer, FitRefusal):
            self._refused(record, answer)
        else:
            self._reported(record, answer)

    def _refused(self, record: FitRecord, refusal: FitRefusal) -> None:
        self._remove(record)
        if record.behind:
            self._show_record(self._shown_record())
            return
        self._restore()
        smaller = refusal.smaller
        action = ("Fit smaller", lambda: self.start(smaller)) if smaller is not None else None
        self._notify("warning", refusal.sentence, action=action)

    def _reported(self, record: FitRecord, report: FitReport) -> None:
        before, first = record.report, not record.showable
        record.report = report
        assert report.state is not None
        if report.state.finished:
            if first and record.showable and not record.behind:
                self._show_in_views(record)
            self._end(record)
            return
        stepped = before is None or before.state is None or before.state.step < report.state.step
        if record.showable and stepped and not record.behind:
            self._show_live(record, first=first)
        if self.book.paused and self._studio.live_size is not None:
            self._studio.live_size = None  # a paused fit leaves time for pictures of full size
            self._studio.refresh()
        if self._studio.fit in (None, record.number):
            self._show_record(record)
        self._continue()

    def _show_live(self, record: FitRecord, *, first: bool) -> None:
        """Show the running fit: its base field or its first features at once, then about once a second."""
        now = time.monotonic()
        if first:
            self._show_in_views(record)
        elif now - self._refreshed < REFRESH_SECONDS:
            return
        self._refreshed = now
        self._list()
        if self._studio.fit != record.number or self._studio.settings.method != FITTED:
            return
        self._studio.live_size = live_size_text(self._studio.settings, record)
        self._studio.refresh(classes=first)
        self._draw_tab(live=True)

    def _ended_early(self, record: FitRecord, *, failed: bool) -> None:
        """A piece failed, which has been reported, or was cancelled."""
        if record is not self.book.running:
            return
        if failed or not record.usable or record.behind:
            self._end(record)
        else:  # cancelled by the tool bar or its key: the fit stays and can be resumed
            self.book.paused = True
            self.panel.show_pause(True)

    # -- which fit is shown ----------------------------------------------------------------------------------------

    def choose(self, number: int) -> None:
        """Show another fit."""
        record = self.book.find(number)
        if record is not None and record.usable:
            self._show(record)

    def _show(self, record: FitRecord) -> None:
        studio = self._studio
        record.behind = False
        wanted = record.settings_to_show(studio.settings)
        self._show_in_views(record)
        live = record is self.book.running and not self.book.paused
        studio.live_size = live_size_text(self._studio.settings, record) if live else None
        if studio.settings != wanted:
            studio.choose(wanted)
        else:
            studio.compute()
        self._list()
        self._show_record(record)
        if record.request is not None:
            self.panel.settings.show_request(record.request)
        self._draw_tab()

    def _show_in_views(self, record: FitRecord) -> None:
        self.book.show(record)
        if self._studio.image is not None and record.key == features_key(self._studio.image, self._studio.settings):
            self._studio.fit = record.number

    def _show_record(self, record: FitRecord | None) -> None:
        """Show the curve and figures of a fit."""
        if record is None or record.report is None:
            self.panel.show_nothing()
            return
        under_way = record is self.book.running
        self.panel.show_report(record.report, under_way=under_way, discardable=not self.book.continued)
        if under_way and self.book.paused:
            self.panel.show_pause(True)

    def _shown_record(self) -> FitRecord | None:
        return self.book.find(self._studio.fit)

    def _image_changed(self) -> None:
        self._seen = None  # the former picture cannot be restored
        self._features_changed()

    def _features_changed(self) -> None:
        """Find the fit that belongs to another image or other settings."""
        studio, image = self._studio, self._studio.image
        if image is None:
            return
        running = self.book.running
        if running is not None and running.key != features_key(image, studio.settings):
            self._settle()
            running = None
        record = self.book.to_show(image, studio.settings)
        studio.fit = None if record is None else record.number
        live = record is not None and record is running and not self.book.paused
        studio.live_size = live_size_text(self._studio.settings, record) if live and record is not None else None
        self._list()
        if running is None:
            self._show_record(record)

    def _list(self) -> None:
        """List the fits of this image; fits of other features name their backbone."""
        studio = self._studio
        running = None if self.book.running is None else self.book.running.number
        records = self.book.of_image(studio.image)
        self.dock.keep_while(any(not record.behind for record in records))
        entries = [record.entry(studio.settings) for record in records]
        self.panel.show_fits(entries, studio.fit, busy=studio.fit == running)

    def _draw_tab(self, *, live: bool = False) -> None:
        alike = self.book.alike(self._studio.image, self._studio.settings)
        self._drawing.draw(self._shown_record(), alike, live=live)

    # -- keeping and leaving -------------------------------------------------------------------------------------------

    def _forget_shown(self) -> None:
        record = self._shown_record()
        if record is None or record is self.book.running:
            return
        self._remove(record)
        others = self.book.alike(record.image, record.settings)
        self._back_to = (self._studio.settings, others[-1].number) if others else None
        self._restore()

    def _remove(self, record: FitRecord) -> None:
        number = record.number
        self.book.remove(record)
        if self._studio.fit == number:
            self._studio.fit = None
        self._engine.compute("fit forget", lambda session, progress: session.fits.forget(number), replace=False)

    def _add(
        self, image: Image, settings: ViewSettings, request: FitRequest | None, title: str, *, behind: bool = False
    ) -> FitRecord:
        """Add a fit, remove the oldest ones beyond the limit, and show the panel unless it runs behind what is shown."""
        record = self.book.add(image, settings, request, title)
        record.behind = behind
        for surplus in self.book.surplus({record.number, self._studio.fit}):
            self._remove(surplus)
        if not behind:
            self.dock.appear()
        return record
