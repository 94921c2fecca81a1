"""A picture and its caption belong together, whatever happens while something else is computed."""

from __future__ import annotations

import threading
import time

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from featup_app.gui.studio import Studio
from featup_app.images import sample_images
from featup_app.lenses import CAMLens, PCALens, SimilarityLens

LENSES = {"pca": PCALens, "similarity": SimilarityLens, "cam": CAMLens}


@pytest.fixture
def driver(start):
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    return driver


@pytest.fixture
def endless(monkeypatch):
    """``endless("pca")`` lets a lens work until it is cancelled; gives the event that it has begun."""

    def block(*names: str) -> threading.Event:
        running = threading.Event()

        def work(self, request, looks, progress):
            while True:
                running.set()
                progress("working", 0, 0)
                time.sleep(0.01)

        for name in names:
            monkeypatch.setattr(LENSES[name], "view", work)
        return running

    return block


def captions(driver) -> dict[str, str]:
    return {name: driver.views[name].subtitle.text() for name in LENSES}


def cancel(driver, running: threading.Event) -> None:
    driver.wait_for(running.is_set)
    QTest.qWait(50)
    QTest.keyClick(driver.window, Qt.Key.Key_Escape)
    driver.wait_until_idle()


def choose(box, data: str) -> None:
    index = box.findData(data)
    assert index >= 0
    box.setCurrentIndex(index)
    box.activated.emit(index)


@pytest.mark.parametrize(
    ("box", "data"), [("method", "bilinear"), ("backbone", "tf_efficientnet_lite0"), ("output", "8x")]
)
def test_a_cancelled_change_goes_back_to_what_is_shown(driver, endless, box, data):
    studio, controls = driver.studio, driver.window.controls
    settings, views, before = studio.settings, dict(studio.views), captions(driver)
    shown = getattr(controls, box).currentText()
    running = endless(*LENSES)
    choose(getattr(controls, box), data)
    driver.wait_for(running.is_set)
    assert all("Earlier settings" in text and "attention" in text.lower() for text in captions(driver).values())
    cancel(driver, running)
    assert studio.settings == settings
    assert getattr(controls, box).currentText() == shown
    assert studio.views == views
    assert captions(driver) == before
    assert not any(view.earlier or view.stale for view in driver.views.values())


def test_what_was_not_computed_again_is_marked_as_of_earlier_settings(driver, endless):
    studio, before = driver.studio, captions(driver)
    running = endless("similarity")
    choose(driver.window.controls.method, "bilinear")
    cancel(driver, running)
    assert studio.settings.method == "bilinear", "PCA shows it"
    assert not driver.views["pca"].earlier
    assert driver.views["similarity"].earlier
    text = captions(driver)["similarity"]
    assert text.startswith("Earlier settings (")
    assert text.endswith(before["similarity"])
    assert "bilinear" not in text.lower()
    assert studio.current_view("similarity") is None
    assert studio.views["similarity"].facts.method != "bilinear"


def test_another_image_leaves_no_caption_of_the_former_one(driver, endless):
    running = endless(*LENSES)
    driver.studio.open(sample_images()[1])
    cancel(driver, running)
    assert driver.studio.image.name == "coffee.jpg"
    for name in LENSES:
        assert not driver.views[name].has_lens
        assert captions(driver)[name] == ""
        assert driver.views[name].footer.currentWidget() is driver.views[name].footer.nothing
    inspector = driver.window.inspector
    assert inspector.lenses["cam"].top.count() == 0
    assert inspector.lenses["cam"].note.text() == ""
    assert inspector.facts.rows["Output"].text() == "–"


def test_a_cancelled_click_or_class_goes_back_to_the_one_that_is_shown(driver, endless):
    studio = driver.studio
    query, requests = studio.query, dict(studio.requests)
    running = endless("similarity", "cam")
    driver.click("pca", 60, 60)
    cancel(driver, running)
    assert studio.query == query
    assert studio.requests == requests
    tab = driver.window.inspector.lenses["cam"]
    chosen = tab.top.currentRow()
    running.clear()
    studio.ask(type(requests["cam"])(chosen=5))
    cancel(driver, running)
    assert studio.requests == requests
    assert tab.top.currentRow() == chosen


def test_the_way_back_to_the_shown_request_is_not_overtaken(driver, monkeypatch):
    studio: Studio = driver.studio
    first = studio.query
    studio.choose_query((50.0, 50.0))
    studio.choose_query(first)
    driver.wait_until_idle()
    assert studio.views["similarity"].request.point == first


def test_messages_of_failures_vanish_with_the_next_success(driver, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("something impossible")

    notice = driver.window.notice
    with monkeypatch.context() as patched:
        patched.setattr(SimilarityLens, "view", broken)
        driver.click("pca", 100, 100)
        driver.wait_for(notice.isVisible)
        driver.wait_until_idle()
        assert notice.isVisible()
    driver.click("pca", 200, 100)
    driver.wait_for(lambda: not notice.isVisible())
    notice.show_message("information", "Saved.")
    driver.click("pca", 100, 100)
    driver.wait_until_idle()
    assert notice.isVisible(), "only failures go"
