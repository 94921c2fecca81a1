"""The status bar: the point under the mouse, the progress, the native backend, and memory."""

from __future__ import annotations

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QProgressBar, QStatusBar

from featup_app.base.words import human_bytes
from featup_app.engine.jobs import Progressed
from featup_app.engine.memory import process_bytes
from featup_app.features import Point
from featup_app.gui.studio import Studio
from featup_app.gui.widgets import ElidedLabel, PlainLabel
from featup_app.lenses import LENSES
from featup_app.ops.status import native_status

_SHOW_AFTER = 250
"""Milliseconds of work before the progress appears, so that quick answers do not make it flicker."""


class StatusBar(QStatusBar):
    """Left: the point and the values there. Right: stage, progress, backend, memory."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizeGripEnabled(False)
        self.point = ElidedLabel("")
        self.point.setToolTip(
            "The image point under the mouse, in pixels of the original, and the values of the views there"
        )
        self.stage = ElidedLabel("")
        self.bar = QProgressBar()
        self.bar.setFixedWidth(130)
        self.bar.setTextVisible(False)
        self.percent = PlainLabel("")
        self.percent.setMinimumWidth(44)
        self.backend = PlainLabel("")
        self.memory = PlainLabel("")
        self.memory.setToolTip("Memory that the program holds now")
        self.addWidget(self.point, 1)
        for widget in (self.stage, self.bar, self.percent, self.backend, self.memory):
            self.addPermanentWidget(widget)
        self._appear = QTimer(self, singleShot=True, interval=_SHOW_AFTER)
        self._appear.timeout.connect(lambda: self._set_shown(True))
        self._clock = QTimer(self, interval=1000)
        self._clock.timeout.connect(self._show_state)
        self._clock.start()
        self._show_state()
        self._set_shown(False)

    def show_busy(self, busy: bool) -> None:
        """Show the progress after a moment of work; hide it when nothing runs."""
        if not busy:
            self._appear.stop()
            self._set_shown(False)
        elif not self._appear.isActive() and not self.bar.isVisible():
            self._appear.start()

    def show_progress(self, event: Progressed) -> None:
        """``done`` of ``total`` steps; a total of 0 shows a bar that only moves."""
        self.stage.setText(event.words)
        # Shares, not counts: the bytes of a large download do not fit into Qt's 32-bit integers.
        self.bar.setRange(0, 1000 if event.total else 0)
        self.bar.setValue(1000 * event.done // event.total if event.total else 0)
        self.percent.setText(f"{100 * event.done // event.total} %" if event.total else "")

    def show_point(self, point: Point | None, studio: Studio) -> None:
        """Coordinates and values of the views at an image point."""
        if point is None:
            self.point.setText("")
            return
        parts = [f"x {point[0]:.1f}  y {point[1]:.1f}"]
        for name in LENSES:
            view = studio.views.get(name)
            if view is not None:
                parts.append(view.reading(*view.facts.geometry.pixel_of(point, view.facts.size)))
        self.point.setText("   │   ".join(part for part in parts if part))

    def _set_shown(self, shown: bool) -> None:
        for widget in (self.stage, self.bar, self.percent):
            widget.setVisible(shown)

    def _show_state(self) -> None:
        """Show backend and memory, which change: the backend is known only after the engine has started."""
        state = native_status()
        self.backend.setText(state.backend)
        self.backend.setToolTip(state.detail)
        self.memory.setText(human_bytes(process_bytes()))
