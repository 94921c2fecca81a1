"""A method is one module: an example that no other file knows can be chosen in the window, and is scored."""

from __future__ import annotations

import pytest
from mean_method import METHOD

from featup_app.fields import METHODS
from featup_app.images import sample_images


@pytest.fixture
def driver(start):
    METHODS.append(METHOD)
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    yield driver
    METHODS.remove(METHOD)


def test_it_can_be_chosen(driver):
    box = driver.window.controls.method
    box.setCurrentIndex(box.findData("mean"))
    box.activated.emit(box.currentIndex())
    driver.wait_until_idle()
    view = driver.studio.views["pca"]
    assert view.facts.method == "mean"
    assert driver.window.inspector.facts.rows["Method"].text() == "Mean"
    assert (view.values == view.values[:, :1, :1]).all()
