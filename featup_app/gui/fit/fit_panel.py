"""The panel of implicit fits: tabs (curve, what was learned, comparison, settings), progress, and the list of fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from featup_app.engine.fits import FitReport
from featup_app.gui import style
from featup_app.gui.error_curve import ErrorCurve, Level
from featup_app.gui.figures import UNKNOWN
from featup_app.gui.fit.fit_pictures import FitComparison, LearnedView
from featup_app.gui.fit.fit_settings import FitSettings
from featup_app.gui.progress_column import ProgressColumn
from featup_app.gui.widgets import PlainLabel, button, plain_tip, row_of

if TYPE_CHECKING:
    from featup_app.fields.implicit.state import FitState

IDLE = "No fit yet. The method Implicit starts one."
CURVE, LEARNED, COMPARE, SETTINGS = range(4)
"""Indices of the tabs."""

_TIME_LEFT = "Until the last planned step; a fit ends earlier when its error stops falling"
_TOOLTIPS = (
    "Wait before the next step; nothing is lost",
    "End the fit now and keep its best state",
    "Give this fit up; the pictures from before it come back",
)
_FITS_TIP = "Fits of this image, as long as the window is open. Choose one to show it."


class FitPanel(QWidget):
    """Shows fits. The desk decides what the buttons do.

    Signals:
        pause_toggled(bool): pause or resume.
        stop_asked(): end now and keep the best state.
        discard_asked(): discard the fit.
        more_asked(): go on with a fit that has ended.
        new_asked(): begin a fit with the settings in :attr:`settings`.
        chosen(number): show another fit.
        save_asked(), open_asked(), forget_asked(): of the chosen fit; from a file.
        tab_opened(index): another tab is in front.
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
            "Reprojection error on held-out views: how well the fitted features explain views that took no part in the fit. "
            "1 is no better than the mean; lower is better. Dashed: methods without a fit.",
            logarithmic=True,
        )
        self.learned, self.comparison, self.settings = LearnedView(), FitComparison(), FitSettings()
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        for tab, title, tip in (
            (self._curve_page(), "Curve", "The error on held-out views, step by step"),
            (self.learned, "What was learned", "What the fit learned beside the features"),
            (
                self.comparison,
                "Compare",
                "PCA of bilinear, FeatUp JBU and all fits of these features, in the same colours",
            ),
            (self.settings, "Settings", "Settings of the next fit"),
        ):
            self.tabs.addTab(tab, title)
            self.tabs.setTabToolTip(self.tabs.indexOf(tab), tip)
        self.tabs.currentChanged.connect(self.tab_opened)
        self.settings.new_asked.connect(self.new_asked)

        self.more = button("More steps", "Go on with this fit, for half as many steps as it has done")
        progress = self.progress = ProgressColumn(IDLE, "fit", _TIME_LEFT, _TOOLTIPS, self.more)
        self.headline, self.figures = progress.headline, progress.figures
        self.pause, self.stop, self.discard = progress.pause, progress.stop, progress.discard
        progress.pause_toggled.connect(self.pause_toggled)
        self.stop.clicked.connect(self.stop_asked)
        self.discard.clicked.connect(self.discard_asked)
        self.more.clicked.connect(self.more_asked)

        self.fits = QListWidget()
        self.fits.setAccessibleName("Fits of this image")
        self.fits.setToolTip(_FITS_TIP)
        self.fits.setMinimumHeight(64)
        self.fits.setFixedWidth(270)
        self.fits.setWordWrap(True)
        self.fits.itemClicked.connect(self._item_chosen)
        self.fits.itemActivated.connect(self._item_chosen)
        self.open = button("Open…", "Open a fit of this image from a file")
        self.save = button("Save…", "Save the chosen fit to a file")
        self.forget = button("Forget", "Remove the chosen fit from the list and from memory")
        self.open.clicked.connect(self.open_asked)
        self.save.clicked.connect(self.save_asked)
        self.forget.clicked.connect(self.forget_asked)
        self._lay_out()
        self.show_nothing()

    def _curve_page(self) -> QWidget:
        page = QWidget()
        self.loss = QCheckBox("Show the loss")
        self.loss.setToolTip("Draw the loss that the steps minimise as a thin line (right axis)")
        self.loss.toggled.connect(self.curve.show_loss)
        self.loss.setChecked(True)
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 4, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.curve, 1)
        column.addWidget(self.loss)
        return page

    def _lay_out(self) -> None:
        listed = QVBoxLayout()
        listed.setContentsMargins(0, style.SPACING, 0, 0)
        listed.setSpacing(style.SPACING)
        heading = PlainLabel("Fits of this image", objectName="title")
        heading.setToolTip(_FITS_TIP)
        listed.addWidget(heading)
        listed.addWidget(self.fits, 1)
        listed.addLayout(row_of(self.open, self.save, self.forget))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(style.SPACING, 0, 12, style.SPACING)
        layout.setSpacing(16)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(self.progress)
        layout.addLayout(listed)

    # -- the fit that is shown --------------------------------------------------------------------------------------

    def show_nothing(self) -> None:
        """No fit is shown."""
        self.curve.clear_curve()
        self.learned.clear()
        self.progress.clear()

    def begin(self, title: str) -> None:
        """A fit starts: an empty curve."""
        self.show_nothing()
        self.progress.begin(title, self.discard)

    def show_stage(self, words: str, done: int, total: int) -> None:
        """What is done before the first step."""
        self.progress.show_stage(words, done, total)

    def show_report(self, report: FitReport, *, under_way: bool, discardable: bool = True) -> None:
        """Show curve and figures of a fit, and the buttons that apply to it.

        Args:
            report: its state.
            under_way: whether it runs or is paused.
            discardable: whether it can be discarded; a finished fit that was continued can only be stopped and kept.
        """
        state = report.state
        if state is None:
            self.curve.clear_curve()
            self.figures.clear()
            self.headline.setText(f"{report.title}, from a file")
            if report.held_out is not None:
                self.figures.show_texts({"best": f"{report.held_out:.4f}"})
            self.progress.offer()
            return
        self._show_state(state)
        if under_way:
            if not self.pause.isChecked() and state.step:
                self.headline.setText(f"{state.stage[:1].upper()}{state.stage[1:]}" if state.stage else "Fitting")
            self.progress.offer(self.pause, self.stop, *([self.discard] if discardable else []))
        else:
            self.headline.setText(state.reason or f"Stopped at step {state.step}; the best state is kept")
            self.figures.show_texts({"left": UNKNOWN})
            self.progress.offer(self.more)

    def _show_state(self, state: FitState) -> None:
        self.curve.show_levels(
            [
                Level("bilinear", "bilinear", state.bilinear, style.CURVE_BILINEAR),
                Level("jbu", "FeatUp JBU", state.jbu, style.CURVE_CLASSICAL),
            ]
            if math.isfinite(state.jbu)
            else []
        )
        points = [(point.step, point.held_out, point.loss) for point in state.points]
        self.curve.show_points(points, planned=state.steps)
        self.progress.show_state(state, best=state.best, share=state.step / max(1, state.steps))

    def show_pause(self, paused: bool) -> None:
        """The fit waits, or goes on, whoever asked for it."""
        self.progress.show_pause(paused)

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
                item.setToolTip(plain_tip(tip))
                if number == chosen:
                    self.fits.setCurrentItem(item)
        known = chosen is not None and any(number == chosen for number, _, _ in entries)
        self.save.setEnabled(known)
        self.forget.setEnabled(known and not busy)

    def _item_chosen(self, item: QListWidgetItem) -> None:
        self.chosen.emit(item.data(Qt.ItemDataRole.UserRole))
