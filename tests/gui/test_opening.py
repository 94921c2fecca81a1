"""Every way to open a picture, and what happens when it is none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Picture
from PySide6.QtCore import QMimeData, Qt, QUrl
from PySide6.QtGui import QGuiApplication, QImage
from PySide6.QtWidgets import QFileDialog

from featup_app.engine.preferences import load_preferences
from featup_app.images import sample_images


@pytest.fixture
def photo(tmp_path):
    """A photograph of odd size, in a folder of its own."""
    path = tmp_path / "pictures" / "odd photo.png"
    path.parent.mkdir()
    Picture.open(sample_images()[1]).resize((151, 97)).save(path)
    return path


def test_command_line_dialog_drop_and_recent(start, photo, monkeypatch):
    driver = start(str(photo))
    driver.wait_until_idle()
    assert driver.studio.image.size_hw == (97, 151)
    assert "odd photo.png" in driver.window.windowTitle()

    cat = sample_images()[0]
    driver.drop(cat)
    driver.wait_for(lambda: driver.studio.image.name == cat.name)
    driver.wait_until_idle()
    assert driver.studio.views["pca"].facts.geometry.image_hw == (300, 451)

    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *args, **kwargs: ([str(photo)], ""))
    driver.window.actions_by_name["open"].trigger()
    driver.wait_for(lambda: driver.studio.image.name == photo.name)
    driver.wait_until_idle()

    menu = driver.window.opener.recent_menu
    menu.aboutToShow.emit()
    assert [action.text() for action in menu.actions()] == [str(photo)], (
        "samples that ship are not among the recent files"
    )
    driver.window.close()
    assert load_preferences().recent == [str(photo)]
    assert load_preferences().settings.input_size == "112"


def test_paste_pixels_and_a_copied_file(start, photo):
    driver = start(photo)
    driver.wait_until_idle()
    image = QImage(40, 30, QImage.Format.Format_RGB32)
    image.fill(Qt.GlobalColor.red)
    QGuiApplication.clipboard().setImage(image)
    driver.window.actions_by_name["paste"].trigger()
    driver.wait_for(lambda: driver.studio.image.name == "pasted image")
    driver.wait_until_idle()
    assert driver.studio.image.size_hw == (30, 40)
    assert (driver.studio.image.pixels == (255, 0, 0)).all()
    assert driver.views["pca"].has_lens
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(photo))])
    QGuiApplication.clipboard().setMimeData(data)
    driver.window.actions_by_name["paste"].trigger()
    driver.wait_for(lambda: driver.studio.image.name == photo.name)
    driver.wait_until_idle()
    QGuiApplication.clipboard().setText("no picture")
    driver.window.actions_by_name["paste"].trigger()
    assert "no picture on the clipboard" in driver.window.notice.text.text()


def test_a_bad_file_is_reported_and_loses_nothing(start, photo, tmp_path):
    driver = start(photo)
    driver.wait_until_idle()
    before = driver.studio.views["pca"]
    text, cut, empty = tmp_path / "notes.jpg", tmp_path / "cut.jpg", tmp_path / "empty.png"
    text.write_text("these are notes")
    cut.write_bytes(sample_images()[0].read_bytes()[:9000])
    empty.touch()
    for bad in (text, cut, empty, tmp_path / "missing.png", tmp_path):
        driver.drop(bad)
        driver.wait_for(
            lambda bad=bad: driver.window.notice.isVisible() and bad.name in driver.window.notice.text.text()
        )
        sentence = driver.window.notice.text.text()
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert "What to do" in driver.window.notice.details.toPlainText()
        assert not driver.window.notice.details.isVisible(), "details only on demand"
        driver.window.notice.details_button.click()
        assert driver.window.notice.details.isVisible()
        driver.window.notice.hide()
    driver.wait_until_idle()
    assert driver.studio.image.name == photo.name
    assert driver.studio.views["pca"] is before
    driver.click("pca", 20, 20)
    driver.wait_until_idle()
    assert driver.studio.views["similarity"].request.point == pytest.approx((20, 20), abs=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (300, 2)])
def test_extreme_shapes_open(start, config, tmp_path, shape):
    config(output_size="2x")
    path = tmp_path / "extreme.png"
    Picture.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path)
    driver = start(path)
    driver.wait_until_idle()
    assert not driver.window.notice.isVisible(), driver.window.notice.text.text()
    assert driver.studio.image.size_hw == shape
    for name in ("pca", "similarity", "cam"):
        assert driver.views[name].has_lens


def test_a_missing_file_on_the_command_line_leaves_a_living_window(start, tmp_path):
    driver = start(tmp_path / "nowhere.jpg")
    driver.wait_for(driver.window.notice.isVisible)
    assert "nowhere.jpg" in driver.window.notice.text.text()
    driver.drop(sample_images()[0])
    driver.wait_for(lambda: "pca" in driver.studio.views)


def test_without_a_picture_the_window_shows_three_ways_to_open_one(start, tmp_path):
    driver = start(tmp_path / "missing.png")
    driver.wait_for(lambda: driver.window.empty.isVisible())
    assert not driver.window.grid.isVisible()
    assert "missing.png" in driver.window.notice.text.text()
    assert driver.window.empty.open.isVisible()
    driver.window.empty.sample.click()
    driver.wait_for(lambda: driver.studio.image is not None)
    driver.wait_until_idle()
    assert driver.window.grid.isVisible()
    assert not driver.window.empty.isVisible()
