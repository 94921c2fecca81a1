"""The wheel over boxes and sliders that nobody has chosen."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QPoint
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractSpinBox, QComboBox, QDialog, QSlider, QWidget

from featup_app.gui.export_dialog import ExportDialog
from featup_app.gui.train.training_dialog import TrainingDialog
from featup_app.images import sample_images


@pytest.fixture
def driver(start):
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    return driver


def wheel(widget: QWidget, steps: int = -1) -> None:
    """Turn the wheel over the middle of a widget, as the window system reports it."""
    window = widget.window()
    place = widget.mapTo(window, widget.rect().center())
    QTest.wheelEvent(window.windowHandle(), place, QPoint(0, 120 * steps))


def values(owner: QWidget) -> dict[QWidget, object]:
    return {
        **{box: box.currentText() for box in owner.findChildren(QComboBox)},
        **{box: box.text() for box in owner.findChildren(QAbstractSpinBox)},
        **{slider: slider.value() for slider in owner.findChildren(QSlider)},
    }


def turn_over_all(owner: QWidget) -> set[QWidget]:
    """Turn the wheel over all boxes and sliders that are seen; returns them."""
    boxes = {box for kind in (QComboBox, QAbstractSpinBox, QSlider) for box in owner.findChildren(kind)}
    seen = {box for box in boxes if not box.visibleRegion().isEmpty()}
    for box in seen:
        for steps in (-1, 1, 1):
            wheel(box, steps)
        assert not box.hasFocus()
    return seen


def test_no_box_of_the_window_is_changed(driver):
    window = driver.window
    window.fitting.dock.appear()
    window.fitting.panel.tabs.setCurrentWidget(window.fitting.panel.settings)
    driver.views["pca"].setFocus()
    before, settings, requests = values(window), driver.studio.settings, dict(driver.studio.requests)
    turned: set[QWidget] = set()
    for tab in range(window.inspector.count()):
        window.inspector.setCurrentIndex(tab)
        QTest.qWait(20)
        turned |= turn_over_all(window)
    assert len(turned) > 18
    assert values(window) == before
    assert (driver.studio.settings, driver.studio.requests) == (settings, requests)


@pytest.mark.parametrize("kind", ["export", "training"])
def test_no_box_of_a_dialog_is_changed(driver, kind):
    window = driver.window
    dialog: QDialog
    if kind == "export":
        dialog = ExportDialog(window, driver.studio, window.preferences, {})
    else:
        dialog = TrainingDialog(window, driver.studio.settings, "")
    dialog.show()
    QTest.qWait(20)
    dialog.setFocus()
    before = values(dialog)
    assert len(turn_over_all(dialog)) >= 2
    assert values(dialog) == before
    dialog.close()
    dialog.deleteLater()


def test_the_panel_scrolls_instead(driver):
    tab = driver.window.inspector.lenses["similarity"]
    driver.window.inspector.setCurrentWidget(tab)
    driver.window.resize(1100, 420)
    tab.widget().setMinimumHeight(1500)
    QTest.qWait(50)
    assert tab.verticalScrollBar().value() == 0
    wheel(tab.measure)
    assert tab.verticalScrollBar().value() > 0


def test_a_box_with_the_focus_turns(driver):
    tab = driver.window.inspector.lenses["pca"]
    driver.window.inspector.setCurrentWidget(tab)
    driver.window.activateWindow()
    tab.channels[0].setFocus()
    driver.wait_for(tab.channels[0].hasFocus)
    wheel(tab.channels[0])
    assert tab.channels[0].currentIndex() == 1
