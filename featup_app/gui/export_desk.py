"""Exports of the window: the dialog, the job, and the message at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PySide6.QtCore import QObject, QTimer
from PySide6.QtWidgets import QWidget

from featup_app.engine.exporting import export_image
from featup_app.engine.preferences import Preferences
from featup_app.gui.closing import ask_before_closing
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.export_dialog import ExportDialog
from featup_app.gui.notices import Notify
from featup_app.gui.studio import Studio


class ExportDesk(QObject):
    """Asks what to export, and exports it on the engine's thread.

    Args:
        engine: exports.
        studio: the image, the settings and the requests of the lenses.
        notify: shows messages.
        preferences: remembers what is chosen.
        opacities: of the lenses over the image as they are seen, by name.
        window: the parent of the dialogs.
    """

    def __init__(
        self,
        engine: EngineBridge,
        studio: Studio,
        notify: Notify,
        preferences: Preferences,
        opacities: Callable[[], Mapping[str, float]],
        window: QWidget,
    ) -> None:
        super().__init__(window)
        self._engine, self._studio, self._notify = engine, studio, notify
        self._preferences, self._opacities, self._window = preferences, opacities, window
        self._running = 0
        self._close_after = False

    def open_dialog(self) -> None:
        """Ask what to export, and start the export."""
        image = self._studio.image
        if image is None:
            self._notify("warning", "There is nothing to export yet; open a picture first.")
            return
        dialog = ExportDialog(self._window, self._studio, self._preferences, self._opacities())
        dialog.finished.connect(dialog.deleteLater)
        if not dialog.exec():
            return
        options, folder, stem = dialog.options(), dialog.folder(), dialog.stem()
        settings = self._studio.field_settings
        self._running += 1
        self._engine.compute(
            "export",
            lambda session, progress: export_image(
                session, image, settings, options, folder, stem=stem, progress=progress
            ),
            self._show_exported,
            failed=self._show_failure,
            stopped=self._stopped,
            finished=self._finished,
            replace=False,
        )

    def may_close(self) -> bool:
        """Whether the window may close now; asks the person if an export is running.

        The window closes by itself after an export that is to be finished.
        """
        if not self._running:
            return True
        answer = ask_before_closing(
            self._window,
            "Export",
            "An export is still running. Finish it before the window closes? If it is cancelled, no incomplete files are left.",
            save="Finish, then close",
            discard="Cancel the export",
            stay="Keep working",
        )
        self._close_after = answer == "save" and bool(self._running)
        return answer == "discard" or (answer == "save" and not self._running)

    def _show_exported(self, files: Sequence[Path]) -> None:
        count = f"{len(files)} files" if len(files) > 1 else files[0].name
        self._notify("information", f"Saved {count} in {files[0].parent}.")

    def _show_failure(self, sentence: str, details: str) -> None:
        self._close_after = False  # the window stays open so that the message can be read
        self._studio.report(sentence, details)

    def _stopped(self) -> None:
        self._close_after = False  # by the person, who is still there

    def _finished(self) -> None:
        self._running -= 1
        if self._close_after and not self._running:
            QTimer.singleShot(0, self._window.close)
