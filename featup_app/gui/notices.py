"""Messages in the window: one sentence, with details on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPlainTextEdit, QPushButton, QVBoxLayout

from featup_app.gui import style
from featup_app.gui.widgets import PlainLabel, icon_button

_ICONS = {
    "error": ("warning", style.ERROR),
    "warning": ("warning", style.WARNING),
    "information": ("information", style.ACCENT),
}
Action = tuple[str, Callable[[], object]]
"""The title of a button, and the function that it calls."""


class Notify(Protocol):
    """Shows a message to the person; as :meth:`NoticeBar.show_message`."""

    def __call__(self, severity: str, sentence: str, *, details: str = "", action: Action | None = None) -> None: ...


class Explain(Protocol):
    """Says more about a failure: a text for a person, and one for a developer."""

    def __call__(self, sentence: str, details: str) -> tuple[str, str]: ...


class NoticeBar(QFrame):
    """Shows one message at a time above the image views, without blocking or covering them.

    Args:
        explain: says more about a message with details.
    """

    def __init__(self, explain: Explain) -> None:
        super().__init__()
        self._explain, self._report = explain, ""
        self.setObjectName("notice")
        self._icon = PlainLabel()
        self.text = PlainLabel("")
        self.text.setWordWrap(True)
        self.text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.action = QPushButton("")
        self.details_button = QPushButton("Details")
        self.details_button.setCheckable(True)
        self.details_button.setToolTip("Where it happened, and what to do")
        close = icon_button("close", "Dismiss message", "Dismiss this message")
        self.details = QPlainTextEdit()
        self.details.setReadOnly(True)
        self.details.setFixedHeight(150)
        self.details.setAccessibleName("Details of the message")
        self.copy_report = QPushButton("Copy report")
        self.copy_report.setToolTip(
            "Copy what a developer needs: settings, versions and where in the program it happened"
        )

        line = QHBoxLayout()
        line.setSpacing(style.SPACING)
        line.addWidget(self._icon)
        line.addWidget(self.text, 1)
        line.addWidget(self.action)
        line.addWidget(self.details_button)
        line.addWidget(close)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 6, 6, 6)
        layout.addLayout(line)
        layout.addWidget(self.details)
        layout.addWidget(self.copy_report, alignment=Qt.AlignmentFlag.AlignLeft)

        self._run_action: Callable[[], object] | None = None
        close.clicked.connect(self.hide)
        for part in (self.details, self.copy_report):
            self.details_button.toggled.connect(part.setVisible)
        self.copy_report.clicked.connect(lambda: QGuiApplication.clipboard().setText(self._report))
        self.action.clicked.connect(self._act)
        self.hide()

    def show_message(self, severity: str, sentence: str, *, details: str = "", action: Action | None = None) -> None:
        """Show a message.

        Args:
            severity: "error", "warning" or "information".
            details: where in the program it happened; a person reads an explanation instead, on demand, and can copy these.
            action: the title of a button and the function that it calls.
        """
        name, colour = _ICONS[severity]
        self._icon.setPixmap(style.icon(name, colour).pixmap(18, 18))
        self.text.setText(sentence)
        explanation, self._report = self._explain(sentence, details) if details else ("", "")
        self.details.setPlainText(explanation)
        self.details_button.setVisible(bool(details))
        self.details_button.setChecked(False)
        self.details.hide()
        self.copy_report.hide()
        self._run_action = action[1] if action else None
        self.action.setVisible(action is not None)
        self.action.setText(action[0] if action else "")
        self.setProperty("severity", severity)
        self.style().unpolish(self)
        self.style().polish(self)
        self.show()

    def forget_failure(self) -> None:
        """Hide a message about something that failed, since what was asked for later has succeeded."""
        if self._run_action is None and self.property("severity") in ("error", "warning"):
            self.hide()

    def _act(self) -> None:
        if self._run_action is not None:
            self._run_action()
