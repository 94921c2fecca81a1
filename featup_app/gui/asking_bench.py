"""How long a person waits for an answer: from the mouse event to the painted picture, in the real window without a screen.

Imports Qt; :mod:`featup_app.cli.bench_ask` calls it. Times are medians and 95th percentiles of repeated gestures in one process.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PySide6.QtCore import QEvent, QObject, QPointF, Qt, QTimer
from PySide6.QtGui import QMouseEvent
from PySide6.QtWidgets import QApplication, QWidget

from featup_app.base.progress import Progress, silent
from featup_app.engine.preferences import Preferences
from featup_app.engine.settings import ViewSettings
from featup_app.features import Point
from featup_app.images import first_sample
from featup_app.lenses import Query, SimilarityRequest
from featup_app.marks import PointMark

WINDOW = 1440, 1000
"""Of the window, so that a view is about 540x440 pixels."""

SIZE, COMPARED_SIZE = "1024x1024", "512x512"
QUERIES = 10
"""Positive marks, and as many negative ones, of the questions with many marks."""

COMPARED = ("attention", "jbu", "bilinear", "guided_filter")
BOUNDS_MS = {"exact": (40.0, 80.0), "coarse": (16.0, 33.0)}
"""Milliseconds that half, and 95 of 100, of the gestures may take."""

_TIMEOUT = 120.0
_TICK = 2


class _Watch(QObject):
    """Notices when a widget is painted, and the longest time in which the event loop did not turn."""

    def __init__(self, widget: QWidget) -> None:
        super().__init__()
        self.painted = 0
        self.worst = 0.0
        self._last = time.perf_counter()
        widget.installEventFilter(self)
        self._timer = QTimer(self, interval=_TICK)
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        """Begin to look for gaps."""
        self.worst, self._last = 0.0, time.perf_counter()
        self._timer.start()

    def stop(self) -> float:
        """Seconds of the longest gap since the start."""
        self._timer.stop()
        return self.worst

    def _tick(self) -> None:
        now = time.perf_counter()
        self.worst, self._last = max(self.worst, now - self._last), now

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Paint:
            self.painted += 1
        return super().eventFilter(watched, event)


class AskingBench:
    """The window with the gestures that are measured.

    Args:
        method: upsampling method.
        image: a picture; the sample if None.
    """

    def __init__(self, method: str, image: Path | None = None) -> None:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        from featup_app.gui.app import make_application
        from featup_app.gui.window import MainWindow

        self._app = make_application(["featup-app"])
        self.window = MainWindow(Preferences(settings=ViewSettings(method=method, output_size=SIZE)))
        self.window.resize(*WINDOW)
        self.window.show()
        self.studio = self.window.studio
        self._view = self.window.grid.views["similarity"]
        self._watch = _Watch(self._view.canvas)
        self._answers = 0
        self.studio.view_ready.connect(lambda name, _: self._count(name))
        self.studio.followed.connect(lambda name, _: self._count(name))
        self.studio.open(image or first_sample())
        self.wait(lambda: self.studio.image is not None and self._idle())

    def close(self) -> None:
        """Close the window and its threads."""
        self.window.close()
        self.window.deleteLater()
        self._app.processEvents()

    def _count(self, name: str) -> None:
        if name == SimilarityRequest.lens:
            self._answers += 1

    def _idle(self) -> bool:
        return not self.window.engine.busy and len(self.studio.views) >= 3

    def wait(self, condition: Callable[[], bool]) -> None:
        """Run the event loop until something is true. Raises TimeoutError after two minutes."""
        end = time.perf_counter() + _TIMEOUT
        while not condition():
            self._app.processEvents()
            if time.perf_counter() > end:
                raise TimeoutError("the window did not answer")

    def seconds_to_paint(self, gesture: Callable[[], None]) -> float:
        """From a gesture to the first paint after the answer of the similarity."""
        self.wait(self._idle)
        answers, started = self._answers, time.perf_counter()
        gesture()
        self.wait(lambda: self._answers > answers)
        painted = self._watch.painted
        self._view.canvas.update()
        self.wait(lambda: self._watch.painted > painted)
        return time.perf_counter() - started

    # -- gestures ------------------------------------------------------------------------------------------------------

    def points(self, count: int) -> list[Point]:
        """Image points in a fixed pattern that visits all parts of the picture."""
        assert self.studio.image is not None
        height, width = self.studio.image.size_hw
        return [((0.5 + 37 * index) % width, (0.5 + 53 * index) % height) for index in range(1, count + 1)]

    def click(self, point: Point) -> None:
        """Press and release the left button over the PCA view."""
        for kind, buttons in (
            (QEvent.Type.MouseButtonPress, Qt.MouseButton.LeftButton),
            (QEvent.Type.MouseButtonRelease, Qt.MouseButton.NoButton),
        ):
            self._send(kind, point, Qt.MouseButton.LeftButton, buttons)

    def hover(self, point: Point) -> None:
        """Move the mouse over the PCA view."""
        self._send(QEvent.Type.MouseMove, point, Qt.MouseButton.NoButton, Qt.MouseButton.NoButton)

    def ask(self, positive: Sequence[Point], negative: Sequence[Point], combine: str | None) -> None:
        """Ask by marks."""
        request: Any = self.studio.requests[SimilarityRequest.lens]
        marks = [Query(PointMark(point)) for point in positive]
        marks += [Query(PointMark(point), negative=True) for point in negative]
        self.studio.ask(replace(request, queries=tuple(marks), combine=combine))

    def _send(self, kind: QEvent.Type, point: Point, button: Qt.MouseButton, buttons: Qt.MouseButton) -> None:
        view = self.window.grid.views["pca"]
        place = view.to_widget(point)
        there = QPointF(view.canvas.mapToGlobal(place.toPoint()))
        event = QMouseEvent(kind, place, there, button, buttons, Qt.KeyboardModifier.NoModifier)
        QApplication.sendEvent(view.canvas, event)

    # -- measurements --------------------------------------------------------------------------------------------------

    def measure(self, repeats: int, progress: Progress = silent) -> dict[str, Any]:
        """Medians and 95th percentiles in milliseconds of clicks and of the map under the pointer, ratios of many marks to one,
        the comparison of four methods in seconds, and the longest gap of the event loop in milliseconds."""
        found: dict[str, Any] = {}
        points = self.points(repeats + 1)
        progress("clicking", 0, 4)
        self.seconds_to_paint(lambda: self.click(points[-1]))
        self._watch.start()
        found["exact_ms"] = _spread([self.seconds_to_paint(lambda p=p: self.click(p)) for p in points[:-1]])
        progress("following the pointer", 1, 4)
        self.window.asking.hold(True)
        self.seconds_to_paint(lambda: self.hover(points[-1]))
        found["coarse_ms"] = _spread([self.seconds_to_paint(lambda p=p: self.hover(p)) for p in points[:-1]])
        self.window.asking.hold(False)
        progress("asking by many marks", 2, 4)
        found["many_marks"] = self._many_marks(max(5, repeats // 3))
        progress("comparing methods", 3, 4)
        found["compare_s"] = self._compared()
        found["worst_gap_ms"] = 1000 * self._watch.stop()
        return found

    def _many_marks(self, repeats: int) -> dict[str, float]:
        """Median time of ten positive and ten negative points, divided by that of one point, in turn."""
        many = self.points(2 * QUERIES + repeats)
        seconds: dict[str, list[float]] = {"one": [], "mean": [], "maximum": [], "difference": []}
        for index in range(repeats):
            positive, negative = many[index : index + QUERIES], many[index + QUERIES : index + 2 * QUERIES]
            for way, spent in seconds.items():
                ask = (
                    (lambda p=positive: self.ask(p[:1], (), None))
                    if way == "one"
                    else (lambda p=positive, n=negative, way=way: self.ask(p, n, way))
                )
                spent.append(self.seconds_to_paint(ask))
        one = statistics.median(seconds["one"])
        return {f"{way}_to_one": statistics.median(spent) / one for way, spent in seconds.items() if way != "one"}

    def _compared(self) -> dict[str, float]:
        """Seconds until four columns show their components, and until they show the answer to a click after that."""
        desk, panel = self.window.comparing, self.window.comparing.panel
        columns = tuple(ViewSettings(method=name, output_size=COMPARED_SIZE) for name in COMPARED)
        started = time.perf_counter()
        desk.open_with(columns)
        self.wait(lambda: all(column.view.has_lens and not column.view.stale for column in panel.columns))
        first = time.perf_counter() - started
        self.wait(lambda: not self.window.engine.busy)
        started = time.perf_counter()
        panel.lens_chosen.emit("pca")
        self.wait(lambda: not any(column.view.stale for column in panel.columns))
        again = time.perf_counter() - started
        self.wait(lambda: not self.window.engine.busy)
        desk.close()
        return {"first": first, "again": again}


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "median": 1000 * statistics.median(ordered),
        "p95": 1000 * ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))],
    }


def measure_asking(
    methods: Sequence[str], repeats: int, image: Path | None = None, progress: Progress = silent
) -> dict[str, dict[str, Any]]:
    """:meth:`AskingBench.measure` for each method, in one window after the other."""
    found = {}
    for method in methods:
        bench = AskingBench(method, image)
        try:
            found[method] = bench.measure(repeats, progress)
        finally:
            bench.close()
    return found
