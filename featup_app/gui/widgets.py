"""Small widgets that several dialogs and panels are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PySide6.QtCore import QEvent, QSize, Qt
from PySide6.QtGui import QHelpEvent, QIcon, QPaintEvent
from PySide6.QtWidgets import (
    QAbstractSpinBox,
    QButtonGroup,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QStyle,
    QStyleOption,
    QStyleOptionComboBox,
    QStylePainter,
    QToolButton,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from featup_app.gui import style

StandardButton = QDialogButtonBox.StandardButton


class PlainLabel(QLabel):
    """A label that shows every text as it is. Qt takes a text with tags, such as the name of a file, for HTML otherwise."""

    def __init__(self, text: str = "", **properties: Any) -> None:
        super().__init__(**properties)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setText(text)


class ElidedLabel(PlainLabel):
    """A label of one line that ends in "…" where it has no room, and then shows its whole text when the mouse rests on it.

    It asks for the width of its text, but never keeps a window from being narrower.
    """

    def minimumSizeHint(self) -> QSize:
        return QSize(0, super().minimumSizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        painter, option = QStylePainter(self), QStyleOption()
        option.initFrom(self)
        # As QLabel draws it, so that the style sheet's padding and colours hold.
        painter.drawPrimitive(QStyle.PrimitiveElement.PE_Widget, option)
        painter.drawItemText(
            self.contentsRect(),
            self.alignment(),
            self.palette(),
            self.isEnabled(),
            self.shown_text(),
            self.foregroundRole(),
        )

    def shown_text(self) -> str:
        """What of the text there is room for."""
        return self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideRight, self.contentsRect().width())

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip and self.shown_text() != self.text():
            words = f"{self.text()}\n\n{self.toolTip()}" if self.toolTip() else self.text()
            QToolTip.showText(event.globalPos(), plain_tip(words), self)
            return True
        return super().event(event)


def plain_tip(text: str) -> str:
    """A tooltip that shows a text as it is, also one with tags."""
    return f"<span style='white-space: pre-wrap'>{escape(text)}</span>" if "<" in text else text


def button(title: str, tooltip: str) -> QPushButton:
    """A button that Return does not press while another widget of a dialog has the focus."""
    made = QPushButton(title)
    made.setAutoDefault(False)
    made.setToolTip(tooltip)
    return made


def icon_button(icon: str, name: str, tooltip: str) -> QToolButton:
    """A flat button with an icon alone; the name is what screen readers say."""
    made = QToolButton()
    made.setIcon(style.icon(icon, style.MUTED))
    made.setAutoRaise(True)
    made.setAccessibleName(name)
    made.setToolTip(tooltip)
    return made


def choice_buttons(choices: Mapping[str, tuple[str, str]], group: QButtonGroup) -> dict[str, QToolButton]:
    """Buttons of which one is pressed, at first the first one.

    Args:
        choices: title and tooltip by name.
        group: gets the buttons.
    """
    made = {name: QToolButton() for name in choices}
    for name, (title, tooltip) in choices.items():
        made[name].setText(title)
        made[name].setToolTip(tooltip)
        made[name].setCheckable(True)
        group.addButton(made[name])
    next(iter(made.values())).setChecked(True)
    return made


def number_box(name: str, tooltip: str, least: int, most: int) -> QSpinBox:
    """A box for a whole number between two others."""
    box = QSpinBox()
    box.setRange(least, most)
    box.setGroupSeparatorShown(True)
    box.setAccessibleName(name)
    box.setToolTip(tooltip)
    indent(box)
    return box


def indent(box: QAbstractSpinBox) -> None:
    """Keep the number of a box away from its border, which a style sheet cannot do."""
    box.lineEdit().setTextMargins(6, 0, 0, 0)


def without_mnemonic(text: str) -> str:
    """A text for a button or menu that shows each "&" instead of making a key of the next letter."""
    return text.replace("&", "&&")


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


def form_label(title: str, tooltip: str = "") -> QLabel:
    """The title of a row of a form, in the middle of the row's height."""
    label = PlainLabel(title)
    label.setToolTip(tooltip)
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)  # a form shortens it otherwise
    return label


def fill_form(form: QFormLayout, rows: Sequence[tuple[str, QWidget | QHBoxLayout, str]]) -> None:
    """Add a row to a form for each (title, field, tooltip of the title)."""
    for title, field, tooltip in rows:
        label = form_label(title, tooltip)
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


class ElidedComboBox(QComboBox):
    """A box that ends a title without room in "…", where Qt cuts it in the middle of a letter.

    Args:
        usual_width: that it takes where there is room.
    """

    def __init__(self, *, usual_width: int) -> None:
        super().__init__()
        self._usual_width = usual_width

    def sizeHint(self) -> QSize:
        return QSize(self._usual_width, super().sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QStylePainter(self)
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        field = self.style().subControlRect(
            QStyle.ComplexControl.CC_ComboBox, option, QStyle.SubControl.SC_ComboBoxEditField, self
        )
        option.currentText = self.fontMetrics().elidedText(
            option.currentText, Qt.TextElideMode.ElideRight, field.width()
        )
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)


class ScrolledPage(QScrollArea):
    """A column of widgets that scrolls when it is higher than its area, so that it never makes the window grow."""

    def __init__(self) -> None:
        super().__init__()
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        page = QWidget()
        self.setWidget(page)
        self.column = QVBoxLayout(page)
        self.column.setContentsMargins(12, 10, 12, 12)


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
