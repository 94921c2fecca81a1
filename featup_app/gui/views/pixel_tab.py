"""The pixel under the query mark: its feature beside those that are asked, the cells it is made of, and values along a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QCheckBox

from featup_app.gui import style
from featup_app.gui.views.lens_tab import heading
from featup_app.gui.widgets import PlainLabel, ScrolledPage
from featup_app.lenses import heat_picture
from featup_app.lenses.lens import Values
from featup_app.lenses.profile import Profile

if TYPE_CHECKING:
    from featup_app.engine.asking import PixelFacts

_PLOT_HEIGHT, _KERNEL_HEIGHT = 150, 170
_VISIBLE, _AROUND = 0.01, 3
"""Of the largest weight, what is seen; and cells that are shown around it."""

_SHOWN_QUERIES = 5
"""Features of queries in the plot; more lines cannot be told apart."""


class PixelTab(ScrolledPage):
    """Signals: ``line_chosen(bool)``: the left mouse button draws a line, along which values are plotted."""

    line_chosen = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self.column.setSpacing(7)
        self.place = PlainLabel("", objectName="muted")
        self.place.setWordWrap(True)
        self.feature = _plot("channel", "value")
        self.cosines = PlainLabel("", objectName="muted")
        self.cosines.setWordWrap(True)
        self.kernel = pg.PlotWidget(background=style.CANVAS)
        self.kernel.setFixedHeight(_KERNEL_HEIGHT)
        self.kernel.setMenuEnabled(False)
        self.kernel.hideAxis("left")
        self.kernel.hideAxis("bottom")
        self.kernel.setAspectLocked(True)
        self.kernel.invertY(True)
        self.kernel.setToolTip(
            "Weights of the coarse cells in the mean that makes the feature of this pixel, the largest brightest"
        )
        self._weights = pg.ImageItem(axisOrder="row-major")
        self.kernel.addItem(self._weights)
        self.cells = PlainLabel("", objectName="muted")
        self.cells.setWordWrap(True)
        self.line = QCheckBox("Draw a line")
        self.line.setToolTip("Drag over a view: the values of the views along the line are plotted here")
        self.line.toggled.connect(self.line_chosen)
        self.profile = _plot("pixels of the image along the line", "share of the view's range")
        self.profile.addLegend(offset=(-4, 4), labelTextColor=style.TEXT)
        self.profile.hide()
        for widget in (
            heading("Feature of the pixel"),
            self.place,
            self.feature,
            self.cosines,
            heading("Made of these cells"),
            self.kernel,
            self.cells,
            heading("Values along a line"),
            self.line,
            self.profile,
        ):
            self.column.addWidget(widget)
        self.column.addStretch(1)

    def show_facts(self, facts: PixelFacts) -> None:
        """Show what is known about a pixel."""
        compared = facts.compared
        length = float(np.linalg.norm(compared.feature))
        self.place.setText(
            f"x {facts.point[0]:.1f}, y {facts.point[1]:.1f}: {len(compared.feature)} channels, length {length:.2f}."
        )
        plot = self.feature.getPlotItem()
        plot.clear()
        plot.plot(compared.feature, pen=pg.mkPen(style.ACCENT, width=1))
        for query in compared.queries[:_SHOWN_QUERIES]:
            plot.plot(query * length, pen=pg.mkPen(style.MARK_NEGATIVE, width=1))
        shown = ", ".join(f"{cosine:.2f}" for cosine in compared.cosines[:_SHOWN_QUERIES])
        self.cosines.setText(f"Blue: this pixel. Orange: what is asked, as long. Cosines: {shown}." if shown else "")
        self.kernel.setVisible(facts.kernel is not None)
        if facts.kernel is None:
            self.cells.setText(facts.why_not)
            return
        largest = float(np.abs(facts.kernel).max()) or 1.0
        self._weights.setImage(
            heat_picture(_around_weights(facts.kernel), colormap="magma", limits=(0.0, largest)), levels=None
        )
        self.kernel.autoRange(padding=0.02)
        weights = np.sort(np.abs(facts.kernel).ravel())[::-1]
        needed = int(np.searchsorted(np.cumsum(weights), 0.9 * weights.sum())) + 1
        self.cells.setText(f"{needed} of {weights.size} cells have 90 % of the weight.")

    def show_profiles(self, profiles: Mapping[str, Profile]) -> None:
        """Plot the values of views along a line, each by its title and in its own range, 0 to 1."""
        plot = self.profile.getPlotItem()
        plot.clear()
        for (title, each), colour in zip(profiles.items(), style.PROFILES, strict=False):
            plot.plot(each.distances, each.values, pen=pg.mkPen(colour, width=1.5), name=title)
        self.profile.setVisible(bool(profiles))


def _around_weights(kernel: Values) -> Values:
    """The part of a kernel with weights that can be seen, and a few cells around it."""
    rows, columns = np.nonzero(np.abs(kernel) >= _VISIBLE * np.abs(kernel).max())
    (top, bottom), (left, right) = (
        (max(0, int(lines.min()) - _AROUND), int(lines.max()) + 1 + _AROUND) for lines in (rows, columns)
    )
    return np.ascontiguousarray(kernel[top:bottom, left:right])


def _plot(bottom: str, left: str) -> pg.PlotWidget:
    plot = pg.PlotWidget(background=style.CANVAS)
    plot.setFixedHeight(_PLOT_HEIGHT)
    plot.setMenuEnabled(False)
    plot.hideButtons()
    plot.setLabel("bottom", bottom)
    plot.setMouseEnabled(x=False, y=False)
    for side in ("left", "bottom"):
        plot.getAxis(side).setTextPen(style.MUTED)
    plot.setAccessibleName(f"{left} by {bottom}")
    return plot
