"""The Quality tab, as a person uses it."""

from __future__ import annotations

import math

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from featup_app.fields import METHODS
from featup_app.images import sample_images
from featup_app.lenses.score_names import SCORES

QUICK = [method for method in METHODS if method.quick]


@pytest.fixture
def opened(start):
    """The window with a photo, the Quality tab in front."""
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    driver.window.inspector.setCurrentWidget(driver.window.inspector.quality)
    return driver


def texts(table, row: int) -> list[str]:
    return [table.item(row, column).text() for column in range(table.columnCount())]


def wait_until_measured(driver) -> None:
    """All rows are there; eight methods take a while on a busy machine."""
    tab = driver.window.inspector.quality
    driver.qtbot.waitUntil(
        lambda: tab.measure.isEnabled() and tab.table.rowCount() > 0 and not driver.window.engine.busy, timeout=120_000
    )


def test_measuring_fills_a_row_for_each_quick_method_and_marks_the_best(opened):
    tab = opened.window.inspector.quality
    assert tab.table.rowCount() == 0
    assert not tab.stop.isEnabled()
    QTest.mouseClick(tab.measure, Qt.MouseButton.LeftButton)
    assert tab.stop.isEnabled()
    wait_until_measured(opened)
    assert [texts(tab.table, row)[0] for row in range(tab.table.rowCount())] == [method.title for method in QUICK]
    rows = {method.name: texts(tab.table, row) for row, method in enumerate(QUICK)}
    edges = {name: float(row[1]) for name, row in rows.items()}
    assert edges["jbu"] > edges["bilinear"] > 0
    assert float(rows["lowres"][2]) == 0, "the cells themselves do not drift"
    names = list(rows)
    assert tab.table.item(names.index("lowres"), 2).font().bold()
    assert not tab.table.item(names.index("bilinear"), 2).font().bold()
    assert tab.table.isColumnHidden(1 + [score.key for score in SCORES].index("held_out_error"))
    assert "of the variance" in tab.note.text()


def test_every_column_and_control_explains_itself(opened):
    tab = opened.window.inspector.quality
    for column, score in enumerate(SCORES, start=1):
        tooltip = tab.table.horizontalHeaderItem(column).toolTip()
        assert score.meaning in tooltip
        assert ("Higher" if score.higher_is_better else "Lower") in tooltip
    for control in (tab.measure, tab.stop, tab.held_out, tab.all_methods):
        assert len(control.toolTip()) > 20


def test_another_image_or_backbone_empties_the_table_and_another_method_does_not(opened):
    tab, studio = opened.window.inspector.quality, opened.studio
    QTest.mouseClick(tab.measure, Qt.MouseButton.LeftButton)
    wait_until_measured(opened)
    row = [method.name for method in QUICK].index("bilinear")
    rectangle = tab.table.visualItemRect(tab.table.item(row, 0))
    QTest.mouseClick(tab.table.viewport(), Qt.MouseButton.LeftButton, pos=rectangle.center())
    QTest.mouseDClick(tab.table.viewport(), Qt.MouseButton.LeftButton, pos=rectangle.center())
    assert studio.settings.method == "bilinear"
    opened.wait_until_idle()
    assert tab.table.rowCount() == len(QUICK)
    studio.choose(studio.settings.with_(layer="block 8"))
    assert tab.table.rowCount() == 0
    opened.wait_until_idle()
    QTest.mouseClick(tab.measure, Qt.MouseButton.LeftButton)
    wait_until_measured(opened)
    studio.open(sample_images()[1])
    opened.wait_for(lambda: tab.table.rowCount() == 0)
    opened.wait_until_idle()


def test_stopping_keeps_what_is_there_and_can_be_followed_by_measuring_again(opened):
    tab = opened.window.inspector.quality
    tab.held_out.setChecked(True)
    QTest.mouseClick(tab.measure, Qt.MouseButton.LeftButton)
    QTest.mouseClick(tab.stop, Qt.MouseButton.LeftButton)
    wait_until_measured(opened)
    assert any("stopped" in tab.table.item(row, 1).toolTip() for row in range(len(QUICK)))
    QTest.mouseClick(tab.measure, Qt.MouseButton.LeftButton)
    wait_until_measured(opened)
    column = 1 + [score.key for score in SCORES].index("held_out_error")
    assert not tab.table.isColumnHidden(column)
    row = [method.name for method in QUICK].index("bilinear")
    assert 0 < float(tab.table.item(row, column).text()) < 3
    assert not math.isnan(float(tab.table.item(row, 1).text()))
