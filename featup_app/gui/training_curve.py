"""The curve of a training: the error on held-out views over the steps, beside what can be had without training."""

from __future__ import annotations

import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor

from featup_app.gui import style

TRAINED = style.ACCENT
BILINEAR = "#ff8f70"
CLASSICAL = "#c9a7ff"
LOSS = "#7d8796"

_MOST_POINTS = 4000
_ROOM = 0.08
"""Of the range of errors, kept free above and below."""


class TrainingCurve(pg.PlotWidget):
    """Held-out error (left), and if wanted the loss of the steps (right)."""

    def __init__(self) -> None:
        super().__init__(background=style.CANVAS)
        self.setAccessibleName("Curve of the training")
        self.setMinimumSize(320, 170)
        self.setToolTip(
            "Reprojection error on held-out views: what the upsampled features explain of views that took no part in the "
            "training. 1 is no better than the mean; lower is better."
        )
        self.setMenuEnabled(False)
        self.setMouseEnabled(False, False)
        self.hideButtons()
        plot = self.getPlotItem()
        plot.showGrid(x=False, y=True, alpha=0.15)
        for side, text in (("left", "held-out error"), ("bottom", "step"), ("right", "loss")):
            axis = plot.getAxis(side)
            axis.setPen(pg.mkPen(style.BORDER))
            axis.setTextPen(pg.mkPen(style.MUTED if side != "right" else LOSS))
            axis.enableAutoSIPrefix(False)
            axis.setLabel(text)
            axis.setStyle(showValues=False)  # there is nothing to read off an empty curve
        plot.getAxis("left").setWidth(62)

        self._points: list[tuple[int, float]] = []
        self._losses: list[tuple[int, float]] = []
        self._levels: dict[str, float] = {}
        self._line = plot.plot([], [], pen=pg.mkPen(TRAINED, width=2.5))
        self._dots = pg.ScatterPlotItem(size=6, brush=pg.mkBrush(TRAINED), pen=None)
        plot.addItem(self._dots)
        self._baselines: dict[str, pg.InfiniteLine] = {}
        self._loss_box = pg.ViewBox(enableMenu=False)
        self._loss_box.setMouseEnabled(False, False)
        self._loss_line = pg.PlotCurveItem(pen=pg.mkPen(LOSS, width=1))
        self._loss_box.addItem(self._loss_line)
        plot.scene().addItem(self._loss_box)
        plot.getAxis("right").linkToView(self._loss_box)
        self._loss_box.setXLink(plot.vb)
        plot.vb.sigResized.connect(self._follow)
        self._loss_box.setZValue(-10)
        self.show_loss(False)

    @property
    def points(self) -> list[tuple[int, float]]:
        """(step, held-out error) of what is drawn."""
        return list(self._points)

    def clear_curve(self) -> None:
        """For another training."""
        self._points.clear()
        self._losses.clear()
        self._levels.clear()
        for line in self._baselines.values():
            self.removeItem(line)
        self._baselines.clear()
        self._draw()
        self._loss_line.setData([], [])
        self._show_values(False)

    def add(self, step: int, held_out: float, loss: float | None) -> None:
        """The state after a step; the error is a new point only if it was measured anew."""
        if not self._points:
            self._show_values(True)
        if not self._points or (step > self._points[-1][0] and held_out != self._points[-1][1]):
            self._points.append((step, held_out))
            self._draw()
        if loss is not None and (not self._losses or step > self._losses[-1][0]):
            self._losses.append((step, loss))
            if len(self._losses) > _MOST_POINTS:
                self._losses = self._losses[::2]
            if self._loss_box.isVisible():
                self._draw_loss()
        self.setXRange(0, max(10, step), padding=0.02)

    def show_baselines(self, bilinear: float, classical: float) -> None:
        """Horizontal lines with their names; the higher one is named above it and the lower one below."""
        if self._levels:
            return
        self._levels = {"bilinear": bilinear, "classical": classical}
        for name, colour in (("bilinear", BILINEAR), ("classical", CLASSICAL)):
            level = self._levels[name]
            title = "bilinear" if name == "bilinear" else "classical filter"
            below = 0.0 if level < max(bilinear, classical) else 1.0
            line = pg.InfiniteLine(
                level,
                angle=0,
                pen=pg.mkPen(colour, width=1.5, style=Qt.PenStyle.DashLine),
                label=f"{title} {level:.3f}",
                labelOpts={"position": 0.98, "color": QColor(colour), "anchors": [(1, below), (1, below)]},
            )
            self.addItem(line)
            self._baselines[name] = line
        self._draw()

    def show_loss(self, shown: bool) -> None:
        """Draw the loss too, on an axis of its own; it is the training's own measure and has no fixed zero."""
        self._loss_box.setVisible(shown)
        self.getPlotItem().showAxis("right", shown)
        self._draw_loss()

    def _show_values(self, shown: bool) -> None:
        for side in ("left", "bottom", "right"):
            self.getPlotItem().getAxis(side).setStyle(showValues=shown)

    def _draw(self) -> None:
        steps, errors = [step for step, _ in self._points], [error for _, error in self._points]
        self._line.setData(steps, errors)
        self._dots.setData(steps, errors)
        levels = [*errors, *self._levels.values()]
        if levels:
            low, high = min(levels), max(levels)
            room = max(_ROOM * (high - low), 1e-3 * max(abs(high), 1e-6))
            # Twice the room above and below keeps the names of the lines inside.
            self.setYRange(low - 2 * room, high + 2 * room, padding=0)

    def _draw_loss(self) -> None:
        if self._losses:
            self._loss_line.setData([step for step, _ in self._losses], [loss for _, loss in self._losses])
            values = sorted(loss for _, loss in self._losses)
            low, high = values[len(values) // 50], values[-1 - len(values) // 50]
            self._loss_box.setYRange(low, max(high, low + 1e-6), padding=0.05)

    def _follow(self) -> None:
        self._loss_box.setGeometry(self.getPlotItem().vb.sceneBoundingRect())
