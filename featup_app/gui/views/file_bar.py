"""The line under the image: what the file holds and, where it holds more than is seen, its page, channels and range."""

from __future__ import annotations

import dataclasses

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLineEdit, QSizePolicy, QSpinBox, QWidget

from featup_app.base.errors import ImageError
from featup_app.gui import style
from featup_app.gui.widgets import ElidedLabel, indent, plain_tip
from featup_app.images import Image
from featup_app.images.selection import AUTO, FULL, Selection, parse_channels, parse_range, range_in_words

_PAGE_TIP = "Page, frame or plane of the file that is shown. Command line: --page, or photo.tif#page=3."
_CHANNELS_TIP = "Channels to see as red, green and blue (4,3,2), or one to see as grey (4). Empty: as the file says."
_RANGE_TIP = (
    "Values that become black and white: two numbers (0,4095), full for all that the type can hold, or auto for the range of "
    "nearly all values."
)
_HEIGHT = 22


class FileBar(QWidget):
    """Facts of the file, and boxes that appear only where there is something to choose.

    Signals:
        selected(Selection): the person chose another page, other channels or another range.
        refused(sentence): what was typed cannot be read.
    """

    selected = Signal(object)
    refused = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._selection = Selection()
        self.label = ElidedLabel("", objectName="muted")
        self.label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.page = QSpinBox()
        self.page.setKeyboardTracking(False)
        self.page.setPrefix("page ")
        self.page.setFixedWidth(112)
        indent(self.page)
        self.channels = QLineEdit()
        self.channels.setPlaceholderText("channels")
        self.channels.setFixedWidth(72)
        self.range = QComboBox()
        self.range.setEditable(True)
        self.range.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.range.addItems([AUTO, FULL])
        self.range.setFixedWidth(82)
        for box, name, tip in (
            (self.page, "Page", _PAGE_TIP),
            (self.channels, "Channels", _CHANNELS_TIP),
            (self.range, "Range of values", _RANGE_TIP),
        ):
            box.setAccessibleName(name)
            box.setToolTip(tip)
            box.setFixedHeight(_HEIGHT)
            box.setStyleSheet("padding: 0 4px; min-height: 0")
            box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            box.hide()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(style.SPACING // 2)
        row.addWidget(self.label, 1)
        for box in (self.page, self.channels, self.range):
            row.addWidget(box)
        self.page.valueChanged.connect(lambda number: self._choose(page=number))
        self.channels.editingFinished.connect(self._typed_channels)
        self.range.activated.connect(self._typed_range)
        edit = self.range.lineEdit()
        assert edit is not None
        edit.editingFinished.connect(self._typed_range)

    def show_image(self, image: Image) -> None:
        """Show the facts of an image, and the boxes of what its file lets choose."""
        height, width = image.size_hw
        self._selection = selection = image.selection
        self.label.setText(f"{width} × {height} px · {image.mode}")
        self.label.setToolTip(
            plain_tip("\n".join(image.notes)) or "Width and height of the original, and what its file holds"
        )
        with QSignalBlocker(self.page), QSignalBlocker(self.channels), QSignalBlocker(self.range):
            self.page.setRange(1, image.pages)
            self.page.setSuffix(f" of {image.pages}")
            self.page.setValue(image.page)
            self.channels.setText(",".join(map(str, selection.channels)))
            self.range.setCurrentText(range_in_words(selection.range))
        readable = image.path is not None
        self.page.setVisible(readable and image.pages > 1)
        self.channels.setVisible(readable and bool(image.left_out or selection.channels))
        self.range.setVisible(readable and (image.deep or selection.range != AUTO))

    def _choose(self, **changes: object) -> None:
        selection = dataclasses.replace(self._selection, **changes)  # type: ignore[arg-type]  # names are the fields
        if selection != self._selection:
            self._selection = selection
            self.selected.emit(selection)

    def _typed_channels(self) -> None:
        try:
            self._choose(channels=parse_channels(self.channels.text()))
        except ImageError as error:
            self.channels.setText(",".join(map(str, self._selection.channels)))
            self.refused.emit(str(error))

    def _typed_range(self) -> None:
        try:
            self._choose(range=parse_range(self.range.currentText()))
        except ImageError as error:
            self.range.setCurrentText(range_in_words(self._selection.range))
            self.refused.emit(str(error))
