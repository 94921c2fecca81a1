"""Tools > Train upsampler: the dialog, the panel, and the message at the end. Training has its own thread."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QMessageBox, QWidget

from featup_app.base.progress import Stage
from featup_app.base.words import counted, human_duration, percent_below
from featup_app.engine.jobs import Lane, Progressed
from featup_app.engine.training import (
    DETAIL_RESTORED,
    TrainingControl,
    TrainingOutcome,
    TrainingRequest,
    Workshop,
)
from featup_app.gui.bottom_dock import BottomDock
from featup_app.gui.closing import ask_before_closing
from featup_app.gui.engine_bridge import JobSignals
from featup_app.gui.notices import Notify
from featup_app.gui.studio import Studio
from featup_app.gui.train.training_dialog import TrainingDialog
from featup_app.gui.train.training_panel import TrainingPanel, TrainingProgress

_SURVEY, _TRAIN = "survey", "train"
_HEIGHT = 260
"""Pixels that the panel gets when it appears."""


class TrainingDesk(JobSignals):
    """Runs one training at a time for a window.

    The first dialog starts its lane and thread. Its jobs are separate from those of the engine, so image views are computed
    during a training.

    Args:
        studio: names the image and the settings that are offered, and shows trained weights.
        notify: shows messages.
        window: the parent of the dialogs; it closes after a training that was stopped so that it can close.

    Signals:
        state_changed(TrainingState): the training has progressed.
    """

    state_changed = Signal(object)

    def __init__(self, studio: Studio, notify: Notify, window: QWidget) -> None:
        super().__init__(window)
        self._studio, self._notify, self._window = studio, notify, window
        self._lane: Lane | None = None
        self._workshop = Workshop()
        self._control: TrainingControl | None = None
        self._job = 0
        self._outcome: TrainingOutcome | None = None
        self._close_after = False
        self._dialog: TrainingDialog | None = None
        self.panel = TrainingPanel()
        self.progress = TrainingProgress()
        self.dock = BottomDock("training", "Training", self.panel, height=_HEIGHT)

        self.panel.pause_toggled.connect(self._pause)
        self.panel.stop_asked.connect(self._stop)
        self.panel.discard_asked.connect(self._ask_to_discard)
        self.panel.use_asked.connect(self.use)
        self.state_changed.connect(self._show_state)
        self.progressed.connect(self._progressed)

    @property
    def running(self) -> bool:
        """Whether a training runs, perhaps paused."""
        return self._control is not None

    @property
    def dialog(self) -> TrainingDialog | None:
        """The dialog while it is open."""
        return self._dialog

    # -- before ----------------------------------------------------------------------------------------------------

    def open_dialog(self) -> None:
        """Open the dialog; while a training runs, show its panel instead."""
        if self.running:
            self.dock.appear()
            self._notify("information", "A training is running; stop it before you start another.")
            return
        image = self._studio.image
        folder = str(image.own_folder or "") if image is not None else ""
        dialog = TrainingDialog(self._window, self._studio.settings, folder)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.survey_asked.connect(self._look)
        dialog.accepted.connect(lambda: self.start(dialog.request()))
        dialog.finished.connect(self._dialog_closed)
        self._dialog = dialog
        dialog.open()

    def _look(self, request: TrainingRequest) -> None:
        self.ask(
            self._own_lane(),
            _SURVEY,
            lambda progress: self._workshop.survey(request, progress),
            answer=lambda survey: self._dialog.show_survey(survey) if self._dialog is not None else None,
            failed=lambda sentence, details: self._dialog.show_problem(sentence) if self._dialog is not None else None,
        )

    def _dialog_closed(self) -> None:
        self._dialog = None
        if self._lane is not None:
            self._lane.cancel(_SURVEY)

    # -- during ----------------------------------------------------------------------------------------------------

    def start(self, request: TrainingRequest) -> None:
        """Begin to train."""
        control = self._control = TrainingControl()
        self._outcome = None
        names = " and ".join(request.backbones)
        self.panel.begin(f"universal, {names}" if len(request.backbones) > 1 else names)
        self.progress.show_share("Training: preparing", 0, 0)
        self.dock.appear()

        def work(progress: Any) -> TrainingOutcome:
            return self._workshop.train(request, control, on_state=self.state_changed.emit, progress=progress)

        job = self.ask(
            self._own_lane(),
            _TRAIN,
            work,
            answer=self._show_outcome,
            failed=self._show_failure,
            stopped=self._show_stopped,
            finished=self._finished,
        )
        self._job = job.id

    def _own_lane(self) -> Lane:
        if self._lane is None:
            self._lane = self.lane("featup-training")
        return self._lane

    def _progressed(self, event: Progressed) -> None:
        """Show the stages before and after the steps; during the steps, states are shown instead."""
        measuring = event.stage is Stage.MEASURING and bool(self.panel.curve.points)
        if event.job.id == self._job and event.stage is not Stage.TRAINING and not measuring:
            self.panel.show_stage(event.words, event.done, event.total, event.stage)
            self.progress.show_share(f"Training: {event.words}", event.done, event.total)

    def _show_state(self, state: Any) -> None:
        if self.running:
            self.panel.show_state(state)
            left = f", {human_duration(state.seconds_left)} left" if state.steps_per_second else ""
            self.progress.show_share(f"Training {100 * state.fraction:.0f} %{left}", state.fraction, 1)

    def _pause(self, paused: bool) -> None:
        if self._control is not None:
            (self._control.pause if paused else self._control.go_on)()

    def _stop(self) -> None:
        if self._control is not None:
            self._control.stop()
            self.panel.show_stopping()

    def _ask_to_discard(self) -> None:
        question = "Discard this training? Only the features of the images are kept."
        if self.running and QMessageBox.question(self._window, "Training", question) == QMessageBox.StandardButton.Yes:
            self.discard()

    def discard(self) -> None:
        """Discard the training; only cached features are kept."""
        if self._lane is not None:
            self._lane.cancel(_TRAIN)

    # -- after -----------------------------------------------------------------------------------------------------

    def use(self) -> None:
        """Show views with the weights that were trained last, and with the backbone they were trained for."""
        if self._outcome is None:
            return
        request, settings = self._outcome.request, self._studio.settings
        changes: dict[str, str | None] = {}
        if len(request.backbones) == 1:
            changes = {"backbone": request.backbones[0], "layer": request.layer, "weights_file": request.weights_file}
            if settings.backbone != request.backbones[0]:
                changes["input_size"] = None
        self._studio.load_upsampler(str(request.output), **changes)

    def _show_outcome(self, outcome: TrainingOutcome) -> None:
        self._outcome = outcome
        self.panel.show_end(f"{'Stopped' if outcome.stopped else 'Finished'} at step {outcome.steps}", outcome)
        self._notify(
            "warning" if outcome.notes else "information", outcome_sentence(outcome), action=("Use it now", self.use)
        )

    def _show_failure(self, sentence: str, details: str) -> None:
        self._close_after = False  # the window stays open so that the message can be read
        self.panel.show_end("The training failed")
        self._notify("error", sentence, details=details)

    def _show_stopped(self) -> None:
        if self._control is not None and self._control.stopped:
            self.panel.show_end("Stopped before the first measurement")
            self._notify(
                "information", "The training was stopped before its first measurement, so there was nothing to keep."
            )
        else:
            self.panel.show_end("Training discarded")

    def _finished(self) -> None:
        self._control = None
        self.progress.hide()
        if self._close_after:
            QTimer.singleShot(0, self._window.close)

    # -- leaving ---------------------------------------------------------------------------------------------------

    def may_close(self) -> bool:
        """Whether the window may close now. If a training runs, ask whether to keep or discard it.

        If its state is kept, the window closes by itself after the state is saved.
        """
        if not self.running:
            return True
        answer = ask_before_closing(
            self._window,
            "Training",
            "An upsampler is being trained. Stop the training and keep its best state?",
            save="Stop and keep",
            discard="Discard",
            stay="Keep training",
        )
        if answer == "save" and self.running:
            self._close_after = True
            self._stop()
        return answer == "discard" or (answer == "save" and not self.running)

    def close(self, timeout: float = 5.0) -> None:
        """Cancel the running jobs and end the thread."""
        self.forget_askers()
        if self._lane is not None:
            self._lane.close(timeout)


def outcome_sentence(outcome: TrainingOutcome) -> str:
    """The message at the end of a training."""
    saved = f"Saved as {outcome.files[0].name} in {outcome.files[0].parent}."
    restored = f" {DETAIL_RESTORED}" if outcome.restored else ""
    if outcome.best_step == 0 and not outcome.restored:
        return (
            f"{counted(outcome.steps, 'step')} of training found nothing better than the classical filter it started from "
            f"(held-out error {outcome.error:.4f}); train longer, or on more images. {saved}"
        )
    gain = percent_below(outcome.error, outcome.bilinear)
    notes = f" {' '.join(outcome.notes[:2])}" if outcome.notes else ""
    more = f" ({len(outcome.notes) - 2} more like that.)" if len(outcome.notes) > 2 else ""
    return (
        f"The trained upsampler's held-out error is {outcome.error:.4f}, {gain} than bilinear ({outcome.bilinear:.4f}). "
        f"{saved}{restored}{notes}{more}"
    )
