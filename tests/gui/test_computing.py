"""Settings, failures and cancelling: the last good picture stays until there is a better one."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QTest

from featup_app.images import sample_images
from featup_app.lenses import PCALens, SimilarityLens


@pytest.fixture
def driver(start):
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    return driver


def type_into(box, text: str) -> None:
    edit = box.lineEdit()
    edit.selectAll()
    QTest.keyClicks(edit, text)
    QTest.keyClick(edit, Qt.Key.Key_Return)


def test_sizes_typed_by_hand(driver):
    controls, studio = driver.window.controls, driver.studio
    type_into(controls.output, "90x120")
    driver.wait_for(lambda: studio.views["pca"].facts.size == (90, 120))
    type_into(controls.output, "150")
    driver.wait_for(lambda: studio.views["pca"].facts.size == (150, 226))
    type_into(controls.input, "84")
    driver.wait_for(lambda: studio.views["pca"].facts.geometry.input_hw == (84, 126))
    driver.wait_until_idle()
    assert studio.views["similarity"].values.shape == (150, 226)
    assert studio.views["cam"].values.shape == (150, 226)


@pytest.mark.parametrize(
    ("box", "text", "part"),
    [
        ("output", "huge", "not understood"),
        ("output", "30000x30000", "would work"),
        ("input", "9000", "would work"),
        ("input", "0", ""),
    ],
)
def test_a_setting_that_fails_is_reported_and_undone(driver, box, text, part):
    controls, studio = driver.window.controls, driver.studio
    good, picture = studio.settings, studio.views["pca"]
    type_into(getattr(controls, box), text)
    driver.wait_for(driver.window.notice.isVisible)
    assert part in driver.window.notice.text.text()
    driver.wait_until_idle()
    assert studio.settings == good
    assert getattr(controls, box).currentText() == {"output": "4x", "input": "112"}[box]
    assert (studio.views["pca"].pixels == picture.pixels).all()
    driver.click("pca", 100, 100)
    driver.wait_until_idle()
    assert studio.views["similarity"].request.point == pytest.approx((100, 100), abs=1)


def test_a_backbone_that_cannot_be_had_offline(driver):
    controls, studio = driver.window.controls, driver.studio
    box = controls.backbone
    index = box.findData("vit_small_patch16_224.dino")
    assert "needs a download" in box.itemText(index)
    box.setCurrentIndex(index)
    box.activated.emit(index)
    driver.wait_for(driver.window.notice.isVisible)
    sentence = driver.window.notice.text.text()
    assert "vit_small_patch16_224.dino" in sentence
    driver.wait_until_idle()
    assert studio.settings.backbone == "dinov2-s14-imgfocus"
    assert box.currentData() == "dinov2-s14-imgfocus"


def test_the_other_bundled_backbone_and_its_layers(driver):
    controls, studio = driver.window.controls, driver.studio
    box = controls.backbone
    index = box.findData("tf_efficientnet_lite0")
    box.setCurrentIndex(index)
    box.activated.emit(index)
    driver.wait_for(lambda: studio.views["pca"].facts.backbone == "tf_efficientnet_lite0")
    driver.wait_until_idle()
    assert studio.views["cam"].note is None
    layers = [controls.layer.itemText(i) for i in range(controls.layer.count())]
    assert any("head" in title for title in layers)
    chosen = next(i for i, title in enumerate(layers) if "stage 2" in title)
    controls.layer.setCurrentIndex(chosen)
    controls.layer.activated.emit(chosen)
    driver.wait_for(lambda: studio.views["pca"].facts.layer == "stage 2")


def test_cancel_keeps_the_picture_and_answers_within_half_a_second(driver, monkeypatch):
    studio, before = driver.studio, driver.studio.views["pca"]
    running = threading.Event()

    def endless(self, request, looks, progress):
        step = 0
        while True:
            running.set()
            progress("working", step, 1000)
            step += 1
            time.sleep(0.01)

    monkeypatch.setattr(PCALens, "view", endless)
    QTest.keyClick(driver.window, Qt.Key.Key_F5)
    driver.wait_for(running.is_set)
    QTest.qWait(400)
    assert driver.views["pca"].stale, "dimmed while a newer one is computed"
    assert driver.views["pca"].has_lens
    assert driver.window.status.bar.isVisible()
    assert "working" in driver.window.status.stage.text()
    clicked = time.monotonic()
    QTest.mouseClick(driver.window.bar.cancel, Qt.MouseButton.LeftButton)
    driver.wait_for(lambda: not driver.window.engine.busy)
    assert time.monotonic() - clicked < 0.5
    QTest.qWait(50)
    assert studio.views["pca"] is before
    assert not driver.views["pca"].stale
    assert not driver.window.notice.isVisible(), "cancelling is not an error"
    assert not driver.window.bar.cancel.isEnabled()
    assert not driver.window.status.bar.isVisible()


def test_a_real_long_computation_can_be_cancelled(driver):
    studio = driver.studio
    measure = driver.window.inspector.lenses["similarity"].measure
    measure.setCurrentIndex(measure.findData("cosine"))  # reads all channels, which takes seconds
    driver.wait_until_idle()
    studio.choose(studio.settings.with_(output_size="700x1000"))
    driver.wait_for(lambda: (driver.window.engine.busy and "measuring" in driver.window.status.stage.text())
                    or "all channels" in driver.window.status.stage.text())  # fmt: skip
    clicked = time.monotonic()
    studio.cancel()
    driver.wait_for(lambda: not driver.window.engine.busy)
    # The bar is half a second on a free machine; this machine may be shared, and speed is not what tests are for.
    assert time.monotonic() - clicked < 5
    studio.choose(studio.settings.with_(output_size="4x"))
    driver.wait_until_idle()
    assert studio.views["similarity"].values.shape == studio.views["pca"].values.shape[1:]


def test_an_unexpected_error_is_explained_and_its_report_can_be_copied(driver, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("something impossible")

    monkeypatch.setattr(SimilarityLens, "view", broken)
    driver.click("pca", 100, 100)
    driver.wait_for(driver.window.notice.isVisible)
    assert "unexpected" in driver.window.notice.text.text()
    driver.window.notice.details_button.click()
    explanation = driver.window.notice.details.toPlainText()
    for words in (driver.studio.image.name, "Method: ", "What to do: ", "defect of the program"):
        assert words in explanation
    assert "Traceback" not in explanation
    driver.window.notice.copy_report.click()
    report = QGuiApplication.clipboard().text()
    assert "ZeroDivisionError" in report
    assert "torch" in report
    assert str(Path.home()) not in report
    driver.wait_until_idle()
    assert driver.views["similarity"].has_lens
    monkeypatch.undo()


def test_late_answers_are_dropped(driver):
    studio = driver.studio
    for x in range(20, 200, 20):
        studio.choose_query((float(x), 50.0))
    driver.wait_until_idle()
    assert studio.views["similarity"].request.point == (180.0, 50.0)


def test_the_window_stays_alive_while_the_engine_works(driver):
    """Ticks of a timer on the window's thread go on during a long computation (no bound on speed: only not frozen)."""
    studio, gaps, last = driver.studio, [], [time.monotonic()]
    studio.choose(studio.settings.with_(output_size="700x1000"))
    for _ in range(60):
        QTest.qWait(5)
        now = time.monotonic()
        gaps.append(now - last[0])
        last[0] = now
    assert driver.window.engine.busy or studio.views["similarity"].values.shape == (700, 1000)
    assert max(gaps) < 2
    studio.cancel()
