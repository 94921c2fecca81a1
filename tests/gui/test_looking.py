"""Looking at an image: four views of the same point."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, QRectF, Qt
from PySide6.QtGui import QGuiApplication, QImage
from PySide6.QtTest import QTest

from featup_app.images import load_image, resized, sample_images


@pytest.fixture
def driver(start):
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    return driver


def test_first_start_shows_a_sample_with_all_its_views(start, config):
    config()  # nothing remembered: the defaults
    driver = start()
    assert driver.window.isVisible()
    driver.wait_until_idle()
    studio = driver.studio
    assert studio.image is not None
    assert studio.image.name in [path.name for path in sample_images()]
    assert studio.settings.method == "attention"
    for name in ("pca", "similarity", "cam"):
        assert driver.views[name].has_lens, name
        assert driver.views[name].subtitle.text(), name
    assert not driver.window.notice.isVisible()
    assert "espresso" in driver.views["cam"].subtitle.text()
    assert "EfficientNet-Lite0" in driver.window.inspector.lenses["cam"].note.text()
    # 16 times the grid of 48 x 32 cells
    assert studio.views["pca"].picture().shape == (512, 768, 3)


def test_the_window_appears_before_torch_is_imported():
    script = """
import sys
from PySide6.QtCore import QTimer
from featup_app.gui import app, window
shown = []
def show_event(self, event):
    shown.append("torch" in sys.modules or "timm" in sys.modules)
    QTimer.singleShot(0, self.close)
window.MainWindow.showEvent = show_event
app.main(fresh=True)
print("SHOWN", shown)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert "SHOWN [False]" in done.stdout


def test_a_click_compares_everything_with_that_pixel(driver):
    for clicked, point in (("image", (120.5, 90.5)), ("pca", (300.5, 200.5)), ("cam", (40.5, 260.5))):
        driver.click(clicked, *point)
        driver.wait_until_idle()
        view = driver.studio.views["similarity"]
        assert view.request.point == pytest.approx(point, abs=1.5)
        row, column = view.facts.geometry.pixel_of(view.request.point, view.facts.size)
        assert view.values[row, column] == pytest.approx(1, abs=1e-5)
        assert view.values.min() >= -1
        assert view.values.max() <= 1
        assert driver.window.inspector.lenses["similarity"].x_box.value() == pytest.approx(point[0], abs=1.5)
    assert driver.views["similarity"].subtitle.text().startswith("to x 40")


def test_the_arrow_keys_move_the_query_by_output_pixels(driver):
    driver.views["pca"].setFocus()
    before, size = driver.studio.query, driver.studio.views["similarity"].facts.size
    height, width = driver.studio.image.size_hw
    QTest.keyClick(driver.views["pca"], Qt.Key.Key_Right)
    QTest.keyClick(driver.views["pca"], Qt.Key.Key_Up, Qt.KeyboardModifier.ShiftModifier)
    driver.wait_until_idle()
    moved = driver.studio.views["similarity"].request.point
    assert moved[0] - before[0] == pytest.approx(width / size[1])
    assert before[1] - moved[1] == pytest.approx(10 * height / size[0])


def test_hover_shows_place_and_values_and_one_crosshair_everywhere(driver):
    driver.hover("similarity", 200, 100)
    text = driver.window.status.point.text()
    view = driver.studio.views["similarity"]
    x, y = (float(part) for part in text.replace("x", "").split("│")[0].split("y"))
    assert (x, y) == pytest.approx((200, 100), abs=1.5)
    row, column = view.facts.geometry.pixel_of((x, y), view.facts.size)
    assert f"sim {view.values[row, column]:+.2f}".replace("-", "−") in text
    for image_view in driver.views.values():
        vertical, horizontal = image_view._crosshair
        assert vertical.isVisible()
        assert (vertical.value(), horizontal.value()) == pytest.approx((200, 100), abs=1.5)


def test_views_zoom_and_move_together(driver):
    start = driver.seen("image")
    driver.wheel("pca", 150, 100, 3)
    zoomed = driver.seen("pca")
    assert zoomed[2] > start[2] * 1.1
    for view in driver.views:
        assert driver.seen(view) == pytest.approx(zoomed, rel=1e-3)
    driver.drag("cam", (220, 150), QPoint(60, 30))
    moved = driver.seen("cam")
    assert moved[0] == pytest.approx(zoomed[0] - 60 / zoomed[2], abs=2)
    assert moved[1] == pytest.approx(zoomed[1] - 30 / zoomed[2], abs=2)
    for view in driver.views:
        assert driver.seen(view) == pytest.approx(moved, rel=1e-3)
    driver.window.actions_by_name["fit"].trigger()
    for view in driver.views:
        assert driver.seen(view)[:2] == pytest.approx(start[:2], abs=0.5)


def test_one_view_alone_and_all_four_again(driver):
    before = driver.seen("image")
    QTest.mouseClick(driver.views["pca"].maximise, Qt.MouseButton.LeftButton)
    assert [name for name, view in driver.views.items() if view.isVisible()] == ["pca"]
    QTest.qWait(50)
    assert driver.seen("pca")[2] > before[2] * 1.3
    QTest.keyClick(driver.window, Qt.Key.Key_2)
    assert all(view.isVisible() for view in driver.views.values())
    QTest.qWait(50)
    assert driver.seen("image") == pytest.approx(before, rel=0.01)


def test_a_double_click_shows_one_view_and_leaves_the_query(driver):
    driver.click("pca", 300, 120)
    driver.wait_until_idle()
    query, shown = driver.studio.query, driver.studio.views["similarity"].values
    canvas, place = driver.views["pca"].canvas, driver.place("pca", 100, 200)
    queries = []
    driver.studio.query_changed.connect(queries.append)
    for part in (QTest.mouseClick, QTest.mouseDClick, QTest.mouseRelease):  # the first half is a click
        part(canvas, Qt.MouseButton.LeftButton, pos=place)
    assert driver.window.grid.alone == "pca"
    assert queries[0] != query
    assert driver.studio.query == query
    driver.wait_until_idle()
    assert driver.studio.requests["similarity"].point == query
    assert np.array_equal(driver.studio.views["similarity"].values, shown)


def test_the_zoom_has_limits_and_stops_at_whole_pixels(driver):
    grid, dense = driver.window.grid, driver.window.devicePixelRatioF()
    fitting = driver.seen("pca")[2]
    for _ in range(60):
        QTest.keyClick(driver.window, Qt.Key.Key_Plus)
    most = driver.seen("pca")[2]
    assert most == pytest.approx(64 / dense, rel=1e-3)
    QTest.keyClick(driver.window, Qt.Key.Key_Minus)
    assert driver.seen("pca")[2] == pytest.approx(0.8 * most, rel=1e-3), "no step was counted beyond the limit"
    scales = []
    for _ in range(60):
        QTest.keyClick(driver.window, Qt.Key.Key_Minus)
        scales.append(driver.seen("pca")[2])
    assert scales[-1] == pytest.approx(min(fitting / 4, 1 / dense), rel=0.1)
    assert any(scale == pytest.approx(1 / dense, rel=1e-3) for scale in scales)
    QTest.keyClick(driver.window, Qt.Key.Key_0, Qt.KeyboardModifier.ControlModifier)
    assert driver.seen("pca")[2] == pytest.approx(1 / dense, rel=1e-3)
    driver.wheel("pca", 200, 150, -40)
    assert grid._seen()[1] >= scales[-1] * 0.99


def test_a_copied_view_is_what_is_seen(driver):
    view = driver.views["pca"]
    driver.window.grid.views["pca"].setFocus()
    copies = []
    for percent in (100, 40, 0):
        view.opacity.setValue(percent)
        driver.window.actions_by_name["copy"].trigger()
        copied = QGuiApplication.clipboard().image().convertToFormat(QImage.Format.Format_RGB888)
        rows = np.frombuffer(copied.constBits(), np.uint8).reshape(copied.height(), copied.bytesPerLine())
        copies.append(rows[:, : 3 * copied.width()].reshape(copied.height(), copied.width(), 3).astype(float))
    picture = driver.studio.views["pca"].picture()
    assert (copies[0] == picture).all()
    assert np.abs(copies[1] - (0.4 * copies[0] + 0.6 * copies[2])).max() <= 1
    assert np.abs(copies[2] - resized(driver.studio.image.pixels, picture.shape[:2])).max() == 0


def test_the_class_search_offers_whole_words_first(driver):
    tab = driver.window.inspector.lenses["cam"]
    driver.window.inspector.setCurrentWidget(tab)
    tab.search.setFocus()
    QTest.keyClicks(tab.search, "cup")
    offered = [tab.search.completer().completionModel().index(row, 0).data() for row in range(3)]
    assert offered[0] == "cup"
    assert not any("porcupine" in name for name in offered[:2])
    tab.search.completer().popup().hide()


def test_opacity_lays_the_lens_over_the_image(driver):
    view = driver.views["pca"]
    view.opacity.setValue(0)
    QTest.qWait(30)
    shown = view.canvas.grab().toImage()
    image = driver.studio.image.pixels
    # The mark of the query lies in the middle, so look elsewhere.
    for x, y in ((60, 60), (400, 60), (100, 240)):
        place = driver.place("pca", x, y)
        colour = shown.pixelColor(place)
        around = image[y - 4 : y + 4, x - 4 : x + 4].reshape(-1, 3).astype(int)
        seen = np.array([colour.red(), colour.green(), colour.blue()])
        assert (abs(around - seen).max(axis=1)).min() < 40
    view.opacity.setValue(100)
    QTest.qWait(30)
    assert view.canvas.grab().toImage() != shown


def test_components_fit_and_method_change_the_pca(driver):
    studio, inspector = driver.studio, driver.window.inspector
    first = studio.views["pca"]
    QTest.mouseClick(inspector.lenses["pca"].triples[1], Qt.MouseButton.LeftButton)
    driver.wait_until_idle()
    assert studio.views["pca"].numbers == (4, 5, 6)
    assert (studio.views["pca"].pixels != first.pixels).any()
    inspector.lenses["pca"].channels[0].setCurrentText("9")
    inspector.lenses["pca"].channels[0].activated.emit(8)
    driver.wait_until_idle()
    assert studio.views["pca"].numbers == (9, 5, 6)
    QTest.mouseClick(inspector.lenses["pca"].triples[0], Qt.MouseButton.LeftButton)
    driver.wait_until_idle()
    assert (studio.views["pca"].pixels == first.pixels).all()
    box = driver.window.controls.method
    box.setCurrentIndex(box.findData("lowres"))
    box.activated.emit(box.currentIndex())
    driver.wait_until_idle()
    assert studio.views["pca"].facts.method == "lowres"
    blocks = studio.views["pca"].pixels[:4, :4].reshape(-1, 3)
    assert (blocks == blocks[0]).all(), "low-res shows one square per cell"


def test_another_class_by_list_and_by_name(driver):
    studio, tab = driver.studio, driver.window.inspector.lenses["cam"]
    assert "cat" in studio.views["cam"].chosen.name.lower()
    second = tab.top.item(1).data(Qt.ItemDataRole.UserRole)
    driver.window.inspector.setCurrentWidget(tab)
    QTest.qWait(50)
    place = tab.top.visualItemRect(tab.top.item(1)).center()
    QTest.mouseClick(tab.top.viewport(), Qt.MouseButton.LeftButton, pos=place)
    driver.wait_for(lambda: studio.views["cam"].chosen.index == second)
    tab.search.setFocus()
    QTest.keyClicks(tab.search, "espresso")
    QTest.keyClick(tab.search, Qt.Key.Key_Return)
    driver.wait_for(lambda: studio.views["cam"].chosen.name == "espresso")
    QTest.keyClicks(tab.search, " no such thing")
    QTest.keyClick(tab.search, Qt.Key.Key_Return)
    driver.wait_for(driver.window.notice.isVisible)
    assert "no such thing" in driver.window.notice.text.text()
    driver.wait_until_idle()
    assert studio.views["cam"].chosen.name == "espresso", "the last good map stays"
    assert not driver.views["cam"].stale


def choose(box, name: str) -> None:
    """Choose an entry of a box with the keyboard, as a person does."""
    box.setFocus()
    QTest.keyClick(box, Qt.Key.Key_Home)
    while box.currentData() != name:
        before = box.currentIndex()
        QTest.keyClick(box, Qt.Key.Key_Down)
        assert box.currentIndex() > before, f"{name} is not in the box"


def test_methods_of_class_maps_a_class_less_another_and_the_average_drop(driver):
    studio, tab = driver.studio, driver.window.inspector.lenses["cam"]
    driver.window.inspector.setCurrentWidget(tab)
    QTest.qWait(50)
    plain = studio.views["cam"]
    choose(tab.method, "layercam")
    driver.wait_for(lambda: studio.views["cam"].kind == "LayerCAM")
    driver.wait_until_idle()
    assert "LayerCAM for" in tab.note.text()
    QTest.mouseClick(tab.drop, Qt.MouseButton.LeftButton, pos=QPoint(8, tab.drop.height() // 2))
    driver.wait_for(lambda: studio.views["cam"].masked is not None)
    driver.wait_until_idle()
    assert "Average drop" in tab.note.text()
    tab.minus.setFocus()
    QTest.keyClicks(tab.minus, "espresso")
    QTest.keyClick(tab.minus, Qt.Key.Key_Return)
    driver.wait_for(lambda: studio.views["cam"].against is not None)
    driver.wait_until_idle()
    assert "less that for “espresso”" in tab.note.text()
    assert not tab.colormap.isEnabled(), "a difference has colours of its own"
    low, high = driver.views["cam"].footer.range.numbers
    assert low == f"−{high}"
    QTest.keyClick(tab.minus, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    QTest.keyClick(tab.minus, Qt.Key.Key_Delete)
    driver.wait_for(lambda: studio.views["cam"].against is None)
    choose(tab.method, "eigencam")
    driver.wait_for(lambda: studio.views["cam"].kind == "EigenCAM")
    driver.wait_until_idle()
    assert studio.views["cam"].facts.backbone == studio.settings.backbone
    assert not tab.minus.isEnabled()
    assert not tab.drop.isEnabled()
    QTest.mouseClick(tab.whole, Qt.MouseButton.LeftButton, pos=QPoint(8, tab.whole.height() // 2))
    driver.wait_for(lambda: studio.views["cam"].kind == "HiResCAM")
    driver.wait_until_idle()
    assert "pooled features" in tab.note.text()
    tab.search.setFocus()
    QTest.keyClicks(tab.search, plain.chosen.name)
    QTest.keyClick(tab.search, Qt.Key.Key_Return)
    driver.wait_for(lambda: studio.views["cam"].chosen == plain.chosen)
    driver.wait_until_idle()
    assert np.array_equal(studio.views["cam"].values, plain.values)
    assert not tab.whole.isChecked()


def test_colour_maps_and_ranges_change_the_picture_not_the_numbers(driver):
    tab, studio = driver.window.inspector.lenses["similarity"], driver.studio
    values, before = studio.views["similarity"].values, driver.views["similarity"].lens_pixels()
    tab.colormap.setCurrentText("turbo")
    assert (driver.views["similarity"].lens_pixels() != before).any()
    tab.range.setCurrentIndex(tab.range.findData("fixed"))
    assert driver.window.grid.views["similarity"].footer.range.numbers[0] == "−1.00"
    assert studio.views["similarity"].values is values


def test_every_control_explains_itself_and_can_be_reached_by_key(driver):
    from PySide6.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit, QListWidget, QSlider

    window = driver.window
    kinds = (QAbstractButton, QComboBox, QSlider, QListWidget, QAbstractSpinBox, QLineEdit)
    for kind in kinds:
        for widget in window.findChildren(kind):
            inner = isinstance(widget.parent(), QAbstractSpinBox | QComboBox) or widget.objectName().startswith("qt_")
            if inner or not widget.isVisibleTo(window):
                continue
            assert widget.toolTip() or widget.statusTip(), (kind.__name__, widget.accessibleName())
            assert widget.focusPolicy() & Qt.FocusPolicy.TabFocus or widget.inherits("QTabBar"), widget.accessibleName()
    for action in window.actions_by_name.values():
        assert action.toolTip()
        assert action.statusTip()


def test_the_original_is_shown_exactly(driver):
    image = load_image(sample_images()[0])
    assert driver.studio.image.sha256 == image.sha256
    assert "451 × 300" in driver.window.grid.file_bar.label.text()


def test_a_click_leaves_the_facts_and_the_choice_of_weights_as_they_are(driver, monkeypatch):
    shown = []
    monkeypatch.setattr(driver.window.inspector.facts, "show_facts", lambda facts: shown.append("facts"))
    monkeypatch.setattr(driver.window.controls, "show_upsampler", lambda facts: shown.append("weights"))
    driver.click("pca", 60, 60)
    driver.wait_until_idle()
    assert shown == []
    driver.window.studio.compute()
    driver.wait_until_idle()
    assert shown == ["facts", "weights"]


def test_the_slider_of_grouping_asks_anew_and_the_plain_cosine_has_none(driver):
    tab = driver.window.inspector.lenses["similarity"]
    before = driver.studio.views["similarity"].values
    assert tab.grouping.value() == 100
    tab.grouping.setValue(20)
    driver.wait_for(lambda: driver.studio.views["similarity"].request.grouping == 0.2)
    assert abs(driver.studio.views["similarity"].values - before).max() > 0.01
    tab.measure.setCurrentIndex(tab.measure.findData("cosine"))
    driver.wait_for(lambda: driver.studio.views["similarity"].request.measure == "cosine")
    assert not tab.grouping.isEnabled()
    assert "same direction" in tab.meaning.text()
    driver.click("pca", 120, 80)
    driver.wait_for(lambda: driver.studio.views["similarity"].request.point == pytest.approx((120, 80), abs=2))
    assert driver.studio.views["similarity"].request.measure == "cosine"


def test_the_outline_of_the_group_is_drawn_on_demand_around_the_query(driver):
    tab, view = driver.window.inspector.lenses["similarity"], driver.views["similarity"]
    driver.click("pca", 150, 120)
    driver.wait_until_idle()
    before = view.lens_pixels()
    assert view.outline.isEmpty()
    tab.outline.click()
    driver.wait_until_idle()
    assert (view.lens_pixels() == before).all()
    assert view.outline.contains(QPointF(*driver.studio.query))
    height, width = driver.studio.image.size_hw
    assert QRectF(0, 0, width, height).contains(view.outline.boundingRect())
    assert driver.views["pca"].outline.isEmpty()
    tab.grouping.setValue(0)
    driver.wait_until_idle()
    assert not tab.outline.isEnabled()
    assert view.outline.isEmpty()
    tab.grouping.setValue(100)
    tab.outline.click()
    driver.wait_until_idle()
    assert view.outline.isEmpty()
