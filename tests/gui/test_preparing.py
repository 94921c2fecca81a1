"""What neighbours of the shown picture need is computed ahead: it is used, and it gives way to everything that is asked for."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image as Picture
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from featup_app.backbones import Backbone
from featup_app.base.errors import BackboneError, Cancelled
from featup_app.engine import memory, picture_list
from featup_app.engine.session import Session

NAMES = [f"{number}.png" for number in range(1, 5)]
PATIENCE = 60.0


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 80 + number, 3), dtype=np.uint8)
        Picture.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def plenty(monkeypatch):
    """Preparing does not depend on what other programs leave of this machine's memory."""
    monkeypatch.setattr(memory, "PREPARE_BYTES", 0)


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """Every run of a backbone, as it happens."""
    seen: list[str] = []
    for name in ("extract", "logits"):
        original = getattr(Backbone, name)

        def counted(self, *args, name=name, original=original, **kwargs):
            seen.append(f"{self.name} {name}")
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Backbone, name, counted)
    return seen


def preparation(driver):
    return driver.window.strip.preparation


def settle(driver, name: str) -> None:
    driver.wait_for(lambda: driver.studio.image is not None and driver.studio.image.name == name)
    driver.wait_until_idle()


def step(driver, key: Qt.Key = Qt.Key.Key_PageDown) -> None:
    QTest.keyClick(driver.window, key)


def test_the_next_picture_needs_no_run_of_a_backbone_and_is_not_read_again(start, album, plenty, runs, monkeypatch):
    read: list[str] = []
    load = picture_list.load_image
    monkeypatch.setattr(picture_list, "load_image", lambda path: (read.append(path.name), load(path))[1])
    driver = start(album)
    settle(driver, NAMES[0])
    driver.wait_for(lambda: preparation(driver).finished)
    assert {path.name for path in preparation(driver).prepared} == {NAMES[1]}
    asked = list(runs)
    assert len(asked) == 6, "features, classes and their features, of two pictures"
    driver.window.engine.cancel("prepare")
    preparation(driver)._held = lambda: True  # nothing more ahead, so that what is run is run for the picture
    step(driver)
    settle(driver, NAMES[1])
    assert set(driver.studio.views) >= {"pca", "similarity", "cam"}
    assert runs == asked
    assert read == NAMES[:2]


def test_both_neighbours_are_prepared_the_next_one_first(start, album, plenty, runs):
    driver = start(album)
    settle(driver, NAMES[0])
    step(driver)
    settle(driver, NAMES[1])
    driver.wait_for(lambda: NAMES[2] in {path.name for path in preparation(driver).prepared})
    driver.wait_for(lambda: preparation(driver).finished)
    assert {path.name for path in preparation(driver).prepared} == {NAMES[0], NAMES[2]}
    asked = list(runs)
    driver.click("pca", 20, 20)
    driver.wait_until_idle()
    assert runs == asked, "what is shown has not been pushed out"
    driver.window.actions_by_name["view_pca"].trigger()
    assert driver.window.controls.method.count() > 1
    driver.studio.choose(driver.studio.settings.with_(input_size="98"))
    driver.wait_until_idle()
    driver.wait_for(lambda: preparation(driver).finished)
    assert {path.name for path in preparation(driver).prepared} == {NAMES[0], NAMES[2]}
    assert len(runs) > len(asked), "other settings need other features"


class Slow:
    """Stands for ``Session.prepare``: goes on until it is cancelled or let go."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self.let = threading.Event()

    def __call__(self, session, image, settings, first, shown, progress) -> bool:
        self.begun += 1
        try:
            while not self.let.wait(0.005):
                progress("features", 1, 100)
        except Cancelled:
            self.cancelled += 1
            raise
        return True


@pytest.fixture
def slow(monkeypatch):
    slow = Slow()
    monkeypatch.setattr(Session, "prepare", lambda *arguments: slow(*arguments))
    yield slow
    slow.let.set()


def test_whatever_the_person_does_comes_first(start, album, slow):
    driver = start(album)
    settle(driver, NAMES[0])
    driver.wait_for(lambda: slow.begun == 1)
    status, window = driver.window.status, driver.window
    QTest.qWait(400)
    assert not status.bar.isVisible(), "nobody has asked for it"
    assert not window.bar.cancel.isEnabled()
    assert not window.engine.busy

    before = driver.studio.views["similarity"]
    driver.click("pca", 20, 20)
    driver.wait_for(lambda: driver.studio.views["similarity"] is not before)
    assert slow.cancelled == 1
    driver.wait_for(lambda: slow.begun == 2)  # and begins again when it is answered

    driver.studio.choose(driver.studio.settings.with_(method="bilinear"))
    driver.wait_until_idle()
    assert slow.cancelled == 2
    driver.wait_for(lambda: slow.begun == 3)

    step(driver)
    settle(driver, NAMES[1])
    assert slow.cancelled == 3
    driver.wait_for(lambda: slow.begun == 4)
    driver.studio.cancel()
    driver.wait_for(lambda: slow.cancelled == 4)
    slow.let.set()
    driver.wait_for(lambda: preparation(driver).finished)
    assert len(preparation(driver).prepared) == 2


def test_closing_the_window_does_not_wait_for_it(start, album, slow):
    driver = start(album)
    settle(driver, NAMES[0])
    driver.wait_for(lambda: slow.begun == 1)
    driver.window.close()
    assert slow.cancelled == 1


def test_nothing_is_prepared_during_a_training_or_a_fit(start, album, slow, monkeypatch):
    driver = start(album)
    held = True
    monkeypatch.setattr(preparation(driver), "_held", lambda: held or driver.window._is_held())
    settle(driver, NAMES[0])
    QTest.qWait(600)
    assert slow.begun == 0
    assert not driver.window._is_held()
    monkeypatch.setattr(type(driver.window.training), "running", property(lambda desk: True))
    assert driver.window._is_held()
    held = False
    QTest.qWait(600)
    assert slow.begun == 0
    monkeypatch.setattr(type(driver.window.training), "running", property(lambda desk: False))
    driver.wait_for(lambda: slow.begun == 1)


def test_one_picture_has_no_neighbours(start, album, slow):
    driver = start(album / NAMES[0])
    settle(driver, NAMES[0])
    driver.wait_for(lambda: preparation(driver).finished)
    assert slow.begun == 0


def test_a_neighbour_that_cannot_be_read_is_marked_and_the_one_behind_is_prepared(start, album, plenty, runs):
    driver = start(album)
    settle(driver, NAMES[0])
    driver.wait_for(lambda: preparation(driver).finished)
    (album / NAMES[1]).unlink()
    (album / NAMES[2]).write_bytes(b"")
    driver.studio.choose(driver.studio.settings.with_(method="bilinear"))
    driver.wait_until_idle()
    driver.wait_for(lambda: NAMES[3] in {path.name for path in preparation(driver).prepared})
    found = driver.window.strip.pictures.pictures
    assert [picture.broken for picture in found] == [False, True, True, False]
    assert "no such file" in found[1].why
    assert not driver.window.notice.isVisible(), "nobody has asked for it"


def test_a_neighbour_that_fails_is_tried_once_and_quietly(start, album, monkeypatch):
    tried: list[str] = []

    def failing(self, image, settings, first, shown, progress):
        tried.append(image.name)
        raise BackboneError("for the test")

    monkeypatch.setattr(Session, "prepare", failing)
    driver = start(album)
    settle(driver, NAMES[0])
    driver.wait_for(lambda: preparation(driver).finished)
    QTest.qWait(400)
    assert tried == [NAMES[1]]
    assert not driver.window.notice.isVisible()
