"""The mask that a threshold makes of a similarity: a histogram with the threshold in it, the area, and a file."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from featup_app.gui.histogram import Histogram
from featup_app.gui.widgets import PlainLabel, button, row_of
from featup_app.lenses.lens import Values
from featup_app.lenses.masks import ThresholdMask
from featup_app.lenses.similarity_request import AUTO


class MaskPanel(QWidget):
    """Signals: ``threshold_chosen(number, "auto" or None)``, ``save_asked()``."""

    threshold_chosen = Signal(object)
    save_asked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.switch = QCheckBox("Mask from a threshold")
        self.switch.setToolTip("Outline the pixels that are at least so similar; an export writes them as a mask too")
        self.histogram = Histogram(
            "How many pixels have which similarity (square roots, so that small things show). Drag the line: the pixels at its "
            "right are in the mask."
        )
        self.proposed = button("Proposed", "The threshold at which the area changes least")
        self.save = button("Save mask…", "Write the mask as a PNG: 255 inside, 0 outside")
        self.area = PlainLabel("", objectName="muted")
        self.area.setWordWrap(True)
        self.body = QWidget()
        inner = QVBoxLayout(self.body)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addWidget(self.histogram)
        inner.addWidget(self.area)
        inner.addLayout(row_of(self.proposed, self.save))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.switch)
        column.addWidget(self.body)
        self.body.hide()
        self.switch.toggled.connect(lambda on: self.threshold_chosen.emit(AUTO if on else None))
        self.histogram.moved.connect(lambda value: self.threshold_chosen.emit(value))
        self.proposed.clicked.connect(lambda: self.threshold_chosen.emit(AUTO))
        self.save.clicked.connect(lambda: self.save_asked.emit())

    def show_choice(self, threshold: float | str | None) -> None:
        """Show whether a mask is asked for, without asking for one."""
        self.switch.blockSignals(True)
        self.switch.setChecked(threshold is not None)
        self.switch.blockSignals(False)
        self.body.setVisible(threshold is not None)

    def show_mask(self, values: Values, mask: ThresholdMask | None) -> None:
        """Show the values of a map, and the mask that the threshold makes of it; without a mask nothing is counted."""
        if mask is not None:
            self.histogram.show_values(values)
        self.histogram.show_threshold(None if mask is None else mask.threshold)
        self.save.setEnabled(mask is not None)
        self.area.setText(
            ""
            if mask is None
            else f"From {mask.threshold:.2f}: {mask.pixels:,} pixels, {100 * mask.share:.1f} % of the picture."
        )
