"""Dialogs for fits: where to save one, and which to open."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QFileDialog, QWidget

from featup_app.images import Image

FIT_PATTERN = "Fits (*.safetensors);;All files (*)"


def ask_where_to_save(parent: QWidget, image: Image, title: str) -> Path | None:
    """The dialog for saving the fit of this title of an image; None if it is cancelled."""
    proposed = (image.own_folder or Path.home()) / f"{Path(image.name).stem}-implicit.safetensors"
    words = f"Save fit “{title}” of {image.name}"
    path, _ = QFileDialog.getSaveFileName(parent, words, str(proposed), FIT_PATTERN)
    if not path:
        return None
    return Path(path if path.lower().endswith(".safetensors") else f"{path}.safetensors")


def ask_which_to_open(parent: QWidget, image: Image) -> Path | None:
    """The dialog for opening a fit of an image; None if it is cancelled."""
    path, _ = QFileDialog.getOpenFileName(parent, "Open fit", str(image.own_folder or Path.home()), FIT_PATTERN)
    return Path(path) if path else None
