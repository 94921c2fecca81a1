"""A small table of named figures for the panels of trainings and fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtWidgets import QGridLayout, QLabel, QWidget

from featup_app.gui.widgets import PlainLabel

UNKNOWN = "–"


class Figures(QWidget):
    """Names at the left, values at the right.

    Args:
        rows: (name in code, title, tooltip) of each figure.
    """

    def __init__(self, rows: Sequence[tuple[str, str, str]]) -> None:
        super().__init__()
        self.values: dict[str, QLabel] = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(3)
        grid.setHorizontalSpacing(16)
        grid.setColumnStretch(1, 1)
        for row, (name, title, tip) in enumerate(rows):
            label, value = PlainLabel(title, objectName="muted"), PlainLabel(UNKNOWN)
            label.setToolTip(tip)
            value.setToolTip(tip)
            value.setAccessibleName(title)
            grid.addWidget(label, row, 0)
            grid.addWidget(value, row, 1)
            self.values[name] = value

    def show_texts(self, texts: Mapping[str, str]) -> None:
        """Change the values of some figures."""
        for name, text in texts.items():
            self.values[name].setText(text)

    def clear(self) -> None:
        """Show no values."""
        for value in self.values.values():
            value.setText(UNKNOWN)
