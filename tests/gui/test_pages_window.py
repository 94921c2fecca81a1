"""Page, channels and range in the window: boxes that appear only for files that let choose."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from scene import scene, unit_scene

from featup_app.gui.views.linked_views import hatched
from featup_app.images import sample_images

SCENE = scene()


@pytest.fixture
def stack(tmp_path):
    """Three pages of five channels in 16 bits, with a row without data."""
    path = tmp_path / "stack.tif"
    bands = np.concatenate([unit_scene() * 900, unit_scene()[..., :2] * 900], axis=2).astype(np.uint16)
    bands[0] = 7777
    with tifffile.TiffWriter(path) as writer:
        for page in (bands, bands[::-1], bands[:, ::-1]):
            writer.write(
                page,
                photometric="minisblack",
                planarconfig="contig",
                metadata=None,
                extratags=[(42113, "s", 0, "7777", True)],
            )
    return path


def shown(driver) -> tuple[bool, bool, bool]:
    bar = driver.window.grid.file_bar
    return bar.page.isVisible(), bar.channels.isVisible(), bar.range.isVisible()


def test_boxes_appear_for_files_that_let_choose(start, stack):
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    assert shown(driver) == (False, False, False)
    driver.studio.open(stack)
    driver.wait_for(lambda: driver.studio.image.name == "stack.tif")
    driver.wait_until_idle()
    bar = driver.window.grid.file_bar
    assert shown(driver) == (True, True, True)
    assert (bar.page.text(), bar.channels.text(), bar.range.currentText()) == ("page 1 of 3", "", "auto")
    assert driver.studio.image.missing[0].all()

    bar.page.setValue(2)
    driver.wait_for(lambda: driver.studio.image.page == 2)
    driver.wait_until_idle()
    assert driver.studio.image.missing[-1].all()
    assert driver.studio.views["pca"] is not None

    bar.channels.setText("2")
    QTest.keyClick(bar.channels, Qt.Key.Key_Return)
    driver.wait_for(lambda: driver.studio.image.selection.channels == (2,))
    driver.wait_until_idle()
    assert (driver.studio.image.page, bar.page.value()) == (2, 2)

    bar.range.setCurrentText("0,450")
    QTest.keyClick(bar.range.lineEdit(), Qt.Key.Key_Return)
    driver.wait_for(lambda: driver.studio.image.selection.range == (0.0, 450.0))
    driver.wait_until_idle()
    assert driver.studio.image.pixels[0, 0, 0] == 255
    assert "0 to 450" in bar.label.toolTip()


def test_a_choice_that_fails_goes_back_to_what_is_shown(start, stack):
    driver = start(stack)
    driver.wait_until_idle()
    bar, before = driver.window.grid.file_bar, driver.studio.image
    bar.channels.setText("9")
    QTest.keyClick(bar.channels, Qt.Key.Key_Return)
    driver.wait_for(lambda: "no channel 9" in driver.window.notice.text.text())
    assert (driver.studio.image, bar.channels.text()) == (before, "")
    bar.range.setCurrentText("dark")
    QTest.keyClick(bar.range.lineEdit(), Qt.Key.Key_Return)
    driver.wait_for(lambda: "no range" in driver.window.notice.text.text())
    assert bar.range.currentText() == "auto"


def test_pixels_without_data_are_striped():
    missing = np.zeros((48, 64), bool)
    missing[:24] = True
    for pixels in (SCENE, SCENE[::2, ::2]):
        striped = hatched(pixels, missing)
        half = len(pixels) // 2
        assert np.array_equal(striped[half:], pixels[half:])
        assert len(np.unique(striped[:half].reshape(-1, 3), axis=0)) == 2
