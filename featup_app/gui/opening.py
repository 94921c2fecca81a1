"""The ways to open pictures: dialogs, clipboard, drag and drop, and the menu of recent files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QMimeData, QObject
from PySide6.QtGui import QGuiApplication, QImage
from PySide6.QtWidgets import QFileDialog, QMenu, QWidget

from featup_app.engine.preferences import Preferences
from featup_app.gui.notices import Notify
from featup_app.gui.strip.strip_desk import StripDesk
from featup_app.gui.studio import Studio
from featup_app.gui.widgets import without_mnemonic
from featup_app.images import IMAGE_SUFFIXES, Image

IMAGE_PATTERN = f"Pictures ({' '.join(f'*{suffix}' for suffix in IMAGE_SUFFIXES)});;All files (*)"
"""File types of dialogs for pictures."""


class ImageOpener(QObject):
    """Opens pictures.

    Args:
        desk: opens files and folders.
        studio: opens pixels.
        notify: shows messages.
        preferences: remembers recent files.
        window: the parent of dialog and menu.

    Attributes:
        recent_menu: the recent files that still exist.
    """

    def __init__(
        self, desk: StripDesk, studio: Studio, notify: Notify, preferences: Preferences, window: QWidget
    ) -> None:
        super().__init__(window)
        self._desk, self._studio, self._notify = desk, studio, notify
        self._preferences, self._window = preferences, window
        self.recent_menu = QMenu("Open &recent", window)
        self.recent_menu.aboutToShow.connect(self._fill_recent)
        desk.chosen.connect(self._remember)

    def open(self, places: Sequence[str | Path]) -> None:
        """Open files and the pictures of folders; several appear as a film strip."""
        self._desk.open(places)

    def open_dialog(self) -> None:
        """Ask for files."""
        paths, _ = QFileDialog.getOpenFileNames(self._window, "Open images", self._folder(), IMAGE_PATTERN)
        if paths:
            self.open(paths)

    def open_folder_dialog(self) -> None:
        """Ask for a folder, whose pictures are opened."""
        folder = QFileDialog.getExistingDirectory(self._window, "Open folder", self._folder())
        if folder:
            self.open([folder])

    def _folder(self) -> str:
        """Where dialogs begin: at the last picture."""
        recent = self._preferences.recent
        return str(Path(recent[0]).parent) if recent else str(Path.home())

    def paste(self) -> None:
        """Open the picture or the copied files on the clipboard."""
        if not self.open_data(QGuiApplication.clipboard().mimeData()):
            self._notify("warning", "There is no picture on the clipboard; copy one first.")

    def open_data(self, data: QMimeData) -> bool:
        """Open what was dropped or pasted: files, folders or a picture. Returns whether the data hold any."""
        files = [url.toLocalFile() for url in data.urls() if url.isLocalFile()]
        if files:
            self.open(files)
            return True
        if data.hasImage():
            self._studio.open_pixels(_pixels(QImage(data.imageData())), "pasted image")
            return True
        return False

    def _remember(self, image: Image) -> None:
        if image.path is not None and not image.is_sample:
            self._preferences.add_recent(image.path)

    def _fill_recent(self) -> None:
        menu = self.recent_menu
        menu.clear()
        for path in [path for path in self._preferences.recent if Path(path).is_file()]:
            menu.addAction(without_mnemonic(path), lambda path=path: self.open([path]))
        if menu.isEmpty():
            menu.addAction("No pictures yet").setEnabled(False)


def _pixels(image: QImage) -> NDArray[np.uint8]:
    """A QImage as (H, W, 4) uint8 RGBA."""
    image = image.convertToFormat(QImage.Format.Format_RGBA8888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : image.width() * 4].reshape(image.height(), image.width(), 4).copy()
