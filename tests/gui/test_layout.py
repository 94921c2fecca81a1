"""The window fits a screen of 1280 × 720 pixels, and no text of it is cut off."""

from __future__ import annotations

import pytest
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QLabel

from featup_app.images import sample_images

SIZE = 1280, 720


@pytest.fixture
def driver(config, start):
    config(input_size="112", output_size="4x", method="jbu")  # a method with weights has the most to say
    driver = start(sample_images()[0])
    driver.window.resize(*SIZE)
    driver.wait_until_idle()
    return driver


@pytest.mark.parametrize("name", ["training", "fitting"])
def test_a_docked_panel_does_not_make_the_window_grow(driver, name):
    getattr(driver.window, name).dock.appear()
    QTest.qWait(50)
    assert (driver.window.width(), driver.window.height()) == SIZE
    assert driver.window.minimumSizeHint().height() <= SIZE[1]


def test_no_setting_of_the_tool_bar_is_hidden(driver):
    controls, export = driver.window.controls, driver.window.bar.export
    QTest.qWait(100)  # the tool bar lays itself out later
    assert export.mapTo(driver.window, export.rect().topRight()).x() < SIZE[0]
    for box in (controls.backbone, controls.layer, controls.input, controls.method, controls.weights, controls.output):
        assert box.isVisible()
    for box in (controls.layer, controls.method):
        assert box.fontMetrics().horizontalAdvance(box.currentText()) < box.width() - 24, box.accessibleName()
    assert export.isVisible()


def test_no_fact_is_cut_off(driver):
    facts = driver.window.inspector.facts
    driver.window.inspector.setCurrentWidget(facts)
    assert len(facts.rows) == 8
    assert not facts.details.isVisible()
    facts.more.click()
    QTest.qWait(50)
    assert facts.details.isVisible()
    labels = facts.findChildren(QLabel)
    assert any("detail changed by a matrix" in label.text() for label in labels)
    assert len(labels) > 2 * 8
    for label in labels:
        assert label.width() <= facts.viewport().width()
        needed = label.heightForWidth(label.width()) if label.wordWrap() else label.sizeHint().height()
        assert label.height() >= needed, label.text()
