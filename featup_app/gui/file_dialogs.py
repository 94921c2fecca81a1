"""Asking for the name of a file: with the ending that it needs, beginning in the folder of the picture."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QFileDialog, QWidget

from featup_app.images import Image


def folder_of(image: Image | None) -> Path:
    """Where dialogs about an image begin: in its folder, or at home."""
    return (image.own_folder if image is not None else None) or Path.home()


def ask_where_to_save(parent: QWidget, title: str, proposed: Path, pattern: str) -> Path | None:
    """Ask where to save; None if it is cancelled.

    Args:
        parent: the window.
        title: of the dialog.
        proposed: the file that is offered; a name without its ending gets it.
        pattern: of the files that are listed, as Qt writes it.
    """
    chosen, _ = QFileDialog.getSaveFileName(parent, title, str(proposed), pattern)
    if not chosen:
        return None
    return Path(chosen if chosen.lower().endswith(proposed.suffix) else f"{chosen}{proposed.suffix}")


def ask_which_to_open(parent: QWidget, title: str, folder: Path, pattern: str) -> Path | None:
    """Ask which file to open; None if it is cancelled. Arguments as in :func:`ask_where_to_save`."""
    path, _ = QFileDialog.getOpenFileName(parent, title, str(folder), pattern)
    return Path(path) if path else None
