"""The progress of a training or a fit: headline, bar, figures and buttons. Both panels show it beside their curve."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PySide6.QtCore import QSignalBlocker, Signal
from PySide6.QtWidgets import QProgressBar, QPushButton, QVBoxLayout, QWidget

from featup_app.base.words import human_duration, percent_below
from featup_app.gui import style
from featup_app.gui.figures import UNKNOWN, Figures
from featup_app.gui.widgets import PlainLabel, button, row_of

if TYPE_CHECKING:
    from featup_app.fields.implicit.state import FitState
    from featup_app.training import TrainingState

_WIDTH = 330
_BAR_STEPS = 1000
_FIGURES = (
    ("step", "Step", "Steps done"),
    ("held_out", "Error now", "Reprojection error on held-out views, as measured last; lower is better"),
    ("best", "Best error", "The lowest error so far: the state that is kept"),
    ("gain", "Against bilinear", "How much lower the best error is than that of bilinear interpolation"),
    ("speed", "Speed", "Steps each second, without measuring"),
)


class ProgressColumn(QWidget):
    """Shows the progress of something that learns.

    Args:
        idle: the headline while nothing runs.
        name: "training" or "fit", for those who cannot see the bar.
        time_left: tooltip of the time left.
        tooltips: of the buttons to pause, to stop and keep, and to discard.
        after: the button for the time after the end.

    Signals:
        pause_toggled(bool): wait, or resume.
    """

    pause_toggled = Signal(bool)

    def __init__(
        self, idle: str, name: str, time_left: str, tooltips: tuple[str, str, str], after: QPushButton
    ) -> None:
        super().__init__()
        self.setFixedWidth(_WIDTH)
        self._idle = idle
        self.headline = PlainLabel(idle, objectName="title")
        self.headline.setWordWrap(True)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName(f"Progress of the {name}")
        self.figures = Figures((*_FIGURES, ("left", "Time left", time_left)))
        self.pause, self.stop, self.discard = (
            button(title, tooltip)
            for title, tooltip in zip(("Pause", "Stop and keep", "Discard"), tooltips, strict=True)
        )
        self.after = after
        self.pause.setCheckable(True)
        self.pause.toggled.connect(self._pause_toggled)
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(0, style.SPACING, 0, 0)
        self.column.setSpacing(style.SPACING)
        for widget in (self.headline, self.bar, self.figures):
            self.column.addWidget(widget)
        self.column.addStretch(1)
        self.column.addLayout(row_of(self.pause, self.stop, self.discard, after))
        self.clear()

    def clear(self) -> None:
        """Nothing runs, and nothing has ended."""
        self.headline.setText(self._idle)
        self.figures.clear()
        self.offer()

    def begin(self, title: str, *offered: QPushButton) -> None:
        """Something is prepared, and these buttons can be used."""
        self.clear()
        self.headline.setText(f"Preparing: {title}")
        self.bar.setRange(0, 0)
        for each in (self.pause, self.stop, self.discard):
            each.setEnabled(True)
        self.show_pause(False)
        self.offer(*offered)

    def show_stage(self, words: str, done: int, total: int) -> None:
        """The current stage: ``done`` of ``total`` parts of it; a total of 0 shows a bar that only moves."""
        self.headline.setText(f"{words[:1].upper()}{words[1:]}…")
        self.bar.setRange(0, _BAR_STEPS if total else 0)
        self.bar.setValue(_BAR_STEPS * done // total if total else 0)

    def show_state(self, state: TrainingState | FitState, *, best: float, share: float) -> None:
        """Show the figures of a state.

        Args:
            state: the latest.
            best: the lowest error so far.
            share: what is done of all, 0 to 1.
        """
        self.bar.setRange(0, _BAR_STEPS)
        self.bar.setValue(round(_BAR_STEPS * share))
        self.figures.show_texts(
            {
                "step": f"{state.step:,}" + (f" of {state.steps:,}" if state.steps else ""),
                "held_out": _error(state.held_out),
                "best": _error(best),
                "gain": percent_below(best, state.bilinear) if math.isfinite(best) else UNKNOWN,
                "speed": _speed(state.steps_per_second),
                "left": human_duration(state.seconds_left) if state.seconds_left else UNKNOWN,
            }
        )

    def show_pause(self, paused: bool) -> None:
        """It waits, or goes on, whoever asked for it."""
        with QSignalBlocker(self.pause):
            self.pause.setChecked(paused)
        self.pause.setText("Resume" if paused else "Pause")
        if paused:
            self.headline.setText("Paused")

    def offer(self, *offered: QPushButton) -> None:
        """Show these buttons and no others, and the bar unless everything has ended."""
        for each in (self.pause, self.stop, self.discard, self.after):
            each.setVisible(each in offered)
        self.bar.setVisible(any(each is not self.after for each in offered))

    def _pause_toggled(self, paused: bool) -> None:
        self.show_pause(paused)
        self.pause_toggled.emit(paused)


def _speed(steps_per_second: float) -> str:
    if not steps_per_second:
        return UNKNOWN
    return f"{steps_per_second:.1f} steps/s" if steps_per_second >= 1 else f"{1 / steps_per_second:.1f} s per step"


def _error(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else UNKNOWN
