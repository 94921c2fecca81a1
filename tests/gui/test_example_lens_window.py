"""A lens is one object: an example that no other file knows has a view, a tab, a menu entry and a place in exports."""

from __future__ import annotations

import pytest
from length_lens import LengthLens
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from featup_app.gui.export_dialog import ExportDialog
from featup_app.images import sample_images
from featup_app.lenses import LENSES


@pytest.fixture
def driver(start, monkeypatch):
    monkeypatch.setitem(LENSES, "length", LengthLens())
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    return driver


def test_it_appears_everywhere(driver):
    window, view = driver.window, driver.views["length"]
    assert view.has_lens
    assert view.title.text() == "Length"
    assert view.footer.range.numbers[1] > view.footer.range.numbers[0]
    assert [window.inspector.tabText(index) for index in range(4)] == ["PCA", "Similarity", "CAM", "Length"]
    assert all(other.width() > 200 for other in driver.views.values())
    driver.hover("length", 100, 100)
    assert window.status.point.text().startswith("x 100")
    QTest.keyClick(window, Qt.Key.Key_5)
    assert [name for name, other in driver.views.items() if other.isVisible()] == ["length"]
    QTest.keyClick(window, Qt.Key.Key_5)
    before = driver.studio.views["length"]
    driver.click("length", 60, 60)
    driver.wait_until_idle()
    assert driver.studio.views["similarity"].request.point == pytest.approx((60, 60), abs=2)
    assert driver.studio.views["length"] is before, "it does not react to clicks"


def test_it_is_exported_with_the_others(driver):
    dialog = ExportDialog(driver.window, driver.studio, driver.window.preferences, {})
    assert dialog.pictures["length"].text() == "Length"
    assert [request.lens for request in dialog.options().views] == ["pca", "similarity", "cam", "length"]
    dialog.pictures["length"].setChecked(False)
    assert "length" not in [request.lens for request in dialog.options().views]
    dialog.deleteLater()
