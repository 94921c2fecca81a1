"""What a window computed is freed: of former pictures while it is open, and all of it with the window."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import numpy as np
import pytest
from PySide6.QtCore import QEvent
from PySide6.QtWidgets import QApplication

from featup_app.backbones import Backbone
from featup_app.features import FeatureMap
from featup_app.fields import FeatureField
from featup_app.gui import app as gui_app
from featup_app.images import Image, load_image, sample_images

TIMEOUT = 90_000
HEAVY = (Backbone, FeatureMap, FeatureField, Image)


@pytest.fixture
def driver(start):
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    return driver


def parts_of(window) -> dict[str, weakref.ref]:
    """Weak references to a window, to what it is made of, and to the pictures that it shows."""
    session = window.engine._session
    named = {"window": window, "studio": window.studio, "engine": window.engine, "session": session}
    named |= {f"image view {name}": view for name, view in window.grid.views.items()}
    named |= {"image": window.studio.image, **{f"lens view {name}": view for name, view in window.studio.views.items()}}
    return {name: weakref.ref(part) for name, part in named.items()}


def alive(parts: dict[str, weakref.ref]) -> list[str]:
    gc.collect()
    return [name for name, part in parts.items() if part() is not None]


def heavy_objects() -> Counter:
    """How many there are of each kind of object that holds arrays or tensors."""
    gc.collect()
    return Counter(kind.__name__ for found in gc.get_objects() for kind in HEAVY if issubclass(type(found), kind))


def open_picture(driver, number: int) -> None:
    """Open a picture of its own shape and content, and wait until all views show it."""
    pixels = np.random.default_rng(number).integers(0, 255, (90 + 10 * (number % 3), 120, 3), dtype=np.uint8)
    driver.studio.open_pixels(pixels, f"picture {number}")
    driver.wait_for(lambda: driver.studio.image.name == f"picture {number}")
    driver.wait_until_idle()


def test_a_deleted_window_leaves_nothing(start):
    before = heavy_objects()
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    parts = parts_of(driver.window)
    opened = heavy_objects() - before
    assert set(opened) == {kind.__name__ for kind in HEAVY}
    del driver
    start.close_all()
    assert alive(parts) == []
    assert not heavy_objects() - before


def test_a_closed_window_frees_its_session_at_once(driver):
    """Whoever still holds the window does not hold models and fields with it."""
    session, engine = weakref.ref(driver.window.engine._session), driver.window.engine
    driver.window.close()
    gc.collect()
    assert session() is None
    assert not engine.busy


def test_the_program_frees_its_window_when_it_is_closed(config, qtbot, qapp, monkeypatch):
    """A second ``main()`` of a process does not carry the first one's window along."""
    parts: list[weakref.ref] = []

    def run_until_closed(*_: object) -> int:
        window = next(w for w in QApplication.topLevelWidgets() if isinstance(w, gui_app.MainWindow) and w.isVisible())
        qtbot.waitUntil(lambda: "pca" in window.studio.views, timeout=TIMEOUT)
        parts.extend(map(weakref.ref, (window, window.studio, window.engine)))
        window.close()
        return 0

    monkeypatch.setattr(gui_app.QApplication, "exec", run_until_closed)
    assert gui_app.main(sample_images()[0]) == 0
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    assert [part() is None for part in parts] == [True] * 3


def test_pictures_of_before_are_let_go(driver):
    """After twelve pictures no more is kept than after six."""
    for number in range(6):
        open_picture(driver, number)
    full, counted = heavy_objects(), driver.window.engine.kept_bytes
    for number in range(6, 12):  # pictures of three sizes, each as often
        open_picture(driver, number)
    assert not heavy_objects() - full
    assert driver.window.engine.kept_bytes == counted


def test_dialogs_are_let_go(driver, monkeypatch, tmp_path):
    from featup_app.gui import export_desk
    from featup_app.gui import window as window_module
    from featup_app.gui.dialogs import OtherModelDialog
    from featup_app.gui.export_dialog import ExportDialog
    from featup_app.gui.preferences_dialog import PreferencesDialog

    dialogs: list[weakref.ref] = []
    for module, kind in (
        (export_desk, ExportDialog),
        (window_module, OtherModelDialog),
        (window_module, PreferencesDialog),
    ):

        class Rejected(kind):
            def exec(self) -> int:
                dialogs.append(weakref.ref(self))
                self.reject()
                return 0

        monkeypatch.setattr(module, kind.__name__, Rejected)
    driver.window.exporting.open_dialog()
    driver.window.controls.other_model_asked.emit()
    driver.window.actions_by_name["preferences"].trigger()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    assert len(dialogs) == 3
    assert [dialog() is None for dialog in dialogs] == [True] * 3


def test_an_answer_is_not_kept_by_the_thread_that_found_it(driver):
    """A worker that waits for its next job holds neither the last job's work nor its result."""

    def submit() -> weakref.ref:
        image = load_image(sample_images()[0])
        driver.window.engine.compute("a job of this test", lambda session, progress: image)
        return weakref.ref(image)

    kept = submit()
    driver.wait_until_idle()
    gc.collect()
    assert kept() is None
