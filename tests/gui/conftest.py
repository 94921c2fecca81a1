"""Drives the window as a person would: started through ``main()``, real mouse and key events, real photo, bundled weights."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest
from PySide6.QtCore import QEvent, QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QWheelEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from featup_app.engine.preferences import FILE_NAME
from featup_app.gui import app as gui_app
from featup_app.gui.views.image_view import ImageView
from featup_app.gui.window import MainWindow

QUICK = {"input_size": "112", "output_size": "4x"}
"""Settings under which everything is computed within a second."""

TIMEOUT = 90_000
"""Milliseconds; long, since the machine may be busy with other things."""


class Driver:
    """The window with the verbs of a person."""

    def __init__(self, window: MainWindow, qtbot) -> None:
        self.window = window
        self.studio = window.studio
        self.views = window.grid.views
        self.qtbot = qtbot

    def wait_for(self, condition: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(condition, timeout=TIMEOUT)

    def wait_until_idle(self) -> None:
        """All requests that were made are answered, and the answers are shown."""

        def idle() -> bool:
            QApplication.processEvents()
            return not self.window.engine.busy and not any(view.stale for view in self.views.values())

        self.wait_for(lambda: self.studio.image is not None or self.window.notice.isVisible())
        QTest.qWait(20)
        self.wait_for(idle)
        QTest.qWait(20)

    def place(self, view: str, x: float, y: float) -> QPoint:
        return self.views[view].to_widget((x, y)).toPoint()

    def click(self, view: str, x: float, y: float) -> None:
        QTest.mouseClick(self.views[view].canvas, Qt.MouseButton.LeftButton, pos=self.place(view, x, y))

    def hover(self, view: str, x: float, y: float) -> None:
        QTest.mouseMove(self.views[view].canvas, self.place(view, x, y) + QPoint(3, 3))
        QTest.qWait(30)
        QTest.mouseMove(self.views[view].canvas, self.place(view, x, y))
        QTest.qWait(60)

    def wheel(self, view: str, x: float, y: float, steps: int) -> None:
        canvas, place = self.views[view].canvas, self.views[view].to_widget((x, y))
        event = QWheelEvent(
            place,
            QPointF(canvas.mapToGlobal(place.toPoint())),
            QPoint(),
            QPoint(0, 120 * steps),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(canvas, event)

    def drop(self, *paths: object) -> None:
        """Drop files on the window, which has to accept them."""
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
        how = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
        entering = QDragEnterEvent(QPoint(50, 50), *how)
        QApplication.sendEvent(self.window, entering)
        assert entering.isAccepted()
        QApplication.sendEvent(self.window, QDropEvent(QPointF(50, 50), *how))

    def drag(self, view: str, start: tuple[float, float], by: QPoint) -> None:
        canvas, place = self.views[view].canvas, self.place(view, *start)
        QTest.mousePress(canvas, Qt.MouseButton.LeftButton, pos=place)
        for step in range(1, 6):
            QTest.mouseMove(canvas, place + by * step / 5)
            QTest.qWait(20)
        QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=place + by)

    def seen(self, view: str) -> tuple[float, float, float]:
        """Middle (x, y) in image pixels, and screen pixels per image pixel."""
        shown: ImageView = self.views[view]
        area = shown.box.viewRect()
        return area.center().x(), area.center().y(), shown.box.width() / area.width()


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Preferences of this test's own; ``config(**settings)`` writes them before the window starts."""
    folder = tmp_path / "config"
    folder.mkdir()
    monkeypatch.setenv("FEATUP_CONFIG_DIR", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def write(**settings: str) -> None:
        (folder / FILE_NAME).write_text(json.dumps({"settings": settings}))

    write(**QUICK)
    return write


class Starter:
    """Starts the program through ``main()``; only the endless loop of events is left to the test."""

    def __init__(self, qtbot) -> None:
        self._qtbot = qtbot
        self._opened: list[MainWindow] = []

    def __call__(self, *places: object, **options: object) -> Driver:
        assert gui_app.main(*places, **options) == 0
        return Driver(self._opened[-1], self._qtbot)

    def run_no_loop(self, *_: object) -> int:
        """Stands for ``QApplication.exec``: remembers the window that is shown, and returns at once."""
        shown = (w for w in QApplication.topLevelWidgets() if isinstance(w, MainWindow) and w.isVisible())
        self._opened.append(next(shown))
        return 0

    def close_all(self) -> None:
        """Close and delete every window that was started."""
        for window in self._opened:
            window.close()
            window.deleteLater()
        self._opened.clear()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@pytest.fixture
def start(config, qtbot, qapp, monkeypatch) -> Iterator[Starter]:
    """``start(*places, **options)`` opens a window and gives its driver; the window is closed and deleted after the test."""
    starter = Starter(qtbot)
    monkeypatch.setattr(gui_app.QApplication, "exec", starter.run_no_loop)
    yield starter
    starter.close_all()
    alive = [thread.name for thread in threading.enumerate() if thread.name.startswith("featup-")]
    assert not alive, f"threads left alive: {alive}"
