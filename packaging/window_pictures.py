"""Draws the pictures of the window in the README and the help, by using it as a person does.

    python packaging/window_pictures.py            # writes resources/help/*.jpg

The pictures are committed; nobody needs this script to build, install or test the program. It needs the packages of the program,
and no screen.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["FEATUP_CONFIG_DIR"] = tempfile.mkdtemp()  # the choices of the person who draws are not shown

from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from featup_app.engine.preferences import Preferences
from featup_app.features import Point
from featup_app.gui.app import make_application
from featup_app.gui.compare.compare_panel import SWIPE
from featup_app.gui.marks.tools import BOX
from featup_app.gui.window import MainWindow
from featup_app.images import first_sample, sample_images

HELP = Path(__file__).resolve().parent.parent / "resources" / "help"
SIZE, WIDTH = (1280, 800), 960
"""Of the window, and of the pictures, in pixels."""

NONE, SHIFT, CONTROL = (
    Qt.KeyboardModifier.NoModifier,
    Qt.KeyboardModifier.ShiftModifier,
    Qt.KeyboardModifier.ControlModifier,
)


class Person:
    """Uses a window and takes pictures of it.

    Args:
        folder: of the pictures.
    """

    def __init__(self, folder: Path) -> None:
        self.app, self.folder = make_application(["featup-app"]), folder
        self.window = MainWindow(Preferences())
        self.window.resize(*SIZE)
        self.window.show()

    def wait(self, condition: Callable[[], bool] = lambda: True) -> None:
        """Until the window has answered and something is true."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.01)
            if not self.window.engine.busy and len(self.window.studio.views) >= 3 and condition():
                break
        QTest.qWait(300)

    def open(self, path: Path) -> None:
        """Open a picture."""
        self.window.studio.open(path)
        self.arrive(path.name)

    def arrive(self, name: str) -> None:
        """Wait for the views of a picture."""

        def there() -> bool:
            image = self.window.studio.image
            return image is not None and image.name == name

        self.wait(there)

    def place(self, view: str, point: Point) -> QPoint:
        """Where an image point lies in a view."""
        return self.window.grid.views[view].to_widget(point).toPoint()

    def click(self, view: str, point: Point, keys: Qt.KeyboardModifier = NONE) -> None:
        """Click an image point."""
        canvas = self.window.grid.views[view].canvas
        QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, keys, self.place(view, point))
        self.wait()

    def drag(self, view: str, start: Point, end: Point, keys: Qt.KeyboardModifier = NONE) -> None:
        """Drag from one image point to another."""
        canvas, first, last = (
            self.window.grid.views[view].canvas, self.place(view, start), self.place(view, end)
        )  # fmt: skip
        QTest.mousePress(canvas, Qt.MouseButton.LeftButton, keys, first)
        for part in range(1, 9):
            QTest.mouseMove(canvas, first + (last - first) * part / 8)
            QTest.qWait(10)
        QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, keys, last)
        self.wait()

    def take(self, name: str) -> None:
        """Write a picture of the window."""
        for view in self.window.grid.views.values():
            view.show_crosshair(None)
        QTest.qWait(50)
        shown = self.window.grab().toImage()
        shown = shown.scaledToWidth(WIDTH, Qt.TransformationMode.SmoothTransformation)
        if not shown.save(str(self.folder / f"{name}.jpg"), "JPG", 86):
            raise OSError(f"cannot write {name}.jpg in {self.folder}")


def draw(folder: Path) -> None:
    """Take all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    person = Person(folder)
    window = person.window
    tab = window.inspector.lenses["similarity"]
    person.open(first_sample())

    person.click("image", (330, 355))
    person.click("image", (410, 180), SHIFT)
    tab.query_panel.tools[BOX].click()
    person.drag("image", (220, 215), (330, 280), CONTROL)
    tab.mask_panel.switch.click()
    tab.matches.click()
    person.wait()
    person.take("ask")

    tab.matches.click()
    tab.mask_panel.switch.click()
    tab.query_panel.tools["point"].click()
    person.click("image", (300, 200))
    window.inspector.setCurrentWidget(window.inspector.pixel)
    window.inspector.pixel.line.click()
    person.drag("image", (60, 200), (540, 260))
    person.take("pixel")
    window.inspector.pixel.line.click()

    window.inspector.setCurrentWidget(window.inspector.lenses["pca"])
    window.actions_by_name["compare"].trigger()
    panel = window.comparing.panel
    panel.add.click()
    panel.columns[2].method_chosen.emit("jbu")
    person.wait(lambda: all(column.scores.text() for column in panel.columns))
    person.take("compare")
    panel.modes[SWIPE].click()
    panel.lens.setCurrentIndex(panel.lens.findData("similarity"))
    panel.lens.activated.emit(panel.lens.currentIndex())
    person.wait(lambda: panel.single.has_lens)
    person.take("divider")
    window.comparing.close()

    window.inspector.setCurrentWidget(window.inspector.lenses["cam"])
    cam = window.inspector.lenses["cam"]
    cam.minus.setText("cup")
    cam.minus.returnPressed.emit()
    person.wait()
    person.take("classes")
    cam.minus.clear()

    window.opener.open(sample_images())
    person.arrive("astronaut.jpg")
    window.actions_by_name["next"].trigger()
    person.arrive("cat.jpg")
    window.inspector.setCurrentWidget(tab)
    person.click("image", (170, 110))
    tab.query_panel.pin.click()
    person.wait()
    window.actions_by_name["previous"].trigger()
    person.arrive("astronaut.jpg")
    person.take("strip")
    window.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=HELP)
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()
