"""Facts about the features: eight rows, and everything else under "More"."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFormLayout, QLabel, QSizePolicy, QWidget

from featup_app.base.words import human_bytes
from featup_app.fields import find_method
from featup_app.gui.widgets import MoreButton, PlainLabel, ScrolledPage, form_label
from featup_app.images import Image
from featup_app.lenses.look import FieldFacts

_JOINED = "\u00a0"
"""A space at which no line breaks."""

_ROWS = {
    "Image": "Width and height of the original in pixels, and the contents of its file",
    "Backbone": "The pretrained model",
    "Layer": "Which of its layers, and how many channels that has",
    "Input": "What the whole image was resized to for the backbone; nothing is cropped",
    "Feature grid": "Columns and rows of the coarse map, and the size of a cell in image pixels",
    "Method": "How the coarse map was brought to the output size",
    "Weights": "Which weights the method uses",
    "Output": "Width and height of the upsampled features, and the size of their export in float32",
}
"""The rows that everybody sees, with their tooltips."""


class FactsTab(ScrolledPage):
    """A table of eight rows. Below it, "More" shows notes about the image and details of the weights."""

    def __init__(self) -> None:
        super().__init__()
        column = self.column
        column.setSpacing(10)
        table = _table()
        self.rows = {name: _add_row(table, name, tooltip) for name, tooltip in _ROWS.items()}
        self.more = MoreButton("Notes about the image file, and what is known about the weights")
        self.details = QWidget()
        self._details = _table()
        self.details.setLayout(self._details)
        column.addLayout(table)
        column.addWidget(self.more)
        column.addWidget(self.details)
        column.addStretch(1)
        self._notes: tuple[str, ...] = ()
        self._weights: tuple[tuple[str, str], ...] = ()
        self.more.toggled.connect(self.details.setVisible)
        self.details.hide()
        self._show_details()

    def show_image(self, image: Image) -> None:
        """Another image is open."""
        height, width = image.size_hw
        for row in self.rows.values():
            row.setText("–")
        self._weights = ()
        self.rows["Image"].setText(f"{width} × {height}, {image.mode}")
        self._notes = tuple(image.notes)
        self._show_details()

    def show_facts(self, facts: FieldFacts) -> None:
        """Facts about the features that are shown."""
        geometry = facts.geometry
        cell = geometry.cell_size_xy
        size = human_bytes(facts.channels * facts.size[0] * facts.size[1] * 4).replace(" ", _JOINED)
        texts = {
            "Backbone": facts.backbone_title,
            "Layer": f"{facts.layer}, {facts.channels} channels",
            "Input": f"{geometry.input_hw[1]} × {geometry.input_hw[0]}",
            "Feature grid": f"{geometry.grid_hw[1]} × {geometry.grid_hw[0]}, cells of {cell[0]:.1f} × {cell[1]:.1f}{_JOINED}px",
            "Method": find_method(facts.method).title,
            "Weights": "–" if facts.upsampler is None else facts.upsampler.title,
            "Output": f"{facts.size[1]} × {facts.size[0]}, all channels {size}",
        }
        for name, text in texts.items():
            self.rows[name].setText(text)
        details = () if facts.upsampler is None else facts.upsampler.details
        restored = () if facts.restoration is None else (("Coarse map", facts.restoration),)
        self._weights = (*(("Checkpoint", note) for note in facts.backbone_notes), *restored, *details)
        self._show_details()

    def _show_details(self) -> None:
        while self._details.rowCount():
            self._details.removeRow(0)
        for note in self._notes:
            _add_row(self._details, "Image", "How the image was converted when it was opened").setText(note)
        for name, value in self._weights:
            _add_row(self._details, name, "About the weights").setText(value)
        self.more.setVisible(bool(self._notes or self._weights))


def _table() -> QFormLayout:
    table = QFormLayout()
    table.setContentsMargins(0, 0, 0, 0)
    table.setVerticalSpacing(7)
    return table


def _add_row(table: QFormLayout, name: str, tooltip: str) -> QLabel:
    title, value = form_label(name), PlainLabel("–")
    title.setObjectName("muted")
    title.setMinimumWidth(max(map(title.fontMetrics().horizontalAdvance, _ROWS)))  # both tables have equal columns
    title.setAlignment(Qt.AlignmentFlag.AlignTop)
    value.setWordWrap(True)
    value.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    value.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    for label in (title, value):
        label.setToolTip(tooltip)
    table.addRow(title, value)
    return value
