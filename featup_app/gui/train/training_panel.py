"""The panel of a training: its curve, its progress, and the buttons to pause, to stop and keep, and to discard it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QProgressBar,
    QVBoxLayout,
    QWidget,
)

from featup_app.base.progress import Stage
from featup_app.base.words import percent_below
from featup_app.engine.training import TrainingOutcome
from featup_app.gui import style
from featup_app.gui.figures import UNKNOWN
from featup_app.gui.progress_column import ProgressColumn
from featup_app.gui.train.training_curve import TrainingCurve
from featup_app.gui.widgets import PlainLabel, button

if TYPE_CHECKING:
    from featup_app.training import TrainingState

IDLE = "No training runs. Tools > Train upsampler… starts one."

_TIME_LEFT = "Until the length that was chosen, without measuring"
_TOOLTIPS = (
    "Wait before the next step; the time does not count",
    "End the training now and save its best state",
    "Discard the training; nothing is saved",
)


class TrainingPanel(QWidget):
    """Shows a training. The desk decides what the buttons do.

    Signals:
        pause_toggled(bool): pause or resume.
        stop_asked(): end now and keep the best state.
        discard_asked(): discard the training.
        use_asked(): use the weights of the finished training.
    """

    pause_toggled = Signal(bool)
    stop_asked = Signal()
    discard_asked = Signal()
    use_asked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._title = ""
        self.curve = TrainingCurve()
        self.use = button("Use it now", "Show the features upsampled with these weights")
        self.use.setProperty("primary", True)
        progress = self.progress = ProgressColumn(IDLE, "training", _TIME_LEFT, _TOOLTIPS, self.use)
        self.headline, self.values = progress.headline, progress.figures.values
        self.pause, self.stop, self.discard = progress.pause, progress.stop, progress.discard
        self.loss = QCheckBox("Show the loss")
        self.loss.setToolTip("Draw the loss that the steps minimise as a thin line (right axis)")
        self.loss.toggled.connect(self.curve.show_loss)
        progress.pause_toggled.connect(self.pause_toggled)
        self.stop.clicked.connect(self.stop_asked)
        self.discard.clicked.connect(self.discard_asked)
        self.use.clicked.connect(self.use_asked)

        chart = QVBoxLayout()
        chart.setSpacing(2)
        chart.addWidget(self.curve, 1)
        chart.addWidget(self.loss)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(style.SPACING, 0, 12, style.SPACING)
        layout.setSpacing(16)
        layout.addLayout(chart, 1)
        layout.addWidget(progress)

    # -- what is shown ---------------------------------------------------------------------------------------------

    def begin(self, title: str) -> None:
        """A training starts: an empty curve."""
        self.curve.clear_curve()
        self._title = title
        self.progress.begin(title, self.pause, self.stop, self.discard)

    def show_stage(self, words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
        """The current stage, before the first step and at the end."""
        count = f", {done} of {total} pictures" if total > 1 and stage is Stage.EXTRACTING else ""
        self.progress.show_stage(f"{words}{count}", done, total)

    def show_state(self, state: TrainingState) -> None:
        """A point of the curve, and the figures."""
        self.curve.show_baselines(state.bilinear, state.classical)
        self.curve.add(state.step, state.held_out, state.loss)
        if not self.pause.isChecked() and self.stop.isEnabled():
            self.headline.setText(f"Training: {self._title}")
        self.progress.show_state(state, best=min(state.best, state.held_out), share=state.fraction)

    def show_stopping(self) -> None:
        """The training is about to end; it can be neither paused nor stopped again."""
        self.headline.setText("Stopping; the best state is being saved…")
        self.pause.setEnabled(False)
        self.stop.setEnabled(False)

    def show_end(self, sentence: str, outcome: TrainingOutcome | None = None) -> None:
        """The training is over; its weights can be used if there is an outcome."""
        self.headline.setText(sentence)
        figures = self.progress.figures
        figures.show_texts({"left": UNKNOWN, "speed": UNKNOWN})
        if (
            outcome is not None
        ):  # the errors of the weights that were saved, over all channels, and not those of the last step
            error = f"{outcome.error:.4f}"
            gain = percent_below(outcome.error, outcome.bilinear)
            figures.show_texts({"held_out": error, "best": error, "gain": gain})
        self.progress.offer(*([self.use] if outcome is not None else []))


class TrainingProgress(QWidget):
    """The training in the status bar: a few words, a bar, and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self.text = PlainLabel("")
        self.bar = QProgressBar()
        self.bar.setFixedWidth(80)
        self.bar.setTextVisible(False)
        self.setToolTip("The training in the panel below the views goes on while you work")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, style.SPACING, 0)
        row.setSpacing(4)
        row.addWidget(self.text)
        row.addWidget(self.bar)
        self.hide()

    def show_share(self, text: str, done: float, total: float) -> None:
        """``done`` of ``total``; a total of 0 shows a bar that only moves."""
        self.text.setText(text)
        self.bar.setRange(0, 1000 if total else 0)
        self.bar.setValue(round(1000 * done / total) if total else 0)
        self.show()
