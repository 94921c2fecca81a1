"""A curve of held-out errors over the steps of a training or fit, beside horizontal lines for methods without learning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor

from featup_app.gui import style

_MOST_POINTS = 4000
_ROOM = 0.08
"""Share of the range of errors that is kept free above and below."""

_TICKS = 5


@dataclass(frozen=True)
class Level:
    """A horizontal line: its name in code, its title beside it, its error and colour."""

    name: str
    title: str
    error: float
    colour: str


class ErrorCurve(pg.PlotWidget):
    """Held-out error (left), and if wanted the loss of the steps (right).

    Args:
        name: accessible name.
        tip: tooltip, which explains the error.
        logarithmic: whether the axis of the error is logarithmic; that of the loss then too, if all losses are positive.
    """

    def __init__(self, name: str, tip: str, *, logarithmic: bool = False) -> None:
        sides = {"left": _LogarithmicAxis("left"), "right": _LogarithmicAxis("right")} if logarithmic else {}
        super().__init__(background=style.CANVAS, axisItems=sides)
        self._logarithmic = logarithmic
        self.setAccessibleName(name)
        self.setMinimumSize(320, 120)
        self.setToolTip(tip)
        self.setMenuEnabled(False)
        self.setMouseEnabled(False, False)
        self.hideButtons()
        plot = self.getPlotItem()
        plot.showGrid(x=False, y=True, alpha=0.15)
        for side, text in (("left", "held-out error"), ("bottom", "step"), ("right", "loss")):
            axis = plot.getAxis(side)
            axis.setPen(pg.mkPen(style.BORDER))
            axis.setTextPen(pg.mkPen(style.MUTED if side != "right" else style.CURVE_LOSS))
            axis.enableAutoSIPrefix(False)
            axis.setLabel(text)
            axis.setStyle(showValues=False)  # an empty curve has no values
        plot.getAxis("left").setWidth(62)

        self._points: list[tuple[int, float]] = []
        self._losses: list[tuple[int, float]] = []
        self._levels: tuple[Level, ...] = ()
        self._line = plot.plot([], [], pen=pg.mkPen(style.CURVE_LEARNED, width=2.5))
        self._dots = pg.ScatterPlotItem(size=6, brush=pg.mkBrush(style.CURVE_LEARNED), pen=None)
        plot.addItem(self._dots)
        self._baselines: dict[str, pg.InfiniteLine] = {}
        self._loss_box = pg.ViewBox(enableMenu=False)
        self._loss_box.setMouseEnabled(False, False)
        self._loss_line = pg.PlotCurveItem(pen=pg.mkPen(style.CURVE_LOSS, width=1))
        self._loss_box.addItem(self._loss_line)
        plot.scene().addItem(self._loss_box)
        plot.getAxis("right").linkToView(self._loss_box)
        self._loss_box.setXLink(plot.vb)
        plot.vb.sigResized.connect(self._follow)
        self._loss_box.setZValue(-10)
        self.show_loss(False)

    @property
    def points(self) -> list[tuple[int, float]]:
        """(step, held-out error) of each point that is drawn."""
        return list(self._points)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The horizontal lines that are drawn."""
        return self._levels

    def clear_curve(self) -> None:
        """Remove everything that is drawn."""
        self._points.clear()
        self._losses.clear()
        self._remove_levels()
        self._draw()
        self._loss_line.setData([], [])
        self._show_values(False)

    def add(self, step: int, held_out: float, loss: float | None) -> None:
        """Add the state after a step; the error becomes a point only if it was measured again."""
        if not self._points:
            self._show_values(True)
        if not self._points or (step > self._points[-1][0] and held_out != self._points[-1][1]):
            self._points.append((step, held_out))
            self._draw()
        if loss is not None and (not self._losses or step > self._losses[-1][0]):
            if not self._losses:
                self.getPlotItem().getAxis("right").setStyle(showValues=True)
            self._losses.append((step, loss))
            if len(self._losses) > _MOST_POINTS:
                self._losses = self._losses[::2]
            if self._loss_box.isVisible():
                self._draw_loss()
        self.setXRange(0, max(10, step), padding=0.02)

    def show_points(self, points: Iterable[tuple[int, float | None, float | None]], *, planned: int) -> None:
        """Draw these (step, held-out error, loss) instead; a value that was not measured is None.

        Args:
            points: by increasing step.
            planned: total number of steps; the axis extends to it unless it is far away.
        """
        points = list(points)
        self._points = [(step, error) for step, error, _ in points if error is not None]
        self._losses = [(step, loss) for step, _, loss in points if loss is not None]
        while len(self._losses) > _MOST_POINTS:
            self._losses = self._losses[::2]
        self._show_values(bool(self._points))
        self._draw()
        self._draw_loss()
        last = points[-1][0] if points else 0
        self.setXRange(0, max(2, last, min(planned, max(20, 2 * last))), padding=0.02)

    def show_levels(self, levels: Sequence[Level]) -> None:
        """Draw horizontal lines; the name of the highest stands above its line, the others below."""
        if tuple(levels) == self._levels:
            return
        self._remove_levels()
        self._levels = tuple(levels)
        highest = max((level.error for level in levels), default=0.0)
        for level in levels:
            below = 0.0 if level.error < highest else 1.0
            line = pg.InfiniteLine(
                self._position(level.error),
                angle=0,
                pen=pg.mkPen(level.colour, width=1.5, style=Qt.PenStyle.DashLine),
                label=f"{level.title} {level.error:.3f}",
                labelOpts={"position": 0.98, "color": QColor(level.colour), "anchors": [(1, below), (1, below)]},
            )
            self.addItem(line)
            self._baselines[level.name] = line
        self._draw()

    def show_loss(self, shown: bool) -> None:
        """Draw the loss too. It has its own axis, since it is another measure without a fixed zero."""
        self._loss_box.setVisible(shown)
        self.getPlotItem().showAxis("right", shown)
        self._draw_loss()

    def _remove_levels(self) -> None:
        for line in self._baselines.values():
            self.removeItem(line)
        self._baselines.clear()
        self._levels = ()

    def _show_values(self, shown: bool) -> None:
        for side in ("left", "bottom"):
            self.getPlotItem().getAxis(side).setStyle(showValues=shown)
        self.getPlotItem().getAxis("right").setStyle(showValues=shown and bool(self._losses))

    def _position(self, error: float) -> float:
        """The position of an error on the left axis."""
        return math.log10(max(error, 1e-12)) if self._logarithmic else error

    def _draw(self) -> None:
        steps, errors = [step for step, _ in self._points], [self._position(error) for _, error in self._points]
        self._line.setData(steps, errors)
        self._dots.setData(steps, errors)
        levels = [*errors, *(self._position(level.error) for level in self._levels)]
        if levels:
            low, high = min(levels), max(levels)
            room = max(_ROOM * (high - low), 1e-3 * max(abs(high), 1e-6))
            # Twice the room above and below keeps the names of the lines inside.
            self.setYRange(low - 2 * room, high + 2 * room, padding=0)

    def _draw_loss(self) -> None:
        if not self._losses:
            self._loss_line.setData([], [])
            return
        losses = [loss for _, loss in self._losses]
        axis = self.getPlotItem().getAxis("right")
        if isinstance(axis, _LogarithmicAxis):
            axis.logarithmic = min(losses) > 0
            if axis.logarithmic:
                losses = [math.log10(loss) for loss in losses]
        self._loss_line.setData([step for step, _ in self._losses], losses)
        values = sorted(losses)
        low, high = values[len(values) // 50], values[-1 - len(values) // 50]
        self._loss_box.setYRange(low, max(high, low + 1e-6), padding=0.05)

    def _follow(self) -> None:
        self._loss_box.setGeometry(self.getPlotItem().vb.sceneBoundingRect())


class _LogarithmicAxis(pg.AxisItem):
    """Ticks at round numbers, also within less than a decade, where pyqtgraph's logarithmic axis has none."""

    logarithmic = True

    def tickValues(self, minVal: float, maxVal: float, size: float) -> list[tuple[float, list[float]]]:
        if not self.logarithmic:
            return super().tickValues(minVal, maxVal, size)
        if not -12 < minVal < maxVal < 12:
            return []
        return [(1.0, [math.log10(value) for value in round_numbers(10**minVal, 10**maxVal)])]

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        if not self.logarithmic:
            return super().tickStrings(values, scale, spacing)
        return [f"{10**value:.4g}" for value in values]


def round_numbers(low: float, high: float) -> list[float]:
    """About five round numbers between two positive ones: 0.1, 0.2, 0.5, 1, … over decades, else evenly spaced ones."""
    if high > 10 * low:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if high < 1000 * low else (1,)
        return [step * 10.0**power for power in exponents for step in steps if low <= step * 10.0**power <= high]
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    spacing = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first, last = math.ceil(low / spacing - 1e-9), math.floor(high / spacing + 1e-9)
    return [number * spacing for number in range(first, last + 1)]
