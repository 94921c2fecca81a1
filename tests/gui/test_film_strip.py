"""Several pictures: opened as a folder, as files and by a drop, walked through by keys, with broken ones among them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image as Picture
from PySide6.QtCore import QMimeData, Qt, QUrl
from PySide6.QtGui import QContextMenuEvent, QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QFileDialog, QMenu

from featup_app.engine.picture_list import State
from featup_app.engine.preferences import FILE_NAME, load_preferences
from featup_app.images import failures, sample_images

NAMES = ["photo 1.png", "photo 2.png", "photo 3.png", "photo 10.png"]


def write(path, number: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (60 + 2 * number, 84, 3), dtype=np.uint8)
    Picture.fromarray(pixels).save(path)


@pytest.fixture
def album(tmp_path):
    """A folder of four small pictures; no order of their names as texts is that of their numbers."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        write(folder / name, number)
    return folder


def settle(driver, name: str) -> None:
    """A picture is shown, and its views."""
    driver.wait_for(lambda: driver.studio.image is not None and driver.studio.image.name == name)
    driver.wait_until_idle()


def press(driver, key: Qt.Key, widget=None) -> None:
    QTest.keyClick(widget or driver.window, key)


def row(driver):
    return driver.window.strip.strip.row


def pictures(driver):
    return driver.window.strip.pictures


def test_keys_and_clicks_walk_through_a_folder_and_the_settings_stay(start, album):
    driver = start(album)
    settle(driver, NAMES[0])
    strip = driver.window.strip.strip
    assert strip.isVisible()
    assert [picture.name for picture in pictures(driver).pictures] == NAMES
    assert strip.position.text() == "1 of 4"
    driver.window.controls.method.setCurrentIndex(driver.window.controls.method.findData("bilinear"))
    driver.window.controls.method.activated.emit(driver.window.controls.method.currentIndex())
    driver.wait_until_idle()
    tab = driver.window.inspector.lenses["similarity"]
    tab.colormap.setCurrentText("magma")
    settings, requests = driver.studio.settings, driver.studio.requests
    assert settings.method == "bilinear"

    press(driver, Qt.Key.Key_PageDown)
    settle(driver, NAMES[1])
    assert driver.studio.settings == settings
    assert driver.studio.requests["similarity"].colormap == "magma"
    assert driver.studio.requests["similarity"].point == (42.0, 31.0), "the middle of the other picture"
    assert driver.studio.requests["pca"] == requests["pca"]
    assert strip.position.text() == "2 of 4"
    assert driver.views["pca"].has_lens

    driver.window.controls.output.setFocus()  # from anywhere in the window
    press(driver, Qt.Key.Key_PageDown, driver.window.controls.output)
    settle(driver, NAMES[2])
    press(driver, Qt.Key.Key_PageUp, driver.views["pca"])
    settle(driver, NAMES[1])

    row(driver).setFocus()
    press(driver, Qt.Key.Key_End, row(driver))
    settle(driver, NAMES[3])
    press(driver, Qt.Key.Key_PageDown)  # there is no next one
    driver.wait_until_idle()
    assert driver.studio.image.name == NAMES[3]
    press(driver, Qt.Key.Key_Left, row(driver))
    settle(driver, NAMES[2])
    press(driver, Qt.Key.Key_Home, row(driver))
    settle(driver, NAMES[0])
    QTest.mouseClick(row(driver).viewport(), Qt.MouseButton.LeftButton, pos=row(driver).place_of(2))
    settle(driver, NAMES[2])
    assert pictures(driver).shown == 2


def test_a_key_may_be_pressed_faster_than_pictures_open(start, album):
    driver = start(album)
    settle(driver, NAMES[0])
    for _ in range(3):
        press(driver, Qt.Key.Key_PageDown)
    assert pictures(driver).asked == 3
    settle(driver, NAMES[3])
    assert (pictures(driver).shown, pictures(driver).asked) == (3, None)


def test_dialogs_drops_and_the_clipboard_open_several(start, album, monkeypatch):
    cat, coffee, _ = sample_images()
    driver = start(cat)
    settle(driver, cat.name)
    window, strip = driver.window, driver.window.strip.strip
    assert not strip.isVisible()
    assert not window.actions_by_name["next"].isEnabled(), "Page Down is free for other things"

    chosen = [str(album / NAMES[3]), str(album / NAMES[0])]
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *args, **kwargs: (chosen, ""))
    window.actions_by_name["open"].trigger()
    settle(driver, NAMES[0])
    assert [picture.name for picture in pictures(driver).pictures] == [NAMES[0], NAMES[3]]
    assert strip.isVisible()
    press(driver, Qt.Key.Key_PageDown)
    settle(driver, NAMES[3])
    window.opener.recent_menu.aboutToShow.emit()
    recent = [action.text() for action in window.opener.recent_menu.actions()]
    assert recent == [str(album / NAMES[0])], "what was opened, and not what was walked to"

    driver.drop(cat)
    settle(driver, cat.name)
    assert not strip.isVisible()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *args, **kwargs: str(album))
    window.actions_by_name["open_folder"].trigger()
    settle(driver, NAMES[0])
    assert len(pictures(driver)) == 4
    driver.drop(coffee, album)
    settle(driver, NAMES[0] if str(album) < str(coffee.parent) else coffee.name)
    driver.wait_for(lambda: len(pictures(driver)) == 5)

    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in (album / NAMES[1], album / NAMES[2])])
    QGuiApplication.clipboard().setMimeData(data)
    window.actions_by_name["paste"].trigger()
    settle(driver, NAMES[1])
    assert len(pictures(driver)) == 2

    driver.drop(album / NAMES[2])  # one of the list is gone to
    settle(driver, NAMES[2])
    assert len(pictures(driver)) == 2


def test_a_pasted_picture_leaves_the_strip_where_it_was(start, album):
    driver = start(album)
    settle(driver, NAMES[0])
    press(driver, Qt.Key.Key_PageDown)
    settle(driver, NAMES[1])
    driver.studio.open_pixels(np.zeros((40, 30, 3), np.uint8), "pasted image")
    settle(driver, "pasted image")
    assert driver.window.strip.strip.isVisible()
    assert driver.window.strip.strip.position.text() == "– of 4"
    press(driver, Qt.Key.Key_PageDown)
    settle(driver, NAMES[2])


def test_broken_pictures_are_marked_with_why_and_passed_over(start, album, monkeypatch):
    (album / "photo 0.png").touch()
    (album / "photo 4.jpg").write_text("these are notes")
    (album / "photo 5.jpg").write_bytes(sample_images()[0].read_bytes()[:9000])
    Picture.fromarray(np.zeros((400, 400, 3), np.uint8)).save(album / "photo 11.png")
    monkeypatch.setattr(failures, "MAX_PIXELS", 150_000)
    driver = start(album)
    driver.window.resize(1300, 700)  # so that all can be seen
    settle(driver, NAMES[0])  # the first that can be read
    strip = driver.window.strip.strip
    driver.wait_for(lambda: pictures(driver).broken == 4)
    found = pictures(driver).pictures
    why = {picture.name: picture.why for picture in found if picture.broken}
    assert set(why) == {"photo 0.png", "photo 4.jpg", "photo 5.jpg", "photo 11.png"}
    for name, part in (("photo 0", "empty"), ("photo 4", "text"), ("photo 5", "cut short"), ("photo 11", "limit")):
        assert part in next(sentence for each, sentence in why.items() if each.startswith(f"{name}."))
    assert strip.broken.text() == "4 broken"
    index = next(i for i, picture in enumerate(found) if picture.name == "photo 4.jpg")
    model = strip.thumbnails
    assert model.data(model.index(index), Qt.ItemDataRole.ToolTipRole) == why["photo 4.jpg"]
    driver.wait_until_idle()
    assert not driver.window.notice.isVisible()

    press(driver, Qt.Key.Key_PageDown)
    settle(driver, NAMES[1])
    press(driver, Qt.Key.Key_PageDown)
    settle(driver, NAMES[2])
    press(driver, Qt.Key.Key_PageDown)
    settle(driver, NAMES[3])
    before = driver.studio.views["pca"]
    row(driver).asked.emit(index)  # a click tries it again
    driver.wait_for(driver.window.notice.isVisible)
    assert driver.window.notice.text.text() == why["photo 4.jpg"]
    driver.wait_until_idle()
    assert driver.studio.image.name == NAMES[3]
    assert driver.studio.views["pca"] is before

    write(album / "photo 4.png", 7)
    (album / "photo 4.png").replace(album / "photo 4.jpg")  # repaired meanwhile
    row(driver).asked.emit(index)
    settle(driver, "photo 4.jpg")
    assert pictures(driver).broken == 3


def test_a_folder_of_broken_pictures_loses_nothing(start, album, tmp_path):
    driver = start(album / NAMES[0])
    settle(driver, NAMES[0])
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in ("a.png", "b.png"):
        (bad / name).touch()
    driver.drop(bad)
    driver.wait_for(lambda: pictures(driver).broken == 2)
    driver.wait_until_idle()
    assert "b.png" in driver.window.notice.text.text()
    assert driver.studio.image.name == NAMES[0]
    (tmp_path / "nothing").mkdir()
    driver.drop(tmp_path / "nothing")
    driver.wait_for(lambda: "holds no pictures" in driver.window.notice.text.text())
    driver.window.notice.hide()
    driver.drop(tmp_path / "nothing")
    driver.wait_for(driver.window.notice.isVisible)  # said again
    assert driver.studio.image.name == NAMES[0]


def test_a_start_with_a_folder_without_pictures_offers_ways_to_open_one(start, tmp_path):
    (tmp_path / "nothing").mkdir()
    driver = start(tmp_path / "nothing")
    driver.wait_for(driver.window.notice.isVisible)
    assert "holds no pictures" in driver.window.notice.text.text()
    assert driver.window.empty.isVisible()
    driver.window.empty.sample.click()
    settle(driver, sample_images()[1].name)


def test_a_picture_that_is_removed_while_it_is_open(start, album):
    driver = start(album)
    settle(driver, NAMES[0])
    driver.wait_for(lambda: driver.window.strip.preparation.finished)
    before = driver.studio.views["pca"]
    (album / NAMES[1]).unlink()
    press(driver, Qt.Key.Key_PageDown)
    driver.wait_for(driver.window.notice.isVisible)
    driver.wait_until_idle()
    assert NAMES[1] in driver.window.notice.text.text()
    assert "there is no such file" in driver.window.notice.text.text()
    assert driver.studio.image.name == NAMES[0]
    assert driver.studio.views["pca"] is before
    assert pictures(driver).pictures[1].state is State.BROKEN
    (album / NAMES[0]).unlink()  # the one that is shown
    driver.click("pca", 20, 20)
    driver.wait_until_idle()
    assert driver.studio.views["similarity"].request.point == pytest.approx((20, 20), abs=1)
    press(driver, Qt.Key.Key_PageDown)
    settle(driver, NAMES[2])


def test_entries_are_taken_off_and_their_files_stay(start, album):
    driver = start(album)
    settle(driver, NAMES[0])
    row(driver).setFocus()
    press(driver, Qt.Key.Key_Delete, row(driver))
    settle(driver, NAMES[1])
    assert [picture.name for picture in pictures(driver).pictures] == NAMES[1:]
    place = row(driver).place_of(2)
    event = QContextMenuEvent(QContextMenuEvent.Reason.Mouse, place, row(driver).mapToGlobal(place))
    QApplication.sendEvent(row(driver).viewport(), event)
    menu = row(driver).findChild(QMenu)
    menu.actions()[0].trigger()
    menu.close()
    assert [picture.name for picture in pictures(driver).pictures] == NAMES[1:3]
    press(driver, Qt.Key.Key_End, row(driver))
    settle(driver, NAMES[2])
    press(driver, Qt.Key.Key_Delete, row(driver))
    settle(driver, NAMES[1])
    assert not driver.window.strip.strip.isVisible()
    assert sorted(path.name for path in album.iterdir()) == sorted(NAMES)


def test_thumbnails_are_made_of_what_can_be_seen(start, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        write(folder / f"{number}.png", number % 5)
    driver = start(folder)
    driver.window.resize(1000, 700)
    settle(driver, "0.png")
    model, seen = driver.window.strip.strip.thumbnails, row(driver).visible_rows()
    paths = [picture.path for picture in pictures(driver).pictures]
    driver.wait_for(lambda: all(model.thumbnail(paths[index]) is not None for index in seen))
    QTest.qWait(50)
    assert len(seen) < 15
    assert not any(model.has_thumbnail(path) for path in paths[30:])
    row(driver).setFocus()
    press(driver, Qt.Key.Key_End, row(driver))
    settle(driver, "59.png")
    driver.wait_for(lambda: model.thumbnail(paths[-1]) is not None)
    assert 59 in row(driver).visible_rows()
    assert not any(model.has_thumbnail(path) for path in paths[25:35])


def test_the_strip_is_put_away_and_that_is_remembered(start, album):
    driver = start(album)
    settle(driver, NAMES[0])
    action = driver.window.actions_by_name["strip"]
    assert action.isChecked()
    action.trigger()
    assert not driver.window.strip.strip.isVisible()
    press(driver, Qt.Key.Key_PageDown)  # the keys work all the same
    settle(driver, NAMES[1])
    driver.window.close()
    assert not load_preferences().strip
    again = start(album)
    settle(again, NAMES[0])
    assert not again.window.strip.strip.isVisible()
    again.window.actions_by_name["strip"].trigger()
    assert again.window.strip.strip.isVisible()


def test_several_pictures_of_the_command_line(start, config, album):
    driver = start(str(album / NAMES[2]), str(album / NAMES[1]))
    settle(driver, NAMES[1])
    assert [picture.name for picture in pictures(driver).pictures] == NAMES[1:3]
    assert json.loads((album.parent / "config" / FILE_NAME).read_text())["settings"]


def test_nothing_of_the_strip_is_cut_off(start, album):
    driver = start(album)
    driver.window.resize(1280, 720)
    settle(driver, NAMES[0])
    strip = driver.window.strip.strip
    assert row(driver).viewport().height() >= 76
    assert strip.geometry().bottom() < driver.window.centralWidget().height()
    for label in (strip.position, strip.broken):
        assert label.fontMetrics().horizontalAdvance(label.text()) <= label.width() or not label.isVisible()
    assert (driver.window.width(), driver.window.height()) == (1280, 720)


def test_compared_columns_follow_the_strip(start, album):
    driver = start(album)
    settle(driver, NAMES[0])
    comparing = driver.window.comparing
    driver.window.actions_by_name["compare"].trigger()
    driver.wait_until_idle()
    assert comparing.shown
    press(driver, Qt.Key.Key_PageDown)
    settle(driver, NAMES[1])
    assert comparing.shown
    assert comparing._comparison.image is driver.studio.image
    assert driver.window.strip.strip.isVisible()
    driver.wait_for(lambda: driver.window.strip.preparation.finished)


def test_a_low_window_shows_its_views_and_no_strip(start, album):
    driver = start(album)
    settle(driver, NAMES[0])
    for height, shown in ((430, False), (720, True)):
        driver.window.resize(800, height)
        QTest.qWait(50)
        assert driver.window.height() == height
        assert row(driver).isVisible() == shown
        assert driver.views["pca"].isVisible()
