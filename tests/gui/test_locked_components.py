"""Principal components that a person keeps: locked, fitted on a mask, saved, loaded, refused; and the foreground."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QFileDialog

from featup_app.images import sample_images


@pytest.fixture
def driver(config, start):
    config(input_size="112", output_size="4x", method="bilinear")
    driver = start(sample_images()[0])
    driver.window.resize(1280, 720)
    driver.wait_until_idle()
    driver.tab = driver.window.inspector.lenses["pca"]
    driver.window.inspector.setCurrentWidget(driver.tab)
    return driver


def view(driver):
    return driver.studio.views["pca"]


def another(driver):
    driver.studio.open(sample_images()[2])
    driver.wait_for(lambda: driver.studio.image.name == sample_images()[2].name)
    driver.wait_until_idle()


def test_locked_components_stay_for_another_picture_and_come_from_a_file(driver, monkeypatch, tmp_path):
    file = tmp_path / "mine.safetensors"
    first = view(driver).basis
    driver.tab.lock.click()
    driver.wait_for(lambda: view(driver).locked is not None)
    driver.wait_until_idle()
    another(driver)
    assert (view(driver).basis.components == first.components).all()
    assert "cat.jpg" in driver.tab.locked.text()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(file), ""))
    driver.tab.save.click()
    driver.wait_for(file.is_file)
    driver.tab.unlock.click()
    driver.wait_until_idle()
    assert view(driver).locked is None
    assert (view(driver).basis.components != first.components).any()
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(file), ""))
    driver.tab.load.click()
    driver.wait_for(lambda: view(driver).locked is not None)
    assert (view(driver).basis.components == first.components).all()


def test_components_of_other_features_are_refused_in_a_sentence(driver):
    driver.tab.lock.click()
    driver.wait_for(lambda: view(driver).locked is not None)
    driver.wait_until_idle()
    before = view(driver)
    driver.studio.choose(driver.studio.settings.with_(backbone="tf_efficientnet_lite0"))
    driver.wait_for(driver.window.notice.isVisible)
    driver.wait_until_idle()
    assert "backbone" in driver.window.notice.text.text()
    assert view(driver) is before or view(driver).facts.backbone == before.facts.backbone


def test_components_are_fitted_on_a_mask(driver):
    driver.tab.lock_mask.click()
    driver.wait_for(driver.window.notice.isVisible)
    assert "no mask" in driver.window.notice.text.text()
    driver.window.inspector.lenses["similarity"].mask_panel.switch.click()
    driver.wait_until_idle()
    driver.tab.lock_mask.click()
    driver.wait_for(lambda: view(driver).locked is not None)
    assert view(driver).locked.pictures[0].share < 1
    driver.wait_until_idle()
    assert "a part of it" in driver.tab.locked.text()


def test_the_foreground_is_outlined_at_a_threshold_of_the_first_component(driver):
    driver.tab.foreground.setCurrentIndex(1)
    driver.tab.foreground.activated.emit(1)
    driver.wait_for(lambda: view(driver).first is not None)
    driver.wait_until_idle()
    whole = view(driver).foreground().mean()
    assert 0 < whole < 1
    assert not driver.views["pca"].outline.isEmpty()
    place = QPoint(round(driver.tab.histogram.width() * 0.9), 10)
    QTest.mouseClick(driver.tab.histogram, Qt.MouseButton.LeftButton, pos=place)
    driver.wait_until_idle()
    assert view(driver).foreground().mean() < whole
