"""Dialogs for fits: where to save one, which to open, and whether to lose unsaved ones."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QFileDialog, QMessageBox, QWidget

from featup_app.images import Image

FIT_PATTERN = "Fits (*.safetensors);;All files (*)"

_LONG_SECONDS = 60.0
"""Longer fits are not discarded without a question."""


def may_lose(parent: QWidget, seconds: float) -> bool:
    """Whether so many seconds of unsaved fitting may be lost with the window; asks if it is more than a minute."""
    if seconds < _LONG_SECONDS:
        return True
    question = "Fits that are not saved are lost when the window closes. Close it?"
    return QMessageBox.question(parent, "Fit", question) == QMessageBox.StandardButton.Yes


def ask_where_to_save(parent: QWidget, image: Image) -> Path | None:
    """The dialog for saving a fit of an image; None if it is cancelled."""
    proposed = (image.own_folder or Path.home()) / f"{Path(image.name).stem}-implicit.safetensors"
    path, _ = QFileDialog.getSaveFileName(parent, "Save fit", str(proposed), FIT_PATTERN)
    if not path:
        return None
    return Path(path if path.lower().endswith(".safetensors") else f"{path}.safetensors")


def ask_which_to_open(parent: QWidget, image: Image) -> Path | None:
    """The dialog for opening a fit of an image; None if it is cancelled."""
    path, _ = QFileDialog.getOpenFileName(parent, "Open fit", str(image.own_folder or Path.home()), FIT_PATTERN)
    return Path(path) if path else None
