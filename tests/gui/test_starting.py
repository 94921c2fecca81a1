"""A start shows a picture at once: it does not repeat what took long the last time."""

from __future__ import annotations

import pytest

from featup_app.engine.settings import ViewSettings, starting_settings
from featup_app.images import sample_images


@pytest.mark.parametrize(
    ("output", "image_hw", "repeated"),
    [
        ("16x", (3000, 4000), True),
        ("image", (1024, 1024), True),
        ("image", (6000, 8000), False),
        ("4096", (400, 600), False),
        ("1024x1024", (400, 600), True),
        ("64x", (400, 600), False),
        ("nonsense", (400, 600), True),
    ],
)
def test_only_a_huge_output_is_not_repeated(output, image_hw, repeated):
    remembered = ViewSettings(output_size=output, method="jbu")
    started = starting_settings(remembered, image_hw)
    assert (started == remembered) == repeated
    assert started.method == "jbu"


def test_a_remembered_huge_output_is_offered_and_computed_when_asked(config, start):
    config(input_size="112", output_size="4096", method="bilinear")
    driver = start(sample_images()[0])
    driver.wait_for(driver.window.notice.isVisible)
    driver.wait_until_idle()
    assert driver.studio.settings.output_size == "16x"
    assert driver.window.controls.output.currentText() == "16x"
    assert "4096" in driver.window.notice.text.text()
    asked = []
    driver.studio.choose = asked.append
    driver.window.notice.action.click()
    assert asked[0].output_size == "4096"
