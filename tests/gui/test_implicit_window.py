"""The method FeatUp implicit: fitted live, paused, stopped, discarded, gone on with, compared, saved and opened."""

from __future__ import annotations

import math
import time

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QFileDialog

from featup_app.engine import fits
from featup_app.fields.implicit import fit as fit_module
from featup_app.gui.error_curve import round_numbers
from featup_app.gui.fit import fit_files
from featup_app.gui.fit.fit_panel import COMPARE, CURVE, LEARNED, SETTINGS
from featup_app.images import sample_images

pytestmark = pytest.mark.usefixtures("one_thread")

FEW, MANY = 16, 4000
"""Views of a fit that ends at once, and of one that goes on until it is stopped; each step takes eight of them."""


@pytest.fixture
def driver(config, start):
    config(input_size="84", output_size="4x")
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    driver.window.fitting.panel.settings.views.setValue(FEW)
    return driver


def desk(driver):
    return driver.window.fitting


def choose_implicit(driver) -> None:
    """As a person does: open the menu of methods and click the entry."""
    box = driver.window.controls.method
    index = box.findData("implicit")
    QTest.mouseClick(box, Qt.MouseButton.LeftButton)
    view = box.view()
    driver.wait_for(view.isVisible)
    QTest.qWait(
        QApplication.doubleClickInterval() + 100
    )  # until then a click counts as the end of the one that opened it
    place = view.visualRect(box.model().index(index, 0)).center()
    QTest.mouseMove(view.viewport(), place + QPoint(0, 1))
    QTest.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=place)
    driver.wait_for(lambda: driver.studio.settings.method == "implicit")


def click(button) -> None:
    assert button.isVisible()
    assert button.isEnabled()
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def wait_for_end(driver) -> None:
    driver.wait_for(lambda: not desk(driver).running)
    driver.wait_until_idle()


def wait_for_steps(driver, count: int) -> None:
    driver.wait_for(lambda: len(desk(driver).panel.curve.points) >= count)


def fitted(driver, *, views: int = FEW):
    """The report of a fit that has ended."""
    desk(driver).panel.settings.views.setValue(views)
    choose_implicit(driver)
    wait_for_end(driver)
    return shown_report(driver)


def shown_report(driver):
    return desk(driver)._shown_record().report


def test_a_fit_begins_with_the_method_and_is_better_than_bilinear(driver):
    window, studio, panel = driver.window, driver.studio, desk(driver).panel
    before = studio.views["pca"]
    assert not desk(driver).dock.isVisible()
    choose_implicit(driver)
    assert desk(driver).dock.isVisible()
    assert desk(driver).running
    assert driver.views["pca"].stale, "the former picture is dimmed until there is something to see"
    assert panel.discard.isVisible()
    assert not panel.pause.isVisible()
    wait_for_end(driver)
    state = shown_report(driver).state
    assert state.finished
    assert state.best < state.bilinear
    assert studio.views["pca"] is not before
    assert studio.views["pca"].facts.method == "implicit"
    assert studio.views["pca"].explained == before.explained, "the colours mean the same as before"
    assert studio.views["similarity"].facts.method == "implicit"
    assert studio.views["cam"].facts.method == "attention", "nobody asked for a fit of the classifier's features"
    assert "Attention" in studio.views["cam"].note
    assert not window.notice.isVisible()

    assert [level.name for level in panel.curve.levels] == ["bilinear", "jbu"]
    assert [step for step, _ in panel.curve.points] == [1, 2]
    assert panel.figures.values["step"].text() == "2 of 2"
    assert "lower" in panel.figures.values["gain"].text()
    assert panel.headline.text() == state.reason
    assert panel.more.isVisible()
    assert panel.fits.count() == 1
    assert panel.fits.item(0).text().startswith("default, 16 views, seed 0")


def test_the_base_field_is_shown_before_the_first_step(driver, monkeypatch):
    """The first picture waits for no view: held-out views come one after the other, and nothing is fitted before them."""
    waiting = []
    monkeypatch.setattr(fit_module.ImplicitFit, "prepare", lambda self, progress: waiting.append(1) or time.sleep(0.01))
    monkeypatch.setattr(fit_module.ImplicitFit, "_one_step", lambda self, progress: time.sleep(0.01))
    studio, panel = driver.studio, desk(driver).panel
    choose_implicit(driver)
    driver.wait_for(lambda: studio.views["pca"].facts.method == "implicit")
    driver.wait_for(lambda: studio.views["similarity"].facts.method == "implicit")
    driver.wait_for(lambda: bool(waiting))
    assert shown_report(driver).state.step == 0
    assert not driver.views["pca"].stale
    driver.click("pca", 100, 100)
    driver.wait_for(lambda: studio.views["similarity"].request.point == pytest.approx((100, 100), abs=1))
    click(panel.discard)
    wait_for_end(driver)
    assert studio.settings.method == "attention"
    assert panel.fits.count() == 0


def test_compute_repeats_nothing_and_other_settings_make_another_fit(driver):
    fitted(driver)
    panel, studio = desk(driver).panel, driver.studio
    first = studio.fit
    click(driver.window.bar.compute)
    driver.wait_until_idle()
    assert desk(driver).numbers == (first,)
    panel.tabs.setCurrentIndex(SETTINGS)
    panel.settings.colour.setChecked(False)
    click(driver.window.bar.compute)
    assert desk(driver).running
    wait_for_end(driver)
    second = studio.fit
    assert desk(driver).numbers == (first, second)
    assert "without colour" in panel.fits.item(1).text()
    picture = studio.views["pca"].pixels

    panel.tabs.setCurrentIndex(COMPARE)
    driver.wait_for(lambda: len(panel.comparison.boxes) == 4)
    captions = [box.caption for box in panel.comparison.boxes]
    assert captions[0].startswith("Bilinear")
    assert captions[1].startswith("FeatUp JBU")
    item = panel.fits.item(0)
    QTest.mouseClick(panel.fits.viewport(), Qt.MouseButton.LeftButton, pos=panel.fits.visualItemRect(item).center())
    driver.wait_for(lambda: studio.fit == first)
    driver.wait_until_idle()
    assert not (studio.views["pca"].pixels == picture).all()
    assert panel.settings.colour.isChecked()
    driver.wait_for(lambda: len(panel.comparison.boxes) == 4)
    click(panel.comparison.boxes[3])
    driver.wait_for(lambda: studio.fit == second)
    driver.wait_until_idle()
    assert (studio.views["pca"].pixels == picture).all()
    click(panel.forget)
    driver.wait_for(lambda: studio.fit == first)
    driver.wait_until_idle()
    assert panel.fits.count() == 1


def test_pause_resume_clicks_in_between_stop_and_more_steps(driver):
    panel, studio = desk(driver).panel, driver.studio
    panel.settings.views.setValue(MANY)
    choose_implicit(driver)
    wait_for_steps(driver, 1)
    driver.wait_for(lambda: studio.views["pca"].facts.method == "implicit")
    click(panel.pause)
    assert panel.pause.text() == "Resume"
    driver.wait_until_idle()
    step = shown_report(driver).state.step
    driver.qtbot.wait(400)
    assert shown_report(driver).state.step == step
    assert panel.headline.text() == "Paused"
    click(panel.pause)
    driver.wait_for(lambda: shown_report(driver).state.step > step)
    driver.click("pca", 100, 100)  # answered between two pieces, while the fit goes on
    driver.wait_for(lambda: studio.views["similarity"].request.point == pytest.approx((100, 100), abs=1))
    assert desk(driver).running
    assert studio.views["similarity"].facts.method == "implicit"
    QTest.keyClick(driver.window, Qt.Key.Key_Escape)
    driver.wait_for(lambda: desk(driver).paused)
    assert driver.views["pca"].has_lens
    click(panel.stop)
    wait_for_end(driver)
    stopped = shown_report(driver).state
    assert not stopped.finished
    assert stopped.best < stopped.bilinear
    assert "the best state is kept" in panel.headline.text()
    assert studio.views["pca"].facts.method == "implicit"
    click(panel.more)
    driver.wait_for(lambda: shown_report(driver).state.step > stopped.step)
    assert not panel.discard.isVisible(), "what had been kept is not lost with the continuation"
    click(panel.stop)
    wait_for_end(driver)


def test_discard_brings_back_what_was_there(driver):
    panel, studio = desk(driver).panel, driver.studio
    picture = studio.views["pca"].pixels
    panel.settings.views.setValue(MANY)
    choose_implicit(driver)
    click(panel.discard)  # before the first step
    wait_for_end(driver)
    assert studio.settings.method == "attention"
    assert (studio.views["pca"].pixels == picture).all()
    assert panel.fits.count() == 0
    assert desk(driver).dock.isHidden(), "no room without a fit"

    choose_implicit(driver)
    wait_for_steps(driver, 1)
    assert desk(driver).dock.isVisible()
    driver.wait_for(lambda: studio.views["pca"].facts.method == "implicit")
    click(panel.discard)  # after it
    wait_for_end(driver)
    assert studio.settings.method == "attention"
    assert driver.window.controls.method.currentData() == "attention"
    assert (studio.views["pca"].pixels == picture).all()
    assert panel.fits.count() == 0
    assert desk(driver).dock.isHidden(), "no room without a fit"
    assert not driver.window.notice.isVisible()


def test_cancelling_the_preparation_gives_the_fit_up(driver):
    studio = driver.studio
    choose_implicit(driver)
    driver.wait_for(driver.window.bar.cancel.isEnabled)
    click(driver.window.bar.cancel)
    wait_for_end(driver)
    assert studio.settings.method == "attention"
    assert not any(panel.stale for panel in driver.views.values())


def test_what_was_learned(driver):
    panel = desk(driver).panel
    panel.tabs.setCurrentIndex(LEARNED)
    fitted(driver)
    driver.wait_for(lambda: panel.learned.fit == driver.studio.fit)
    learned = panel.learned
    assert learned.uncertainty.isVisible()
    assert not learned.kernel.isVisible(), "this recipe learns none"
    assert not learned.saliency.isVisible()
    assert learned.number.maximum() == 6
    assert learned.number.value() == 1
    picture = learned.residual._image
    QTest.keyClick(learned.number, Qt.Key.Key_Up)
    assert learned.number.value() == 2
    assert learned.residual._image != picture
    panel.tabs.setCurrentIndex(CURVE)


def test_a_fit_is_saved_opened_and_refused_for_another_image(driver, tmp_path, monkeypatch):
    window, studio = driver.window, driver.studio
    report = fitted(driver)
    picture, file = studio.views["pca"].pixels, tmp_path / "cat"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (str(file), ""))
    click(desk(driver).panel.save)
    driver.wait_for(window.notice.isVisible)
    file = file.with_suffix(".safetensors")
    assert file.is_file()
    assert file.name in window.notice.text.text()
    click(desk(driver).panel.forget)
    driver.wait_for(lambda: studio.settings.method == "attention")
    driver.wait_until_idle()

    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *args: (str(file), ""))
    window.actions_by_name["open_fit"].trigger()
    driver.wait_for(lambda: studio.fit is not None)
    driver.wait_until_idle()
    assert studio.settings.method == "implicit"
    assert (studio.views["pca"].pixels == picture).all()
    assert shown_report(driver).held_out == pytest.approx(report.held_out)
    assert not desk(driver).panel.more.isVisible()

    studio.choose(studio.settings.with_(method="jbu"))
    driver.wait_until_idle()
    studio.open(sample_images()[1])
    driver.wait_for(lambda: studio.image.name == sample_images()[1].name)
    driver.wait_until_idle()
    window.actions_by_name["open_fit"].trigger()
    driver.wait_for(window.notice.isVisible)
    assert sample_images()[0].name in window.notice.text.text()
    assert studio.settings.method == "jbu"
    assert desk(driver).panel.fits.count() == 0


def test_another_image_during_a_fit_and_back(driver):
    studio, panel = driver.studio, desk(driver).panel
    panel.settings.views.setValue(MANY)
    choose_implicit(driver)
    wait_for_steps(driver, 1)
    first = desk(driver).book.running.number
    panel.settings.views.setValue(FEW)
    studio.open(sample_images()[1])
    driver.wait_for(lambda: studio.image.name == sample_images()[1].name)
    wait_for_end(driver)
    assert studio.fit not in (None, first)
    assert studio.views["pca"].facts.geometry.image_hw == studio.image.size_hw
    assert panel.fits.count() == 1
    panel.settings.seed.setValue(1)
    click(driver.window.bar.compute)
    assert desk(driver).running
    click(panel.discard)
    wait_for_end(driver)
    assert panel.fits.count() == 1
    assert studio.settings.method == "implicit", "the fit from before it"
    click(panel.forget)
    driver.wait_for(lambda: studio.settings.method == "attention")
    driver.wait_until_idle()
    choose_implicit(driver)
    click(panel.discard)
    wait_for_end(driver)
    assert studio.settings.method == "attention"
    panel.settings.views.setValue(FEW)
    studio.choose(studio.settings.with_(method="implicit"))
    wait_for_end(driver)
    studio.open(sample_images()[0])
    driver.wait_for(lambda: studio.image.name == sample_images()[0].name)
    driver.wait_until_idle()
    assert studio.fit == first, "what was fitted until then was kept"
    assert not desk(driver).running
    studio.choose(studio.settings.with_(method="bilinear"))
    driver.wait_until_idle()
    assert studio.views["pca"].facts.method == "bilinear"


def test_another_method_meanwhile(driver):
    studio, panel = driver.studio, desk(driver).panel
    panel.settings.views.setValue(3 * 8)
    choose_implicit(driver)
    wait_for_steps(driver, 1)
    studio.choose(studio.settings.with_(method="bilinear"))
    driver.wait_for(lambda: studio.views["pca"].facts.method == "bilinear")
    driver.wait_for(lambda: not desk(driver).running)
    driver.wait_until_idle()
    assert studio.views["pca"].facts.method == "bilinear"
    notice = driver.window.notice
    assert "has ended" in notice.text.text()
    click(notice.action)
    driver.wait_for(lambda: studio.settings.method == "implicit")
    driver.wait_until_idle()
    assert studio.views["pca"].facts.method == "implicit"


def test_a_diverging_fit_keeps_its_last_good_state(driver, monkeypatch):
    real = fit_module.ImplicitFit._held_out_error

    def diverging(self):
        return math.nan if self.state.step >= 2 else real(self)

    monkeypatch.setattr(fit_module.ImplicitFit, "_held_out_error", diverging)
    report = fitted(driver, views=MANY)
    assert "diverged" in report.state.reason
    assert desk(driver).panel.headline.text() == report.state.reason
    assert report.held_out < report.state.bilinear
    assert driver.studio.views["pca"].facts.method == "implicit"


def test_a_step_that_fails_keeps_what_was_there(driver, monkeypatch):
    real = fit_module.ImplicitFit._one_step

    def failing(self, progress):
        if self.state.step >= 1:
            raise ZeroDivisionError("something impossible")
        real(self, progress)

    monkeypatch.setattr(fit_module.ImplicitFit, "_one_step", failing)
    fitted(driver, views=MANY)
    assert "unexpected" in driver.window.notice.text.text()
    assert driver.studio.views["pca"].facts.method == "implicit"


def test_a_fit_that_needs_too_much_memory_is_refused_with_a_smaller_one(driver, monkeypatch):
    real = fit_module.ImplicitFit.memory_bytes
    monkeypatch.setattr(
        fit_module.ImplicitFit, "memory_bytes", lambda self: real(self) + 10**15 * (self.recipe.waves == 0)
    )
    monkeypatch.setattr(
        fit_module.ImplicitFit,
        "smaller",
        lambda self: fits.replace(self.recipe, name="default, smaller", waves=64),
    )
    choose_implicit(driver)
    driver.wait_for(driver.window.notice.isVisible)
    assert "of memory" in driver.window.notice.text.text()
    assert "a smaller fit would need" in driver.window.notice.text.text()
    assert driver.studio.settings.method == "attention"
    driver.wait_until_idle()
    click(driver.window.notice.action)
    driver.wait_for(lambda: driver.studio.settings.method == "implicit")
    wait_for_end(driver)
    assert "smaller" in desk(driver).panel.fits.item(0).text()


@pytest.mark.parametrize("when", ["preparing", "fitting"])
def test_the_window_closes_during_a_fit(driver, when):
    desk(driver).panel.settings.views.setValue(MANY)
    choose_implicit(driver)
    if when == "fitting":
        wait_for_steps(driver, 1)
    driver.window.close()
    assert not driver.window.isVisible()


@pytest.mark.parametrize("answer", ["stay", "save", "discard"])
def test_a_long_fit_that_is_not_saved_is_asked_for(driver, monkeypatch, tmp_path, answer):
    fitted(driver)
    asked, file = [], tmp_path / "kept.safetensors"
    monkeypatch.setattr(fit_files, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(fit_files, "ask_before_closing", lambda window, title, text, **_: asked.append(text) or answer)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (str(file), ""))
    closed = driver.window.close()
    assert "not saved" in asked[0]
    assert closed == (answer == "discard")
    if answer == "save":
        driver.wait_for(lambda: not driver.window.isVisible())
        assert file.is_file()
    elif answer == "stay":
        assert driver.window.isVisible()
    monkeypatch.undo()


def test_round_numbers_stand_at_the_logarithmic_axis():
    assert round_numbers(0.703, 0.709) == pytest.approx([0.704, 0.706, 0.708])
    assert round_numbers(0.2, 0.7) == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert round_numbers(0.3, 20) == pytest.approx([0.5, 1, 2, 5, 10, 20])
    assert round_numbers(0.02, 500) == pytest.approx([0.1, 1, 10, 100])


def test_the_window_stays_alive_during_a_fit(driver):
    """Ticks of a timer on the window's thread go on (no bound on speed: test_smoothness.py has one)."""
    desk(driver).panel.settings.views.setValue(MANY)
    choose_implicit(driver)
    wait_for_steps(driver, 1)
    gaps, last = [], time.monotonic()
    for _ in range(100):
        QTest.qWait(5)
        now = time.monotonic()
        gaps.append(now - last)
        last = now
    assert desk(driver).running
    assert max(gaps) < 2
    desk(driver).discard()
    wait_for_end(driver)
