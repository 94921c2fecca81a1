"""The panel of a training: its curve, how far it is, and the buttons to pause, to stop and keep, and to give it up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from featup_app.base.progress import Stage
from featup_app.base.words import human_duration
from featup_app.engine.training import TrainingOutcome
from featup_app.gui import style
from featup_app.gui.figures import Figures, percent_below
from featup_app.gui.train.training_curve import TrainingCurve

if TYPE_CHECKING:
    from featup_app.training import TrainingState

IDLE = "No training runs. Tools > Train upsampler… starts one."

_ROWS = (
    ("step", "Step", "Steps of training done"),
    ("held_out", "Error now", "Reprojection error on held-out views, as measured last; lower is better"),
    ("best", "Best error", "The lowest error so far: the state that is kept"),
    ("gain", "Against bilinear", "How much lower the best error is than that of bilinear interpolation"),
    ("speed", "Speed", "Steps each second, without measuring"),
    ("left", "Time left", "Until the length that was chosen, without measuring"),
)


class TrainingPanel(QWidget):
    """Shows a training; what the buttons do is up to the listener.

    Signals:
        pause_toggled(bool): wait, or go on.
        stop_asked(): end now and keep the best state.
        discard_asked(): give the training up.
        use_asked(): take the weights of the training that has ended.
    """

    pause_toggled = Signal(bool)
    stop_asked = Signal()
    discard_asked = Signal()
    use_asked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._title = ""
        self.curve = TrainingCurve()
        self.headline = QLabel(IDLE, objectName="title")
        self.headline.setWordWrap(True)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Progress of the training")
        self.figures = Figures(_ROWS)
        self.values = self.figures.values
        self.loss = QCheckBox("Show the loss")
        self.loss.setToolTip("Draw what the steps minimise as a thin line, on the axis at the right")
        self.loss.toggled.connect(self.curve.show_loss)

        self.pause = QPushButton("Pause")
        self.pause.setCheckable(True)
        self.pause.setToolTip("Wait before the next step; the time does not count")
        self.stop = QPushButton("Stop and keep")
        self.stop.setToolTip("End the training now and save its best state")
        self.discard = QPushButton("Discard")
        self.discard.setToolTip("Give the training up; nothing is saved")
        self.use = QPushButton("Use it now")
        self.use.setProperty("primary", True)
        self.use.setToolTip("Show the features upsampled with these weights")
        buttons = QHBoxLayout()
        for button in (self.pause, self.stop, self.discard, self.use):
            buttons.addWidget(button)
        buttons.addStretch(1)
        self.pause.toggled.connect(self._pause_toggled)
        self.stop.clicked.connect(self.stop_asked)
        self.discard.clicked.connect(self.discard_asked)
        self.use.clicked.connect(self.use_asked)

        facts = QWidget()
        facts.setFixedWidth(330)
        column = QVBoxLayout(facts)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(style.SPACING)
        column.addWidget(self.headline)
        column.addWidget(self.bar)
        column.addWidget(self.figures)
        column.addWidget(self.loss)
        column.addStretch(1)
        column.addLayout(buttons)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(style.SPACING, style.SPACING, 12, style.SPACING)
        layout.setSpacing(16)
        layout.addWidget(self.curve, 1)
        layout.addWidget(facts)
        self._offer()

    # -- what is shown ---------------------------------------------------------------------------------------------

    def begin(self, title: str) -> None:
        """A training starts: an empty curve."""
        self.curve.clear_curve()
        self.figures.clear()
        self.headline.setText(f"Preparing: {title}")
        self._title = title
        self.bar.setRange(0, 0)
        self._offer(self.pause, self.stop, self.discard)
        for button in (self.pause, self.stop, self.discard):
            button.setEnabled(True)
        self.pause.setChecked(False)

    def show_stage(self, words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
        """What is done before the first step, and at the end."""
        count = f", {done} of {total} pictures" if total > 1 and stage is Stage.EXTRACTING else ""
        self.headline.setText(f"{words[:1].upper()}{words[1:]}{count}…")
        self.bar.setRange(0, 1000 if total else 0)
        self.bar.setValue(1000 * done // total if total else 0)

    def show_state(self, state: TrainingState) -> None:
        """A point of the curve, and the numbers."""
        self.curve.show_baselines(state.bilinear, state.classical)
        self.curve.add(state.step, state.held_out, state.loss)
        if not self.pause.isChecked() and self.stop.isEnabled():
            self.headline.setText(f"Training: {self._title}")
        self.bar.setRange(0, 1000)
        self.bar.setValue(round(1000 * state.fraction))
        best = min(state.best, state.held_out)
        texts = {
            "step": f"{state.step:,}" + (f" of {state.steps:,}" if state.steps else ""),
            "held_out": f"{state.held_out:.4f}",
            "best": f"{best:.4f}",
            "gain": percent_below(best, state.bilinear),
            "speed": f"{state.steps_per_second:.1f} steps/s" if state.steps_per_second else "–",
            "left": human_duration(state.seconds_left) if state.steps_per_second else "–",
        }
        self.figures.show_texts(texts)

    def show_stopping(self) -> None:
        """The training was asked to end; its buttons have nothing left to do."""
        self.headline.setText("Stopping; the best state is being saved…")
        for button in (self.pause, self.stop):
            button.setEnabled(False)

    def show_end(self, sentence: str, outcome: TrainingOutcome | None = None) -> None:
        """The training is over: what became of it. Weights can be used if there are some."""
        self.headline.setText(sentence)
        self.bar.setRange(0, 1)
        self.bar.setValue(int(outcome is not None))
        self.values["left"].setText("–")
        if outcome is not None:
            self.values["best"].setText(f"{outcome.error:.4f}")
            self.values["gain"].setText(percent_below(outcome.error, outcome.bilinear))
        self._offer(*([self.use] if outcome is not None else []))

    def _offer(self, *buttons: QPushButton) -> None:
        for button in (self.pause, self.stop, self.discard, self.use):
            button.setVisible(button in buttons)
        self.bar.setVisible(bool(buttons))

    def _pause_toggled(self, paused: bool) -> None:
        self.pause.setText("Go on" if paused else "Pause")
        if paused:
            self.headline.setText("Paused")
        self.pause_toggled.emit(paused)


class TrainingProgress(QWidget):
    """The training in the status bar: a word, a bar, and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self.text = QLabel("")
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
