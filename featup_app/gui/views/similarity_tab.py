"""Settings of the similarity view: the query pixel, colours and their range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QSlider, QWidget

from featup_app.gui.marks.mask_panel import MaskPanel
from featup_app.gui.marks.query_panel import QueryPanel
from featup_app.gui.views.lens_tab import LensTab, colormap_box, heading
from featup_app.gui.widgets import PlainLabel, form_label, indent
from featup_app.images import Image
from featup_app.lenses import LensView, Request, SimilarityRequest
from featup_app.lenses.queries import COSINE, GROUPED
from featup_app.lenses.similarity import OUTLINE_SHARE, SimilarityView

_RANGES: dict[str, tuple[str, tuple[float, float] | None]] = {
    "image": ("Range of this image", None),
    "fixed": ("Fixed, −1 to 1", (-1.0, 1.0)),
    "positive": ("Fixed, 0 to 1", (0.0, 1.0)),
}
"""Choices of the colour range: title and limits."""


_MEASURES = {
    GROUPED: (
        "Grouped",
        "1 is the query pixel. Features are seen from the mean of the picture and grouped with what is like them nearby; what is "
        "common in the picture counts less.",
    ),
    COSINE: ("Plain cosine", "1 is the same direction in feature space, 0 unrelated, −1 opposite."),
}
"""Choices of the measure: title and what its values mean."""


class SimilarityTab(LensTab):
    """What is asked, how it is measured, the mask, and the colours.

    Signals:
        follow_chosen(bool): the map follows the pointer.
        matches_chosen(bool): the best matches are numbered.
    """

    follow_chosen = Signal(bool)
    matches_chosen = Signal(bool)

    def build(self) -> None:
        self._request: SimilarityRequest | None = None
        self.query_panel, self.mask_panel = QueryPanel(), MaskPanel()
        self.query_panel.changed.connect(lambda queries: self._ask(queries=queries, title="", file=""))
        self.query_panel.combine_chosen.connect(lambda name: self._ask(combine=name))
        self.mask_panel.threshold_chosen.connect(lambda threshold: self._ask(threshold=threshold))
        self.column.addWidget(heading("Compare with"))
        self.column.addWidget(self.query_panel)
        self._build_point()
        self.follow = QCheckBox("Follow the pointer")
        self.follow.setToolTip(
            "Show the similarity to the pixel under the pointer; holding Space over a view does the same"
        )
        self.follow.toggled.connect(self.follow_chosen)
        self.column.addWidget(self.follow)
        self._build_measure()
        self.column.addWidget(heading("Find"))
        self.column.addWidget(self.mask_panel)
        self.matches = QCheckBox("Number the best matches")
        self.matches.setToolTip("Number the five most similar places outside the neighbourhood of what is asked")
        self.matches.toggled.connect(self.matches_chosen)
        self.column.addWidget(self.matches)
        self._build_colours()

    def _build_point(self) -> None:
        self.place = QWidget()
        form = QFormLayout(self.place)
        form.setContentsMargins(0, 0, 0, 0)
        self.x_box, self.y_box = QDoubleSpinBox(), QDoubleSpinBox()
        for box, axis in ((self.x_box, "x"), (self.y_box, "y")):
            indent(box)
            box.setDecimals(1)
            box.setKeyboardTracking(False)
            box.setSuffix(" px")
            box.setAccessibleName(f"Query {axis}")
            box.setToolTip("The pixel that all others are compared with, in pixels of the original image. "
                           "Click a view or use the arrow keys to move it.")  # fmt: skip
            box.valueChanged.connect(lambda: self.query_chosen.emit((self.x_box.value(), self.y_box.value())))
            form.addRow(form_label(axis), box)
        self.column.addWidget(self.place)

    def _build_measure(self) -> None:
        self.column.addWidget(heading("Measure"))
        self.measure = QComboBox()
        self.measure.setAccessibleName("Measure")
        for name, (title, _) in _MEASURES.items():
            self.measure.addItem(title, name)
        self.measure.setToolTip(
            "Grouped finds the region or thing under the pixel; the plain cosine is that of the features"
        )
        self.measure.currentIndexChanged.connect(lambda: self._ask(measure=self.measure.currentData()))
        self.column.addWidget(self.measure)
        strength = QFormLayout()
        self.grouping = QSlider(Qt.Orientation.Horizontal)
        self.grouping.setRange(0, 100)
        self.grouping.setTracking(False)
        self.grouping.setAccessibleName("Grouping")
        self.grouping.setToolTip("Left: every cell as the backbone sees it, for thin things. "
                                 "Right: each as the mean of its group, for whole regions.")  # fmt: skip
        self.grouping.valueChanged.connect(lambda percent: self._ask(grouping=percent / 100))
        strength.addRow(form_label("Grouping"), self.grouping)
        self.column.addLayout(strength)
        self.outline = QCheckBox("Outline of the group")
        self.outline.setToolTip(
            "Draw a line around what the cell under the query pixel was grouped with: the pixels with at least "
            f"{OUTLINE_SHARE:.0%} of the largest weight in the mean that it moved to. Exported pictures show no line."
        )
        self.outline.toggled.connect(lambda shown: self._ask(outline=shown))
        self.column.addWidget(self.outline)
        self.meaning = PlainLabel(objectName="muted")
        self.meaning.setWordWrap(True)
        self.column.addWidget(self.meaning)

    def _build_colours(self) -> None:
        self.column.addWidget(heading("Colours"))
        self.colormap = colormap_box()
        self.colormap.currentTextChanged.connect(lambda name: self._ask(colormap=name))
        self.column.addWidget(self.colormap)
        self.range = QComboBox()
        self.range.setAccessibleName("Colour range")
        for name, (title, _) in _RANGES.items():
            self.range.addItem(title, name)
        self.range.setToolTip("Fixed ranges make pictures of different images or queries comparable")
        self.range.currentIndexChanged.connect(lambda: self._ask(limits=_RANGES[self.range.currentData()][1]))
        self.column.addWidget(self.range)

    def show_image(self, image: Image) -> None:
        height, width = image.size_hw
        for box, limit in ((self.x_box, width), (self.y_box, height)):
            with QSignalBlocker(box):
                box.setRange(0, limit)

    def show_request(self, request: Request) -> None:
        assert isinstance(request, SimilarityRequest)
        self._request = request
        self.query_panel.show_queries(request.queries, request.combine)
        self.place.setVisible(len(request.queries) == 1 and request.only_point is not None)
        self.mask_panel.show_choice(request.threshold)
        for box, value in ((self.x_box, request.point[0]), (self.y_box, request.point[1])):
            with QSignalBlocker(box):
                box.setValue(value)
        with QSignalBlocker(self.measure), QSignalBlocker(self.grouping), QSignalBlocker(self.outline):
            self.measure.setCurrentIndex(self.measure.findData(request.measure))
            self.grouping.setValue(round(100 * request.grouping))
            self.outline.setChecked(request.outline)
        self.grouping.setEnabled(request.measure == GROUPED)
        self.outline.setEnabled(request.measure == GROUPED and request.grouping > 0 and request.only_point is not None)
        self.meaning.setText(_MEASURES[request.measure][1])
        with QSignalBlocker(self.colormap):
            self.colormap.setCurrentText(request.colormap)
        with QSignalBlocker(self.range):
            name = next((name for name, (_, limits) in _RANGES.items() if limits == request.limits), "image")
            self.range.setCurrentIndex(self.range.findData(name))

    def show_view(self, view: LensView) -> None:
        assert isinstance(view, SimilarityView)
        self.mask_panel.show_mask(view.values, view.mask())

    def _ask(self, **changes: Any) -> None:
        if self._request is not None:
            self.asked.emit(replace(self._request, **changes))
