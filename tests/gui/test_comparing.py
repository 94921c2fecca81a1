"""The comparison in the window: columns with one scale, a divider, blinking, differences, and choosing the winner."""

from __future__ import annotations

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from featup_app.gui.compare import compare_panel
from featup_app.gui.compare.compare_panel import BLINK, DIFFERENCE, SWIPE, joined
from featup_app.images import sample_images


@pytest.fixture
def driver(config, start):
    config(input_size="112", output_size="4x", method="attention")
    driver = start(sample_images()[0])
    driver.window.resize(1280, 720)
    driver.wait_until_idle()
    driver.window.actions_by_name["compare"].trigger()
    driver.panel = driver.window.comparing.panel
    driver.wait_for(lambda: all(column.scores.text() for column in driver.panel.columns))
    return driver


def settled(driver):
    driver.wait_for(lambda: not driver.window.engine.busy and not any(c.view.stale for c in driver.panel.columns))


def test_columns_stand_beside_each_other_with_cost_and_scores(driver):
    panel = driver.panel
    assert not driver.window.grid.isVisible()
    assert [column.view.title.text() for column in panel.columns] == ["Attention", "Bilinear"]
    for column in panel.columns:
        assert column.view.has_lens
        assert "upsampled in" in column.cost.text()
        assert "Edges" in column.scores.text()
    pictures = [column.view.lens_pixels() for column in panel.columns]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()
    panel.add.click()
    settled(driver)
    assert len(panel.columns) == 3
    panel.columns[2].close_button.click()
    assert len(panel.columns) == 2
    assert not panel.columns[0].close_button.isEnabled()


def test_a_click_and_the_zoom_reach_all_columns_in_one_scale(driver):
    panel = driver.panel
    panel.lens.setCurrentIndex(panel.lens.findData("similarity"))
    panel.lens.activated.emit(panel.lens.currentIndex())
    settled(driver)
    view = panel.columns[1].view
    place = view.to_widget((120, 80)).toPoint()
    QTest.mouseClick(view.canvas, Qt.MouseButton.LeftButton, pos=place)
    settled(driver)
    assert driver.studio.query == pytest.approx((120, 80), abs=2)
    captions = {column.view.subtitle.text() for column in panel.columns}
    assert len(captions) == 1
    assert captions.pop().startswith("to x 1")
    assert len({column.view.footer.range.numbers for column in panel.columns}) == 1
    driver.window.actions_by_name["zoom_in"].trigger()
    shown = [column.view.box.viewRect() for column in panel.columns]
    assert shown[0].width() == pytest.approx(shown[1].width())
    assert shown[0].width() < 451


def test_two_columns_in_one_picture(driver, monkeypatch):
    panel = driver.panel
    panel.modes[SWIPE].click()
    settled(driver)
    left, right = (column.view.lens_pixels() for column in panel.columns)
    for share in (0, 300, 1000):
        panel.divider.setValue(share)
        column = round(share / 1000 * left.shape[1])
        shown = panel.single.lens_pixels()
        assert (shown[:, : max(0, column - 1)] == left[:, : max(0, column - 1)]).all()
        assert (shown[:, column + 1 :] == right[:, column + 1 :]).all()
    assert panel.single.title.text() == "Attention | Bilinear"
    monkeypatch.setattr(compare_panel, "_BLINK", 20)
    panel._timer.setInterval(20)
    panel.modes[BLINK].click()
    driver.wait_for(lambda: panel.single.title.text() == "Bilinear")
    assert (panel.single.lens_pixels() == right).all(), "the picture is that of its title"
    panel.modes[DIFFERENCE].click()
    driver.wait_for(lambda: panel.single.title.text() == "Difference")
    assert "Attention and Bilinear" in panel.single.subtitle.text()
    assert panel.single.footer.range.numbers[0] == "0.00"


def test_the_winner_is_chosen(driver):
    panel = driver.panel
    panel.columns[1].use.click()
    driver.wait_until_idle()
    assert driver.studio.settings.method == "bilinear"
    assert driver.window.grid.isVisible()
    assert not panel.isVisible()
    assert driver.studio.views["pca"].facts.method == "bilinear"


def test_another_picture_is_compared_at_once_and_a_column_that_fails_says_why(driver):
    panel = driver.panel
    driver.studio.open(sample_images()[1])
    driver.wait_for(lambda: driver.studio.image.name == sample_images()[1].name)
    driver.wait_for(lambda: all(column.view.has_lens for column in panel.columns))
    settled(driver)
    panel.replace(1, driver.studio.settings.with_(output_size="30000x30000"))
    driver.wait_for(lambda: "30000" in panel.columns[1].view.subtitle.text())
    settled(driver)
    assert panel.columns[0].view.has_lens
    assert not panel.columns[1].view.has_lens


def test_pictures_of_two_sizes_are_joined_at_the_larger_one():
    small, large = np.zeros((10, 20, 3), np.uint8), np.full((20, 40, 3), 9, np.uint8)
    both = joined(small, large, 0.5)
    assert both.shape == (20, 40, 3)
    assert (both[:, :19] == 0).all()
    assert (both[:, 21:] == 9).all()
