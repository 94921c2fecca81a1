"""Starting the window."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pyqtgraph as pg
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

from featup_app.engine.preferences import Preferences, load_preferences
from featup_app.gui.binding_repair import keep_constants_alive
from featup_app.gui.style import apply_style
from featup_app.gui.window import MainWindow
from featup_app.images import first_sample


def make_application(arguments: list[str]) -> QApplication:
    """The one application object of the process, styled."""
    keep_constants_alive()
    existing = QApplication.instance()
    app = existing if isinstance(existing, QApplication) else QApplication(arguments)
    app.setApplicationName("featup-app")
    app.setApplicationDisplayName("FeatUp")
    app.setDesktopFileName("featup-app")
    # Arrays are row-major, as everywhere in this program. OpenGL has no advantage for a few still pictures.
    pg.setConfigOptions(imageAxisOrder="row-major", useOpenGL=False, antialias=True)
    apply_style(app)
    return app


def open_window(places: Sequence[str | Path], *, fresh: bool = False) -> MainWindow:
    """Show the main window and open pictures in it: files and those of folders, or a sample.

    Args:
        places: the files and folders; none for the sample.
        fresh: start with default settings instead of the remembered ones.
    """
    window = MainWindow(Preferences() if fresh else load_preferences())
    window.show()
    QTimer.singleShot(0, lambda: window.opener.open(places or [first_sample()]))
    return window


def main(*places: str | Path, fresh: bool = False) -> int:
    """Run the window until it is closed; the exit code of the process. Arguments as of :func:`open_window`."""
    app = make_application(sys.argv[:1])
    window = open_window(places, fresh=fresh)
    # Python handles Ctrl+C only between its own instructions; the timer makes it run some regularly.
    before = signal.signal(signal.SIGINT, lambda *_: window.close())
    wake_up = QTimer(interval=300)
    wake_up.timeout.connect(lambda: None)
    wake_up.start()
    try:
        return app.exec()
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)  # the handler would keep the window alive
        if not window.isVisible():
            window.deleteLater()  # its signals keep it alive; a later event loop of the process deletes it
