"""Asking by several marks, with real clicks, drags and keys: the list, the mask, the matches, and the map under the pointer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from PIL import Image as Picture
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QFileDialog

from featup_app.gui.marks.tools import BOX, BRUSH, OUTLINE
from featup_app.images import sample_images
from featup_app.lenses import Query
from featup_app.marks import BoxMark, PointMark, PolygonMark, StrokeMark

SHIFT, CONTROL = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.ControlModifier


@pytest.fixture
def driver(config, start):
    config(input_size="112", output_size="8x", method="bilinear")
    driver = start(sample_images()[0])
    driver.window.resize(1280, 720)
    driver.wait_until_idle()
    return driver


def tab(driver):
    found = driver.window.inspector.lenses["similarity"]
    driver.window.inspector.setCurrentWidget(found)
    return found


def asked(driver):
    return driver.studio.requests["similarity"].queries


def press(driver, x, y, keys=Qt.KeyboardModifier.NoModifier):
    QTest.mouseClick(driver.views["pca"].canvas, Qt.MouseButton.LeftButton, keys, driver.place("pca", x, y))


def drag(driver, points, keys=Qt.KeyboardModifier.NoModifier):
    canvas, places = driver.views["image"].canvas, [driver.place("image", *point) for point in points]
    QTest.mousePress(canvas, Qt.MouseButton.LeftButton, keys, places[0])
    for before, after in itertools.pairwise(places):
        for part in range(1, 6):
            QTest.mouseMove(canvas, before + (after - before) * part / 5)
            QTest.qWait(10)
    QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, keys, places[-1])


def test_keys_add_marks_and_a_plain_click_starts_again(driver):
    panel = tab(driver).query_panel
    press(driver, 200, 100)
    press(driver, 300, 150, SHIFT)
    press(driver, 50, 250, CONTROL)
    driver.wait_until_idle()
    _, second, _ = asked(driver)
    assert [query.negative for query in asked(driver)] == [False, False, True]
    assert second.mark.point == pytest.approx((300, 150), abs=2)
    view = driver.studio.views["similarity"]
    assert "3 queries, 1 negative" in view.subtitle()
    assert panel.list.isVisible(), "its tab comes to the front"
    assert panel.combine.currentData() == "difference"
    for shown in driver.views.values():
        assert shown.marks.points == 3
    press(driver, 120, 90)
    driver.wait_until_idle()
    assert len(asked(driver)) == 1
    assert panel.several.isHidden()
    assert driver.views["image"].marks.points == 0, "one point is the query pixel, with its own mark"


def test_each_tool_draws_its_mark_in_image_pixels(driver):
    panel = tab(driver).query_panel
    panel.tools[BOX].click()
    drag(driver, [(100, 60), (180, 140)])
    driver.wait_until_idle()
    (box,) = asked(driver)
    assert isinstance(box.mark, BoxMark)
    assert (*box.mark.first, *box.mark.last) == pytest.approx((100, 60, 180, 140), abs=2)
    panel.tools[BRUSH].click()
    panel.width_box.setValue(12)
    drag(driver, [(220, 60), (260, 60), (300, 100)], SHIFT)
    panel.tools[OUTLINE].click()
    drag(driver, [(300, 200), (380, 200), (340, 280)], CONTROL)
    driver.wait_until_idle()
    _, stroke, polygon = asked(driver)
    assert isinstance(stroke.mark, StrokeMark)
    assert stroke.mark.width == 12
    assert isinstance(polygon.mark, PolygonMark)
    assert polygon.negative
    assert not driver.views["image"].marks.lines.isEmpty()
    assert driver.studio.views["similarity"].request.queries == asked(driver)


def test_the_list_hides_names_negates_and_removes(driver):
    panel = tab(driver).query_panel
    press(driver, 200, 100)
    press(driver, 300, 150, SHIFT)
    panel.list.item(1).setText("whiskers")
    assert asked(driver)[1].name == "whiskers"
    panel.list.item(0).setCheckState(Qt.CheckState.Unchecked)
    driver.wait_until_idle()
    assert asked(driver)[0].hidden
    assert driver.studio.views["similarity"].subtitle().startswith("to whiskers")
    panel.list.item(0).setCheckState(Qt.CheckState.Checked)
    panel.list.setCurrentRow(1)
    panel.negate.click()
    assert asked(driver)[1].negative
    panel.list.setCurrentRow(0)
    panel.remove.click()
    assert len(asked(driver)) == 2, "something must be asked"
    panel.list.setCurrentRow(1)
    driver.views["pca"].setFocus()
    QTest.keyClick(driver.views["pca"], Qt.Key.Key_Delete)
    driver.wait_until_idle()
    assert [type(query.mark) for query in asked(driver)] == [PointMark]


def test_a_threshold_makes_a_mask_that_is_outlined_and_saved(driver, monkeypatch, tmp_path):
    panel = tab(driver).mask_panel
    panel.switch.click()
    driver.wait_until_idle()
    view = driver.studio.views["similarity"]
    proposed = view.mask().threshold
    assert not driver.views["similarity"].outline.isEmpty()
    assert f"{proposed:.2f}" in panel.area.text()
    place = QPoint(round(panel.histogram.position_of(0.9)), 20)
    QTest.mouseClick(panel.histogram, Qt.MouseButton.LeftButton, pos=place)
    driver.wait_until_idle()
    mask = driver.studio.views["similarity"].mask()
    assert mask.threshold == pytest.approx(0.9, abs=0.05)
    file = tmp_path / "mask"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(file), ""))
    panel.save.click()
    driver.wait_for(driver.window.notice.isVisible)
    with Picture.open(file.with_suffix(".png")) as written:
        assert written.size == mask.inside.shape[::-1]
        assert sum(written.histogram()[255:]) == mask.pixels
    panel.switch.click()
    assert driver.views["similarity"].outline.isEmpty()


def test_saved_marks_are_asked_of_another_picture(driver, monkeypatch, tmp_path):
    panel, file = tab(driver).query_panel, tmp_path / "ears.safetensors"
    press(driver, 200, 100)
    press(driver, 300, 150, SHIFT)
    driver.wait_until_idle()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(file), ""))
    panel.save.click()
    driver.wait_for(file.is_file)
    driver.studio.open(sample_images()[2])
    driver.wait_for(lambda: driver.studio.image.name == sample_images()[2].name)
    driver.wait_until_idle()
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(file), ""))
    panel.load.click()
    driver.wait_for(lambda: len(asked(driver)) == 2)
    driver.wait_until_idle()
    assert driver.studio.views["similarity"].subtitle() == "to ears"
    assert driver.views["image"].marks.points == 0, "the marks lie on another picture"


def test_the_best_matches_are_numbered(driver):
    tab(driver).matches.click()
    numbers = driver.views["similarity"].marks.numbers
    assert numbers[:2] == ["1", "2"]
    assert driver.views["pca"].marks.numbers == []
    tab(driver).matches.click()
    assert driver.views["similarity"].marks.numbers == []


def test_the_map_follows_the_pointer_and_comes_back(driver):
    view = driver.views["similarity"]
    caption = view.subtitle.text()
    before = view.lens_pixels().copy()
    tab(driver).follow.click()
    driver.hover("pca", 60, 60)
    driver.wait_for(lambda: view.subtitle.text() != caption)
    driver.wait_for(lambda: view.lens_pixels().shape == before.shape and (view.lens_pixels() != before).any())
    assert asked(driver)[0].mark.point == pytest.approx((225.5, 150), abs=1), "nothing was asked"
    tab(driver).follow.click()
    QApplication.processEvents()
    assert view.subtitle.text() == caption
    assert (view.lens_pixels() == before).all()


def test_too_many_marks_are_refused_in_a_sentence(driver):
    many = tuple(Query(PointMark((10.0 + number, 10.0))) for number in range(199))
    driver.studio.ask(replace(driver.studio.requests["similarity"], queries=many))
    for _ in range(2):
        driver.studio.mark(PointMark((10.0, 10.0)), False, True)
    driver.wait_until_idle()
    assert len(asked(driver)) == 200
    assert "at most 200" in driver.window.notice.text.text()


def test_the_tab_of_the_pixel_shows_its_feature_and_the_cells_that_it_is_made_of(driver):
    inspector = driver.window.inspector
    inspector.setCurrentWidget(inspector.pixel)
    driver.wait_for(lambda: "channels" in inspector.pixel.place.text())
    driver.click("similarity", 100, 80)
    inspector.setCurrentWidget(inspector.pixel)
    driver.wait_for(lambda: inspector.pixel.place.text().startswith("x 1") or "x 99" in inspector.pixel.place.text())
    driver.wait_until_idle()
    (curve, asked) = inspector.pixel.feature.getPlotItem().listDataItems()
    assert len(curve.yData) == 384
    assert asked.yData == pytest.approx(curve.yData, abs=1e-3), "the query is this pixel"
    assert "Cosines: 1.00" in inspector.pixel.cosines.text()
    cells = int(inspector.pixel.cells.text().split(" of ")[0])
    assert 1 <= cells <= 4, "bilinear interpolation reads four cells"


def test_values_along_a_line_are_plotted_for_every_view(driver):
    inspector = driver.window.inspector
    inspector.setCurrentWidget(inspector.pixel)
    inspector.pixel.line.click()
    before = asked(driver)
    drag(driver, [(50, 150), (350, 150)])
    driver.wait_for(inspector.pixel.profile.isVisible)
    curves = inspector.pixel.profile.getPlotItem().listDataItems()
    assert {curve.name() for curve in curves} == {"PCA", "Similarity", "CAM"}
    for curve in curves:
        assert curve.xData[-1] == pytest.approx(300, abs=4)
    assert asked(driver) == before, "a line asks for nothing"
    inspector.pixel.line.click()
    assert inspector.pixel.profile.isHidden()
    press(driver, 200, 100)
    assert asked(driver) != before, "the left button clicks again"


def test_pinned_marks_are_asked_of_every_picture_in_one_scale(driver):
    panel = tab(driver).query_panel
    press(driver, 200, 100)
    press(driver, 300, 150, SHIFT)
    driver.wait_until_idle()
    panel.pin.click()
    driver.wait_for(lambda: all(query.vectors is not None for query in asked(driver)))
    driver.wait_until_idle()
    limits = driver.studio.views["similarity"].limits()
    own = driver.studio.views["similarity"].values
    for number in (2, 0):
        driver.studio.open(sample_images()[number])
        driver.wait_for(lambda number=number: driver.studio.image.name == sample_images()[number].name)
        driver.wait_until_idle()
        assert len(asked(driver)) == 2
        assert driver.studio.views["similarity"].limits() == limits
        assert driver.views["image"].marks.points == (2 if number == 0 else 0)
    assert driver.studio.views["similarity"].values == pytest.approx(own, abs=1e-4), (
        "on its own picture the marks are asked"
    )
    panel.pin.click()
    driver.wait_until_idle()
    assert all(query.vectors is None for query in asked(driver))
