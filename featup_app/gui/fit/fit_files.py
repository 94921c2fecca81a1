"""Saving the fit that is shown, and opening one of the image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QWidget

from featup_app.engine.fit_book import FitBook, FitRecord
from featup_app.engine.fits import FitReport
from featup_app.engine.fitting import open_fit
from featup_app.gui.closing import ask_before_closing
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.file_dialogs import ask_where_to_save, ask_which_to_open, folder_of
from featup_app.gui.notices import Notify
from featup_app.gui.studio import FITTED, Studio

FIT_PATTERN = "Fits (*.safetensors);;All files (*)"

LONG_SECONDS = 60.0
"""Longer fits are not discarded without a question."""


class FitFiles:
    """Reads and writes fits on the engine's thread.

    Args:
        engine: computes.
        studio: has the image and the fit that is shown.
        book: keeps the fits.
        notify: shows messages.
        window: the parent of the dialogs.
        add: adds a record to the book.
        show: shows a fit.
        remove: removes a fit.
    """

    def __init__(
        self,
        engine: EngineBridge,
        studio: Studio,
        book: FitBook,
        notify: Notify,
        window: QWidget,
        *,
        add: Callable[..., FitRecord],
        show: Callable[[FitRecord], None],
        remove: Callable[[FitRecord], None],
    ) -> None:
        self._engine, self._studio, self._book, self._notify, self._window = engine, studio, book, notify, window
        self._add, self._show, self._remove = add, show, remove
        self._closing = False

    def ask_to_save(self) -> None:
        """The dialog for saving the fit that is shown."""
        record = self._book.find(self._studio.fit)
        if record is None or not record.usable:
            self._notify("warning", "There is no fit to save yet; choose the method FeatUp implicit first.")
            return
        path = self._ask_where(record)
        if path is not None:
            self.save(record, path)

    def _ask_where(self, record: FitRecord) -> Path | None:
        image = record.image
        proposed = folder_of(image) / f"{Path(image.name).stem}-implicit.safetensors"
        return ask_where_to_save(self._window, f"Save fit “{record.title}” of {image.name}", proposed, FIT_PATTERN)

    def save(self, record: FitRecord, path: Path) -> None:
        """Write a fit."""
        number = record.number

        def saved(written: Path) -> None:
            record.saved = True
            self._notify("information", f"Saved the fit as {written.name} in {written.parent}.")
            if self._closing:
                QTimer.singleShot(0, self._window.close)

        def failed(sentence: str, details: str) -> None:
            self._closing = False  # the window stays open so that the message can be read
            self._studio.report(sentence, details)

        self._engine.compute(
            "fit save",
            lambda session, progress: session.fits.save(number, path, progress),
            saved,
            failed=failed,
            replace=False,
        )

    def may_close(self) -> bool:
        """Whether the window may close now: asks if a fit that took long is not saved, and saves one after the other if wanted.

        The window closes by itself once they are saved.
        """
        self._closing = False
        unsaved = self._book.unsaved(LONG_SECONDS)
        if not unsaved:
            return True
        count = f"{len(unsaved)} fits of this window are" if len(unsaved) > 1 else f"The fit “{unsaved[0].title}” is"
        answer = ask_before_closing(
            self._window,
            "Fit",
            f"{count} not saved and would be lost. Save before the window closes?",
            save="Save…",
            discard="Discard",
            stay="Keep working",
        )
        if answer != "save":
            return answer == "discard"
        path = self._ask_where(unsaved[0])
        if path is not None:
            self._closing = True
            self.save(unsaved[0], path)
        return False

    def ask_to_open(self) -> None:
        """The dialog for opening a fit of this image."""
        image = self._studio.image
        if image is None:
            self._notify("warning", "Open the picture of the fit first.")
            return
        path = ask_which_to_open(self._window, "Open fit", folder_of(image), FIT_PATTERN)
        if path is not None:
            self.open(path)

    def open(self, path: Path) -> None:
        """Read a fit of the open image and show it."""
        image, settings = self._studio.image, self._studio.settings.with_(method=FITTED)
        if image is None:
            return
        record = self._add(image, settings, None, path.stem)
        number = record.number

        def opened(report: FitReport) -> None:
            record.report, record.title = report, report.title
            self._show(record)

        def failed(sentence: str, details: str) -> None:
            self._studio.report(sentence, details)
            self._remove(record)

        self._engine.compute(
            "fit open",
            lambda session, progress: open_fit(session, number, image, settings, path, progress),
            opened,
            failed=failed,
            stopped=lambda: self._remove(record),
        )
