"""The panel of implicit fits: the curve, what was learned, comparison and settings; the fit in hand, and the list of fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QProgressBar,
    QPushButton,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from featup_app.base.words import human_duration
from featup_app.engine.fitting import FitReport
from featup_app.gui import style
from featup_app.gui.error_curve import ErrorCurve, Level
from featup_app.gui.figures import UNKNOWN, Figures, percent_below
from featup_app.gui.fit.fit_pictures import FitComparison, LearnedView
from featup_app.gui.fit.fit_settings import FitSettings

if TYPE_CHECKING:
    from featup_app.fields.implicit.state import FitState

IDLE = "No fit yet. The method Implicit starts one."
CURVE, LEARNED, COMPARE, SETTINGS = range(4)
"""Places of the tabs."""

_ROWS = (
    ("step", "Step", "Steps of the fit done"),
    ("held_out", "Error now", "Reprojection error on held-out views, as measured last; lower is better"),
    ("best", "Best error", "The lowest error so far: the state that is kept"),
    ("gain", "Against bilinear", "How much lower the best error is than that of bilinear interpolation"),
    ("speed", "Speed", "Steps each second"),
    ("left", "Time left", "Until the last planned step; a fit ends earlier when its error stops falling"),
)
_FITS_TIP = "Fits of this image, as long as the window is open. Choose one to see the image through it."


class FitPanel(QWidget):
    """Shows fits; what the buttons do is up to the listener.

    Signals:
        pause_toggled(bool): wait, or go on.
        stop_asked(): end now and keep the best state.
        discard_asked(): give the fit up.
        more_asked(): go on with a fit that has ended.
        new_asked(): begin a fit with the settings in :attr:`settings`.
        chosen(number): see the image through another fit.
        save_asked(), open_asked(), forget_asked(): of the chosen fit; from a file.
        tab_opened(place): another tab is in front.
    """

    pause_toggled = Signal(bool)
    stop_asked = Signal()
    discard_asked = Signal()
    more_asked = Signal()
    new_asked = Signal()
    chosen = Signal(int)
    save_asked = Signal()
    open_asked = Signal()
    forget_asked = Signal()
    tab_opened = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.curve = ErrorCurve(
            "Curve of the fit",
            "Reprojection error on held-out views: what the fitted features explain of views that took no part in the fit. "
            "1 is no better than the mean; lower is better. Dashed: methods that fit nothing.",
            logarithmic=True,
        )
        self.learned, self.comparison, self.settings = LearnedView(), FitComparison(), FitSettings()
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        for tab, title, tip in (
            (self._curve_page(), "Curve", "The error on held-out views, step by step"),
            (self.learned, "What was learned", "What the fit found out beside the features"),
            (
                self.comparison,
                "Compare",
                "PCA of bilinear, FeatUp JBU and all fits of these features, in the same colours",
            ),
            (self.settings, "Settings", "What the next fit is made with"),
        ):
            self.tabs.addTab(tab, title)
            self.tabs.setTabToolTip(self.tabs.indexOf(tab), tip)
        self.tabs.currentChanged.connect(self.tab_opened)
        self.settings.new_asked.connect(self.new_asked)

        self.headline = QLabel(IDLE, objectName="title")
        self.headline.setWordWrap(True)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Progress of the fit")
        self.figures = Figures(_ROWS)
        self.pause = _button("Pause", "Wait before the next step; nothing is lost")
        self.pause.setCheckable(True)
        self.stop = _button("Stop and keep", "End the fit now and keep its best state")
        self.discard = _button("Discard", "Give this fit up; the pictures from before it come back")
        self.more = _button("More steps", "Go on with this fit, for half as many steps as it has done")
        self.pause.toggled.connect(self._pause_toggled)
        self.stop.clicked.connect(self.stop_asked)
        self.discard.clicked.connect(self.discard_asked)
        self.more.clicked.connect(self.more_asked)

        self.fits = QListWidget()
        self.fits.setAccessibleName("Fits of this image")
        self.fits.setToolTip(_FITS_TIP)
        self.fits.setMinimumHeight(64)
        self.fits.setWordWrap(True)
        self.fits.itemClicked.connect(self._item_chosen)
        self.fits.itemActivated.connect(self._item_chosen)
        self.open = _button("Open…", "Open a fit of this image from a file")
        self.save = _button("Save…", "Save the chosen fit to a file")
        self.forget = _button("Forget", "Remove the chosen fit from the list and from memory")
        self.open.clicked.connect(self.open_asked)
        self.save.clicked.connect(self.save_asked)
        self.forget.clicked.connect(self.forget_asked)
        self._lay_out()
        self.show_nothing()

    def _curve_page(self) -> QWidget:
        page = QWidget()
        self.loss = QCheckBox("Show the loss")
        self.loss.setToolTip("Draw what the steps minimise as a thin line, on the axis at the right")
        self.loss.toggled.connect(self.curve.show_loss)
        self.loss.setChecked(True)
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 4, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.curve, 1)
        column.addWidget(self.loss)
        return page

    def _lay_out(self) -> None:
        facts = _column_of(330)
        for widget in (self.headline, self.bar, self.figures):
            facts[1].addWidget(widget)
        facts[1].addStretch(1)
        facts[1].addLayout(_row(self.pause, self.stop, self.discard, self.more))
        listed = _column_of(270)
        heading = QLabel("Fits of this image", objectName="title")
        heading.setToolTip(_FITS_TIP)
        listed[1].addWidget(heading)
        listed[1].addWidget(self.fits, 1)
        listed[1].addLayout(_row(self.open, self.save, self.forget))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(style.SPACING, 0, 12, style.SPACING)
        layout.setSpacing(16)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(facts[0])
        layout.addWidget(listed[0])

    # -- the fit in hand -------------------------------------------------------------------------------------------

    def show_nothing(self) -> None:
        """No fit is in hand."""
        self.curve.clear_curve()
        self.figures.clear()
        self.headline.setText(IDLE)
        self.learned.clear()
        self._offer()

    def begin(self, title: str) -> None:
        """A fit starts: an empty curve."""
        self.show_nothing()
        self.headline.setText(f"Preparing: {title}")
        self.bar.setRange(0, 0)
        self._offer(self.discard)
        with QSignalBlocker(self.pause):
            self.pause.setChecked(False)
        self.pause.setText("Pause")

    def show_stage(self, words: str, done: int, total: int) -> None:
        """What is done before the first step."""
        self.headline.setText(f"{words[:1].upper()}{words[1:]}…")
        self.bar.setRange(0, 1000 if total else 0)
        self.bar.setValue(1000 * done // total if total else 0)

    def show_report(self, report: FitReport, *, under_way: bool, discardable: bool = True) -> None:
        """Curve and numbers of a fit, and the buttons that it takes.

        Args:
            report: how it stands.
            under_way: whether it goes on, or waits.
            discardable: whether it may be given up; one that had ended and was continued is stopped and kept.
        """
        state = report.state
        if state is None:
            self.curve.clear_curve()
            self.figures.clear()
            self.headline.setText(f"{report.title}, from a file")
            if report.held_out is not None:
                self.figures.show_texts({"best": f"{report.held_out:.4f}"})
            self._offer()
            return
        self._show_state(state)
        if under_way:
            if not self.pause.isChecked() and state.step:
                self.headline.setText(f"{state.stage[:1].upper()}{state.stage[1:]}" if state.stage else "Fitting")
            self._offer(self.pause, self.stop, *([self.discard] if discardable else []))
        else:
            self.headline.setText(state.reason or f"Stopped at step {state.step}; the best state is kept")
            self.figures.show_texts({"left": UNKNOWN})
            self._offer(self.more)
        self.bar.setVisible(under_way)

    def _show_state(self, state: FitState) -> None:
        self.curve.show_levels(
            [
                Level("bilinear", "bilinear", state.bilinear, style.CURVE_BILINEAR),
                Level("jbu", "FeatUp JBU", state.jbu, style.CURVE_CLASSICAL),
            ]
        )
        points = [(point.step, point.held_out, point.loss) for point in state.points]
        self.curve.show_points(points, planned=state.steps)
        self.bar.setRange(0, 1000)
        self.bar.setValue(round(1000 * state.step / max(1, state.steps)))
        self.figures.show_texts(
            {
                "step": f"{state.step:,} of {state.steps:,}",
                "held_out": _error(state.held_out),
                "best": _error(state.best),
                "gain": percent_below(state.best, state.bilinear) if math.isfinite(state.best) else UNKNOWN,
                "speed": _speed(state.steps_per_second),
                "left": human_duration(state.seconds_left) if state.seconds_left else UNKNOWN,
            }
        )

    def show_pause(self, paused: bool) -> None:
        """The fit waits, or goes on; whoever asked for it."""
        with QSignalBlocker(self.pause):
            self.pause.setChecked(paused)
        self.pause.setText("Resume" if paused else "Pause")
        if paused:
            self.headline.setText("Paused")

    def _offer(self, *buttons: QPushButton) -> None:
        for button in (self.pause, self.stop, self.discard, self.more):
            button.setVisible(button in buttons)
        self.bar.setVisible(bool(buttons))

    def _pause_toggled(self, paused: bool) -> None:
        self.show_pause(paused)
        self.pause_toggled.emit(paused)

    # -- the list --------------------------------------------------------------------------------------------------

    def show_fits(self, entries: Sequence[tuple[int, str, str]], chosen: int | None, *, busy: bool) -> None:
        """List fits: (number, title, tooltip) of each. While a fit is ``busy`` it can be discarded, but not be forgotten."""
        with QSignalBlocker(self.fits):
            while self.fits.count() > len(entries):
                self.fits.takeItem(self.fits.count() - 1)
            while self.fits.count() < len(entries):
                self.fits.addItem(QListWidgetItem())
            self.fits.setCurrentRow(-1)
            for row, (number, title, tip) in enumerate(entries):
                item = self.fits.item(row)
                item.setText(title)
                item.setData(Qt.ItemDataRole.UserRole, number)
                item.setToolTip(tip)
                if number == chosen:
                    self.fits.setCurrentItem(item)
        known = chosen is not None and any(number == chosen for number, _, _ in entries)
        self.save.setEnabled(known)
        self.forget.setEnabled(known and not busy)

    def _item_chosen(self, item: QListWidgetItem) -> None:
        self.chosen.emit(item.data(Qt.ItemDataRole.UserRole))


def _speed(steps_per_second: float) -> str:
    if not steps_per_second:
        return UNKNOWN
    return f"{steps_per_second:.1f} steps/s" if steps_per_second >= 1 else f"{1 / steps_per_second:.1f} s per step"


def _error(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else UNKNOWN


def _button(title: str, tip: str) -> QPushButton:
    button = QPushButton(title)
    button.setToolTip(tip)
    return button


def _row(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget)
    row.addStretch(1)
    return row


def _column_of(width: int) -> tuple[QWidget, QVBoxLayout]:
    """A part of the panel of fixed width, and its layout."""
    part = QWidget()
    part.setFixedWidth(width)
    column = QVBoxLayout(part)
    column.setContentsMargins(0, style.SPACING, 0, 0)
    column.setSpacing(style.SPACING)
    return part, column
