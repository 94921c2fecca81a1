"""Small widgets that several dialogs and panels are made of."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QToolButton,
    QWidget,
)

StandardButton = QDialogButtonBox.StandardButton


def button(title: str, tooltip: str) -> QPushButton:
    """A button that Return does not press while another widget of a dialog has the focus."""
    made = QPushButton(title)
    made.setAutoDefault(False)
    made.setToolTip(tooltip)
    return made


def number_box(name: str, tooltip: str, least: int, most: int) -> QSpinBox:
    """A box for a whole number between two others."""
    box = QSpinBox()
    box.setRange(least, most)
    box.setGroupSeparatorShown(True)
    box.setAccessibleName(name)
    box.setToolTip(tooltip)
    return box


def row_of(*widgets: QWidget, stretched: int | None = None) -> QHBoxLayout:
    """Widgets side by side.

    Args:
        widgets: from left to right.
        stretched: the index of the widget that gets all free width; without it the widgets stand at the left.
    """
    row = QHBoxLayout()
    for index, widget in enumerate(widgets):
        row.addWidget(widget, int(index == stretched))
    if stretched is None:
        row.addStretch(1)
    return row


def fill_form(form: QFormLayout, rows: Sequence[tuple[str, QWidget | QHBoxLayout, str]]) -> None:
    """Add a row to a form for each (title, field, tooltip of the title)."""
    for title, field, tooltip in rows:
        label = QLabel(title)
        label.setToolTip(tooltip)
        if isinstance(field, QWidget):
            label.setBuddy(field)
            form.addRow(label, field)
        else:
            form.addRow(label, field)


def dialog_buttons(dialog: QDialog, accept_title: str, role: StandardButton = StandardButton.Ok) -> QDialogButtonBox:
    """The buttons at the end of a dialog: one with this title that accepts it, and Cancel."""
    buttons = QDialogButtonBox(role | StandardButton.Cancel)
    accept = buttons.button(role)
    accept.setText(accept_title)
    accept.setProperty("primary", True)
    for each in buttons.buttons():
        each.setIcon(QIcon())
    buttons.accepted.connect(dialog.accept)
    buttons.rejected.connect(dialog.reject)
    return buttons


class MoreButton(QToolButton):
    """Opens and closes what is seldom needed; it is closed at first. The signal ``toggled`` says which."""

    def __init__(self, tooltip: str) -> None:
        super().__init__()
        self.setText("More")
        self.setCheckable(True)
        self.setAutoRaise(True)
        self.setToolTip(tooltip)
        self.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.toggled.connect(self._show_arrow)
        self._show_arrow(False)

    def _show_arrow(self, opened: bool) -> None:
        self.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
