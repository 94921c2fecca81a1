"""What stands in the place of the views while no picture is open: three ways to open one."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QPushButton, QVBoxLayout

from featup_app.gui import style
from featup_app.gui.widgets import PlainLabel, row_of


class EmptyState(QFrame):
    """Signals: ``open_asked()`` for the dialog, ``sample_asked()`` for a picture that comes with the program."""

    open_asked = Signal()
    sample_asked = Signal()

    def __init__(self) -> None:
        super().__init__()
        title = PlainLabel("No picture is open", objectName="heading")
        words = PlainLabel("Drop a picture here, paste one with Ctrl+V, or choose one:", objectName="muted")
        self.open = QPushButton(style.icon("open"), "Open a picture…")
        self.open.setToolTip("Choose a file on this computer")
        self.sample = QPushButton("Open a sample")
        self.sample.setToolTip("A photograph that comes with the program")
        self.open.clicked.connect(lambda: self.open_asked.emit())
        self.sample.clicked.connect(lambda: self.sample_asked.emit())
        column = QVBoxLayout(self)
        column.addStretch(1)
        for label in (title, words):
            column.addWidget(label, alignment=Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(style.SPACING)
        buttons = row_of(self.open, self.sample)
        buttons.insertStretch(0, 1)
        column.addLayout(buttons)
        column.addStretch(2)
