"""The histogram of a map, also of one whose values are all alike."""

from __future__ import annotations

import numpy as np
import pytest

from featup_app.gui.histogram import Histogram


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 3e4, 1e-30])
def test_a_constant_map_has_a_histogram(qtbot, value):
    histogram = Histogram("")
    qtbot.addWidget(histogram)
    histogram.show_values(np.full((4, 5), value, np.float32))
    histogram.show_threshold(value)
    histogram.grab()
    assert histogram.position_of(value) == pytest.approx(0)


def test_a_value_lies_where_its_share_of_the_range_is(qtbot):
    histogram = Histogram("")
    qtbot.addWidget(histogram)
    histogram.resize(200, 60)
    histogram.show_values(np.linspace(-1, 1, 101, dtype=np.float32)[None])
    assert histogram.position_of(0.0) == pytest.approx(100)
