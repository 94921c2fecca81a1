"""What a window knows of its fits, without a window."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from featup_app.engine.fit_book import FITS_KEPT, FitBook, features_key
from featup_app.engine.fits import FitReport, FitRequest
from featup_app.engine.settings import ViewSettings
from featup_app.fields.implicit.recipe import DEFAULT
from featup_app.images import image_from_array

SETTINGS = ViewSettings(method="implicit")
REQUEST = FitRequest(DEFAULT)


def picture(value: int):
    return image_from_array(np.full((8, 8, 3), value, np.uint8), name=f"{value}.png")


def report(number: int, held_out: float | None = 0.5, seconds: float = 10.0) -> FitReport:
    state = SimpleNamespace(bilinear=1.0, seconds=seconds)
    return FitReport(number, None, state, held_out, "default", (("Views", "96"),))


@pytest.fixture
def book():
    return FitBook()


def test_the_fit_that_was_shown_last_belongs_to_its_features(book):
    image, other = picture(1), picture(2)
    first, second = (book.add(image, SETTINGS, REQUEST, name) for name in ("first", "second"))
    book.show(first)
    assert book.to_show(image, SETTINGS) is None, "there is nothing to see yet"
    first.report = second.report = report(first.number)
    assert book.to_show(image, SETTINGS) is first
    book.show(second)
    assert book.to_show(image, SETTINGS) is second
    assert book.to_show(image, SETTINGS.with_(output_size="4x", method="jbu")) is second
    assert book.to_show(image, SETTINGS.with_(backbone="tf_efficientnet_lite0")) is None
    assert book.to_show(other, SETTINGS) is None
    book.remove(second)
    assert book.to_show(image, SETTINGS) is None
    assert book.of_image(image) == [first]
    assert book.of_image(None) == []


def test_fits_of_other_features_name_their_backbone(book):
    image = picture(1)
    record = book.add(image, SETTINGS, REQUEST, "default, seed 0")
    record.report = report(record.number)
    lite = SETTINGS.with_(backbone="tf_efficientnet_lite0")
    assert record.entry(SETTINGS)[1] == "default, seed 0 · 0.5000"
    assert record.entry(lite)[1].endswith("· dinov2-s14-imgfocus")
    assert record.entry(SETTINGS)[2].splitlines()[-2:] == ["Views: 96", "Held-out error: 0.5000"]
    assert book.alike(image, SETTINGS) == [record]
    assert book.alike(image, lite) == []
    assert record.settings_to_show(lite.with_(output_size="2x")) == SETTINGS.with_(output_size="2x")
    assert record.ended_sentence().endswith("held-out error 0.500, 50 % lower than bilinear.")


def test_the_oldest_go_but_not_what_runs_or_is_needed(book):
    records = [book.add(picture(n), SETTINGS, REQUEST, str(n)) for n in range(FITS_KEPT)]
    assert book.surplus(()) == []
    book.run(records[0])
    added = [book.add(picture(100 + n), SETTINGS, REQUEST, "new") for n in range(2)]
    assert book.surplus({records[1].number, None}) == records[2:4]
    book.remove(records[0])
    assert book.running is None
    assert book.surplus(()) == [records[1]]
    assert all(book.find(record.number) is record for record in added)
    assert book.find(None) is None


def test_a_fit_runs_until_it_ends_or_is_removed(book):
    record = book.add(picture(1), SETTINGS, REQUEST, "a")
    book.run(record)
    book.paused = True
    book.run(record, continued=True)
    assert (book.running, book.paused, book.continued) == (record, False, True)


def test_only_unsaved_work_would_be_lost(book):
    opened = book.add(picture(1), SETTINGS, None, "from a file")
    fitted = book.add(picture(1), SETTINGS, REQUEST, "fitted")
    opened.report = fitted.report = report(1, seconds=75.0)
    assert opened.saved
    assert book.unsaved(60.0) == [fitted]
    assert book.unsaved(80.0) == []
    fitted.saved = True
    assert book.unsaved(60.0) == []


def test_features_are_told_apart_by_what_decides_them():
    one = features_key(picture(1), SETTINGS)
    assert one == features_key(picture(1), SETTINGS.with_(method="jbu", output_size="image", upsampler="classical"))
    for change in ({"layer": "block 3"}, {"input_size": "112"}, {"weights_file": "a.safetensors"}):
        assert one != features_key(picture(1), SETTINGS.with_(**change))


def test_it_needs_neither_qt_nor_torch():
    program = "import sys, featup_app.engine.fit_book; assert not {'torch', 'PySide6'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
