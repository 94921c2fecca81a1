"""The lines under the views: colour bars with their numbers, and the shares of the components."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QLinearGradient, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QStackedWidget, QWidget

from featup_app.gui import style
from featup_app.gui.widgets import ElidedLabel, PlainLabel, plain_tip
from featup_app.lenses.lens import ColorRange, Components, Legend
from featup_app.lenses.pictures import decimals, lookup_table


class _Gradient(QWidget):
    def __init__(self) -> None:
        super().__init__()
        self._colormap = "viridis"
        self.setFixedHeight(10)
        self.setMinimumWidth(60)
        self.setMaximumWidth(200)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_colormap(self, name: str) -> None:
        self._colormap = name
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        gradient = QLinearGradient(0, 0, self.width(), 0)
        for index, (red, green, blue) in enumerate(lookup_table(self._colormap)[::15]):
            gradient.setColorAt(index / 17, QColor(int(red), int(green), int(blue)))
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(gradient)
        painter.drawRoundedRect(QRectF(self.rect()), 3, 3)


class ColorBar(QWidget):
    """Colours of a map from its low to its high value, with a sentence beside it."""

    def __init__(self) -> None:
        super().__init__()
        self._low, self._high = PlainLabel("", objectName="muted"), PlainLabel("", objectName="muted")
        self._gradient = _Gradient()
        self._text = ElidedLabel("", objectName="muted")
        self._text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self._low)
        layout.addWidget(self._gradient, 1)
        layout.addWidget(self._high)
        layout.addSpacing(12)
        layout.addWidget(self._text, 1)

    @property
    def numbers(self) -> tuple[str, str]:
        """The values of both ends as they are shown."""
        return self._low.text(), self._high.text()

    def show_range(self, legend: ColorRange) -> None:
        """Show the colours of a map, the values of its ends, and a few words."""
        self._gradient.set_colormap(legend.colormap)
        digits = decimals(legend.limits)
        for label, limit in zip((self._low, self._high), legend.limits, strict=True):
            label.setText(f"{limit:.{digits}f}".replace("-", "−"))
        self._text.setText(legend.words)
        self.setToolTip(plain_tip(legend.tooltip))


class ComponentBar(QWidget):
    """Which component is red, green and blue, and its share of the variance."""

    def __init__(self) -> None:
        super().__init__()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        self._labels = [QLabel("", objectName="muted", textFormat=Qt.TextFormat.RichText) for _ in range(3)]
        for label in self._labels:
            label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
            layout.addWidget(label)
        layout.addStretch(1)
        self._shares: list[tuple[int, float]] = []
        self.setToolTip("The three principal components that are shown as red, green and blue, and how much of the "
                        "variation in the features each explains")  # fmt: skip

    def show_components(self, legend: Components) -> None:
        """Show the numbers of the components and their shares; the shares alone where there is no room for more."""
        self._shares = [(number, legend.explained[number - 1]) for number in legend.numbers]
        self._write()

    def minimumSizeHint(self) -> QSize:
        return QSize(0, super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._write()
        super().resizeEvent(event)

    def _write(self) -> None:
        for numbered in (True, False):
            for label, colour, (number, share) in zip(self._labels, style.COMPONENTS, self._shares, strict=False):
                name = f" PC {number}" if numbered else ""
                label.setText(
                    f'<span style="color:{colour}">■</span>{name}'
                    f'<span style="color:{style.MUTED}">{" ·" if numbered else ""} {100 * share:.1f} %</span>'
                )
            if sum(label.sizeHint().width() + 6 for label in self._labels) <= self.width():
                return


class LegendBar(QStackedWidget):
    """The line under a view: the legend of its lens, whatever kind that is, or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing, self.range, self.components = QWidget(), ColorBar(), ComponentBar()
        for widget in (self.nothing, self.range, self.components):
            self.addWidget(widget)

    def show_legend(self, legend: Legend | None) -> None:
        """Show what the colours of a view mean."""
        if isinstance(legend, ColorRange):
            self.range.show_range(legend)
            self.setCurrentWidget(self.range)
        elif isinstance(legend, Components):
            self.components.show_components(legend)
            self.setCurrentWidget(self.components)
        else:
            self.setCurrentWidget(self.nothing)
