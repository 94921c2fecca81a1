"""The implicit fits of the window: begun when the method is chosen, continued piece by piece, watched, kept and compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject
from PySide6.QtWidgets import QWidget

from featup_app.base.errors import SizeError
from featup_app.engine.fitting import FitPlan, FitRefusal, FitReport, begin_fit, live_size, next_number, open_fit
from featup_app.engine.jobs import Progressed
from featup_app.engine.views import ViewSettings
from featup_app.gui.bottom_dock import BottomDock
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.fit.fit_drawing import FitDrawing
from featup_app.gui.fit.fit_panel import FitPanel
from featup_app.gui.fit.fit_records import (
    FEATURE_SETTINGS,
    FitRecord,
    ask_where_to_save,
    ask_which_to_open,
    features_key,
    may_lose,
)
from featup_app.gui.notices import Notify
from featup_app.gui.studio import FIRST, FITTED, Studio

if TYPE_CHECKING:
    from featup_app.base.progress import Progress
    from featup_app.engine.session import Session

FITS_KEPT = 8
"""Fits in memory, of all images; beyond that the oldest go."""

REFRESH_SECONDS = 1.0
"""Between two pictures of a fit that is under way."""

_HEIGHT = 290
"""Pixels that the panel takes when it appears, so that the pictures stay the largest thing."""

_Seen = tuple[ViewSettings, "int | None"]
"""Settings, and the number of the fit if it was one, of a picture."""


class FitDesk(QObject):
    """Runs one fit at a time on the engine's thread, in pieces between which views are answered.

    Args:
        engine: fits.
        studio: names the image and the settings, and shows a fit.
        notify: shows messages.
        window: the parent of the dialogs.
    """

    def __init__(self, engine: EngineBridge, studio: Studio, notify: Notify, window: QWidget) -> None:
        super().__init__(window)
        self._engine, self._studio, self._notify, self._window = engine, studio, notify, window
        self._records: dict[int, FitRecord] = {}
        self._shown: dict[Hashable, int] = {}
        self._running: int | None = None
        self._paused = self._continued = False
        self._job = 0
        self._refreshed = 0.0
        self._seen: _Seen | None = None
        self._back_to: _Seen | None = None
        self.panel = FitPanel()
        self._drawing = FitDrawing(self.panel, self._studio, self._engine)
        self.dock = BottomDock("fit", "Fit", self.panel, height=_HEIGHT)

        panel = self.panel
        panel.pause_toggled.connect(self._pause)
        panel.stop_asked.connect(self.stop)
        panel.discard_asked.connect(self.discard)
        panel.more_asked.connect(self.more)
        panel.new_asked.connect(lambda: self.start(panel.settings.plan()))
        panel.chosen.connect(self.choose)
        panel.comparison.chosen.connect(self.choose)
        panel.save_asked.connect(self.ask_to_save)
        panel.open_asked.connect(self.ask_to_open)
        panel.forget_asked.connect(self._forget_shown)
        panel.tab_opened.connect(lambda _: self._draw_tab())
        studio.fit_wanted.connect(self._wanted)
        studio.view_ready.connect(lambda name, view: self._saw() if name == FIRST else None)
        studio.settings_changed.connect(lambda _: self._features_changed())
        studio.image_changed.connect(lambda _: self._image_changed())
        engine.progressed.connect(self._progressed)

    @property
    def running(self) -> bool:
        """Whether a fit is under way, perhaps paused."""
        return self._running is not None

    @property
    def paused(self) -> bool:
        """Whether the fit under way waits."""
        return self.running and self._paused

    @property
    def numbers(self) -> tuple[int, ...]:
        """The fits of this image."""
        return tuple(record.number for record in self._of_image())

    # -- fitting ---------------------------------------------------------------------------------------------------

    def compute(self) -> None:
        """The Compute button while the method is chosen: a new fit if other settings are chosen for it, else new pictures."""
        record, plan = self._shown_record(), self.panel.settings.plan()
        if record is not None and record.plan not in (None, plan):
            self.start(plan)
        else:
            self._studio.compute()

    def start(self, plan: FitPlan) -> None:
        """Begin to fit the image that is open; a fit that is under way is stopped and kept."""
        image, studio = self._studio.image, self._studio
        if image is None:
            self._notify("warning", "There is nothing to fit yet; open a picture first.")
            return
        self._settle()
        settings = studio.settings.with_(method=FITTED)
        record = FitRecord(next_number(), image, settings, plan, plan.title)
        self._records[record.number] = record
        self._back_to, self._running = self._seen, record.number
        self._paused = self._continued = False
        self._make_room()
        if studio.settings != settings:
            studio.choose(settings)
        self.panel.begin(plan.title)
        self.panel.settings.show_plan(plan)
        self._list()
        self.dock.appear()
        number = record.number
        self._ask(lambda session, progress: begin_fit(session, number, image, settings, plan, progress))

    def _wanted(self) -> None:
        """The method is chosen and there is no fit for these features yet."""
        record, image = self._records.get(self._running or 0), self._studio.image
        if image is not None and (record is None or record.key != features_key(image, self._studio.settings)):
            self.start(self.panel.settings.plan())

    def _ask(self, work: Callable[[Session, Progress], Any]) -> None:
        def failed(sentence: str, details: str) -> None:
            self._studio.report(sentence, details)
            self._ended_early(number, failed=True)

        number = self._running
        job = self._engine.compute(
            "fit", work, self._answered, failed=failed, stopped=lambda: self._ended_early(number, failed=False)
        )
        self._job = job.id

    def _go_on(self) -> None:
        number = self._running
        if number is not None and not self._paused:
            self._ask(lambda session, progress: session.fits.go_on(number, progress=progress))

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        if not paused:
            self._go_on()

    def stop(self) -> None:
        """End the fit that is under way and keep its best state."""
        if self._running is not None:
            self._engine.cancel("fit")
            self._end(self._records[self._running])

    def discard(self) -> None:
        """Give the fit that is under way up; the pictures from before it come back."""
        number = self._running
        if number is None:
            return
        self._engine.cancel("fit")
        self._running = None
        self._remove(number)
        self._restore()

    def more(self) -> None:
        """Go on with the fit that is shown and has ended, for half as many steps as it has done."""
        record = self._shown_record()
        if record is None or record.report is None or record.report.state is None:
            return
        self._settle()
        number, steps = record.number, max(1, record.report.state.step // 2)
        self._running, self._paused, self._continued = number, False, True
        self.panel.show_pause(False)
        self._show_record(record)
        self._list()
        self._ask(lambda session, progress: session.fits.extend(number, steps))

    def _settle(self) -> None:
        """Whatever is under way ends: kept if there is something to keep."""
        if self._running is not None:
            self._engine.cancel("fit")
            record, self._running = self._records[self._running], None
            self._studio.live_size = None
            if not record.usable:
                self._remove(record.number)

    def _end(self, record: FitRecord) -> None:
        """The fit under way is over; its best state is what is seen now."""
        self._running = None
        self._studio.live_size = None
        if not record.usable:
            self._remove(record.number)
            self._restore()
            return
        self._list()
        self._show_record(self._shown_record() or record)
        if self._studio.fit == record.number and self._studio.settings.method == FITTED:
            self._studio.refresh(classes=True)
            self._draw_tab()
        else:
            self._notify("information", record.ended_sentence(), action=("Show it", lambda: self.choose(record.number)))

    def _restore(self) -> None:
        """See again what was seen before a fit: another fit, or another method."""
        studio = self._studio
        studio.live_size = None
        self._list()
        if studio.settings.method != FITTED or studio.fit is not None:
            self._show_record(self._shown_record())
            return  # something else is looked at by now
        settings, number = self._back_to or (studio.settings, None)
        record = self._records.get(number or 0)
        if record is not None and record.usable:
            self._show(record)
            return
        self._show_record(None)
        studio.choose(settings if settings.method != FITTED else studio.settings.with_(method="jbu"))

    def _saw(self) -> None:
        self._seen = self._studio.settings, self._studio.field_settings.fit

    # -- answers ---------------------------------------------------------------------------------------------------

    def _progressed(self, event: Progressed) -> None:
        record = self._records.get(self._running or 0)
        if event.job.id == self._job and record is not None and not record.usable:
            self.panel.show_stage(event.words, event.done, event.total)

    def _answered(self, answer: FitReport | FitRefusal) -> None:
        """A piece of the fit under way is done, or it does not fit into memory."""
        if answer.number == self._running:
            self._refused(answer) if isinstance(answer, FitRefusal) else self._reported(answer)

    def _refused(self, refusal: FitRefusal) -> None:
        self._running = None
        self._remove(refusal.number)
        self._restore()
        smaller = refusal.smaller
        action = ("Fit smaller", lambda: self.start(smaller)) if smaller is not None else None
        self._notify("warning", refusal.sentence, action=action)

    def _reported(self, report: FitReport) -> None:
        record = self._records[report.number]
        first = not record.usable
        record.report = report
        assert report.state is not None
        if report.state.finished:
            if first and record.usable:
                self._show_in_views(record)
            self._end(record)
            return
        if record.usable:
            self._watch(record, first=first)
        if self._paused and self._studio.live_size is not None:
            self._studio.live_size = None  # there is time for whole pictures now
            self._studio.refresh()
        if self._studio.fit in (None, record.number):
            self._show_record(record)
        self._go_on()

    def _watch(self, record: FitRecord, *, first: bool) -> None:
        """Pictures of the fit under way: at once when there is something to see, then about once a second."""
        now = time.monotonic()
        if first:
            self._show_in_views(record)
        elif now - self._refreshed < REFRESH_SECONDS:
            return
        self._refreshed = now
        self._list()
        if self._studio.fit != record.number or self._studio.settings.method != FITTED:
            return
        self._studio.live_size = self._live_size(record)
        self._studio.refresh(classes=first)
        self._draw_tab(live=True)

    def _live_size(self, record: FitRecord) -> str | None:
        assert record.report is not None
        try:
            height, width = live_size(self._studio.settings, record.report.geometry)
        except SizeError:
            return None  # the views tell of it
        return f"{height}x{width}"

    def _ended_early(self, number: int | None, *, failed: bool) -> None:
        """A piece failed or was cancelled; the reason has been shown, if there is one."""
        record = self._records.get(number or 0)
        if number != self._running or record is None:
            return
        if failed or not record.usable:
            self._end(record)
        else:  # cancelled by the tool bar or its key: what is there stays, and may go on
            self._paused = True
            self.panel.show_pause(True)

    # -- which fit is seen -----------------------------------------------------------------------------------------

    def choose(self, number: int) -> None:
        """See the image through another fit."""
        record = self._records.get(number)
        if record is not None and record.usable:
            self._show(record)

    def _show(self, record: FitRecord) -> None:
        studio = self._studio
        self._shown[record.key] = record.number
        fitted_to = {name: getattr(record.settings, name) for name in FEATURE_SETTINGS}
        wanted = studio.settings.with_(method=FITTED, **fitted_to)
        self._show_in_views(record)
        studio.live_size = self._live_size(record) if record.number == self._running and not self._paused else None
        if studio.settings != wanted:
            studio.choose(wanted)
        else:
            studio.compute()
        self._list()
        self._show_record(record)
        if record.plan is not None:
            self.panel.settings.show_plan(record.plan)
        self._draw_tab()

    def _show_in_views(self, record: FitRecord) -> None:
        self._shown[record.key] = record.number
        if self._studio.image is not None and record.key == features_key(self._studio.image, self._studio.settings):
            self._studio.fit = record.number

    def _show_record(self, record: FitRecord | None) -> None:
        """The figures of a fit, and the settings that it was made with."""
        if record is None or record.report is None:
            self.panel.show_nothing()
            return
        under_way = record.number == self._running
        self.panel.show_report(record.report, under_way=under_way, discardable=not self._continued)
        if self._paused and record.number == self._running:
            self.panel.show_pause(True)

    def _shown_record(self) -> FitRecord | None:
        return self._records.get(self._studio.fit or 0)

    def _image_changed(self) -> None:
        self._seen = None  # what was seen is no longer there to come back to
        self._features_changed()

    def _features_changed(self) -> None:
        """Another image, or other settings: which of the fits belong to them."""
        studio, image = self._studio, self._studio.image
        if image is None:
            return
        key, running = features_key(image, studio.settings), self._records.get(self._running or 0)
        if running is not None and running.key != key:
            self._settle()
            running = None
        record = self._records.get(self._shown.get(key, 0))
        studio.fit = record.number if record is not None and record.usable else None
        under_way = running is not None and running is record and not self._paused
        studio.live_size = self._live_size(running) if under_way and running is not None and running.usable else None
        self._list()
        if running is None:
            self._show_record(record if studio.fit is not None else None)

    def _of_image(self) -> list[FitRecord]:
        image = self._studio.image
        return (
            []
            if image is None
            else [record for record in self._records.values() if record.image.sha256 == image.sha256]
        )

    def _list(self) -> None:
        """The fits of this image; those of other features say of which."""
        entries = [record.entry(self._studio.settings) for record in self._of_image()]
        self.panel.show_fits(entries, self._studio.fit, busy=self._studio.fit == self._running)

    def _draw_tab(self, *, live: bool = False) -> None:
        record = self._shown_record()
        image = self._studio.image
        key = None if image is None else features_key(image, self._studio.settings)
        alike = [other for other in self._of_image() if other.key == key]
        self._drawing.draw(record, alike, live=live)

    # -- files ---------------------------------------------------------------------------------------------------------

    def ask_to_save(self) -> None:
        """The dialog for saving the fit that is shown."""
        record = self._shown_record()
        if record is None or not record.usable:
            self._notify("warning", "There is no fit to save yet; choose the method FeatUp implicit first.")
            return
        path = ask_where_to_save(self._window, record.image)
        if path is not None:
            self.save(path)

    def save(self, path: Path) -> None:
        """Write the fit that is shown, on the engine's thread."""
        record = self._shown_record()
        if record is not None and record.usable:
            number = record.number
            self._engine.compute(
                "fit save",
                lambda session, progress: session.fits.save(number, path, progress),
                lambda written: self._saved(number, written),
                replace=False,
            )

    def _saved(self, number: int, path: Path) -> None:
        if number in self._records:
            self._records[number].saved = True
        self._notify("information", f"Saved the fit as {path.name} in {path.parent}.")

    def ask_to_open(self) -> None:
        """The dialog for opening a fit of this image."""
        image = self._studio.image
        if image is None:
            self._notify("warning", "Open the picture of the fit first.")
            return
        path = ask_which_to_open(self._window, image)
        if path is not None:
            self.open(path)

    def open(self, path: Path) -> None:
        """Read a fit of the open image and see the image through it."""
        image, settings = self._studio.image, self._studio.settings.with_(method=FITTED)
        if image is None:
            return
        record = FitRecord(next_number(), image, settings, None, path.stem, saved=True)
        self._records[record.number] = record
        self._make_room()
        number = record.number

        def failed(sentence: str, details: str) -> None:
            self._studio.report(sentence, details)
            self._remove(number)

        self._engine.compute(
            "fit open",
            lambda session, progress: open_fit(session, number, image, settings, path, progress),
            self._opened,
            failed=failed,
            stopped=lambda: self._remove(number),
        )
        self.dock.appear()

    def _opened(self, report: FitReport) -> None:
        record = self._records.get(report.number)
        if record is not None:
            record.report, record.title = report, report.title
            self._list()
            self._show(record)

    # -- keeping and leaving -------------------------------------------------------------------------------------------

    def _forget_shown(self) -> None:
        record = self._shown_record()
        if record is None or record.number == self._running:
            return
        self._remove(record.number)
        others = [other for other in self._of_image() if other.usable and other.key == record.key]
        self._back_to = (self._studio.settings, others[-1].number) if others else None
        self._restore()

    def _remove(self, number: int) -> None:
        self._records.pop(number, None)
        self._shown = {key: shown for key, shown in self._shown.items() if shown != number}
        if self._studio.fit == number:
            self._studio.fit = None
        self._engine.compute("fit forget", lambda session, progress: session.fits.forget(number), replace=False)

    def _make_room(self) -> None:
        while len(self._records) > FITS_KEPT:
            oldest = next((n for n in self._records if n not in (self._running, self._studio.fit)), None)
            if oldest is None:
                return
            self._remove(oldest)

    def may_close(self) -> bool:
        """Whether the window may close now; asks if work of more than a minute would be lost."""
        return may_lose(self._window, self._records.values())
