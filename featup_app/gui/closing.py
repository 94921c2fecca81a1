"""The question when the window is closed during work, or before something was saved."""

from __future__ import annotations

from typing import Literal

from PySide6.QtWidgets import QMessageBox, QWidget

Answer = Literal["save", "discard", "stay"]


def ask_before_closing(parent: QWidget, title: str, text: str, *, save: str, discard: str, stay: str) -> Answer:
    """What to do with something that closing the window would lose.

    Args:
        parent: the window.
        title: of the dialog.
        text: what would be lost, and the question.
        save, discard, stay: titles of the buttons. Saving is the default; Escape stays.
    """
    box = QMessageBox(parent)
    box.finished.connect(box.deleteLater)
    box.setWindowTitle(title)
    box.setIcon(QMessageBox.Icon.Question)
    box.setText(text)
    saving = box.addButton(save, QMessageBox.ButtonRole.AcceptRole)
    discarding = box.addButton(discard, QMessageBox.ButtonRole.DestructiveRole)
    staying = box.addButton(stay, QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(saving)
    box.setEscapeButton(staying)
    box.exec()
    answers: dict[object, Answer] = {saving: "save", discarding: "discard"}
    return answers.get(box.clickedButton(), "stay")
