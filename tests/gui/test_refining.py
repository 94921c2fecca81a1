"""Refining while idle: behind the picture, while nobody is at work and with mains power, without a jump, undone at a click."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from featup_app.engine import power
from featup_app.engine.preferences import FILE_NAME
from featup_app.fields.implicit import fit as fit_module
from featup_app.fields.implicit.recipe import DEFAULT
from featup_app.gui.fit import refinement
from featup_app.images import sample_images

pytestmark = pytest.mark.usefixtures("one_thread")


class Computer:
    """The power and the load that the window is told of."""

    battery = False
    free = True


@pytest.fixture
def computer(monkeypatch) -> Computer:
    computer = Computer()
    monkeypatch.setattr(refinement, "on_battery", lambda: computer.battery)
    monkeypatch.setattr(refinement, "processor_free", lambda: computer.free)
    monkeypatch.setattr(refinement, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(refinement, "DEFAULT", fit_module.replace(DEFAULT, views=16))
    return computer


@pytest.fixture
def driver(config, computer, start):
    config(input_size="84", output_size="4x", method="attention")
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    return driver


def switch(driver) -> None:
    """Open the menu Compute and click the entry, as a person does."""
    bar, action = driver.window.menuBar(), driver.window.actions_by_name["refine"]
    menu = next(entry.menu() for entry in bar.actions() if entry.text() == "&Compute")
    QTest.mouseClick(bar, Qt.MouseButton.LeftButton, pos=bar.actionGeometry(menu.menuAction()).center())
    driver.wait_for(menu.isVisible)
    QTest.mouseClick(menu, Qt.MouseButton.LeftButton, pos=menu.actionGeometry(action).center())
    driver.wait_for(lambda: not menu.isVisible())


def wait_for_swap(driver) -> None:
    driver.wait_for(lambda: driver.studio.views["pca"].facts.method == "implicit")
    driver.wait_until_idle()


def test_nothing_is_refined_unless_that_is_switched_on(driver):
    assert not driver.window.actions_by_name["refine"].isChecked()
    driver.qtbot.wait(1500)
    assert not driver.window.fitting.running
    assert driver.window.fitting.numbers == ()


def test_a_picture_is_refined_without_a_jump_and_that_is_undone_at_a_click(driver):
    window, studio = driver.window, driver.studio
    driver.wheel("pca", 150, 100, 3)
    driver.click("pca", 120, 90)
    driver.wait_until_idle()
    place, query, before = driver.seen("pca"), studio.query, studio.views["pca"]
    dimmed: list[str] = []
    studio.stale.connect(lambda name, stale: dimmed.append(name) if stale else None)
    switch(driver)
    driver.wait_for(lambda: window.fitting.running)
    assert studio.settings.method == "attention"
    assert not window.fitting.dock.isVisible(), "it runs behind the picture"
    record = window.fitting.book.running
    assert record.request.recipe.start == "attention", "it starts from the picture that is shown"
    wait_for_swap(driver)
    assert studio.settings.method == window.controls.method.currentData() == "implicit"
    assert (driver.seen("pca"), studio.query) == (place, query)
    assert studio.views["pca"].explained == before.explained, "the colours mean the same as before"
    assert studio.views["similarity"].facts.method == "implicit"
    assert not dimmed
    assert "refined while you were away" in window.notice.text.text()
    assert window.notice.action.text() == "Undo"
    assert window.fitting.panel.fits.count() == 1

    QTest.mouseClick(window.notice.action, Qt.MouseButton.LeftButton)
    driver.wait_for(lambda: studio.views["pca"].facts.method == "attention")
    driver.wait_until_idle()
    assert np.array_equal(studio.views["pca"].picture(), before.picture())
    assert driver.seen("pca") == place
    driver.qtbot.wait(1500)
    assert studio.settings.method == "attention", "each picture is refined once"
    assert not window.fitting.running


def test_it_waits_on_battery_and_while_other_programs_work(driver, computer):
    computer.battery = True
    switch(driver)
    driver.qtbot.wait(1500)
    assert not driver.window.fitting.running
    computer.battery, computer.free = False, False
    driver.qtbot.wait(1500)
    assert not driver.window.fitting.running
    computer.free = True
    wait_for_swap(driver)


def test_a_fit_behind_the_picture_waits_while_somebody_is_at_work(driver, computer, monkeypatch):
    monkeypatch.setattr(refinement, "DEFAULT", fit_module.replace(DEFAULT, views=4000, patience=0))
    desk = driver.window.fitting
    switch(driver)
    driver.wait_for(lambda: desk.book.running is not None and desk.book.running.usable)
    computer.battery = True
    driver.qtbot.wait(1200)
    driver.wait_until_idle()
    step = desk.book.running.report.state.step
    driver.qtbot.wait(1000)
    assert desk.book.running.report.state.step == step
    computer.battery = False
    driver.wait_for(lambda: desk.book.running.report.state.step > step)
    monkeypatch.setattr(refinement, "IDLE_SECONDS", 60.0)
    driver.click("pca", 100, 100)
    driver.wait_until_idle()
    step = desk.book.running.report.state.step
    driver.qtbot.wait(1000)
    assert desk.book.running.report.state.step == step
    assert driver.studio.settings.method == "attention"
    switch(driver)
    assert not desk.running
    assert desk.numbers == ()
    assert driver.studio.settings.method == "attention"


def test_a_fit_behind_the_picture_is_shown_when_the_method_is_chosen(driver, monkeypatch):
    monkeypatch.setattr(refinement, "DEFAULT", fit_module.replace(DEFAULT, views=4000, patience=0))
    desk, studio = driver.window.fitting, driver.studio
    switch(driver)
    driver.wait_for(lambda: desk.book.running is not None and desk.book.running.usable)
    number = desk.book.running.number
    monkeypatch.setattr(refinement, "IDLE_SECONDS", 60.0)
    studio.choose(studio.settings.with_(method="implicit"))
    driver.wait_for(lambda: studio.views["pca"].facts.method == "implicit")
    assert studio.fit == number
    assert desk.dock.isVisible()
    step = desk.book.running.report.state.step
    driver.wait_for(lambda: desk.book.running.report.state.step > step)
    QTest.mouseClick(desk.panel.stop, Qt.MouseButton.LeftButton)
    driver.wait_for(lambda: not desk.running)
    driver.wait_until_idle()
    assert studio.settings.method == "implicit"
    assert not driver.window.notice.isVisible()


def test_cancelling_and_failing_leave_the_picture(driver, computer, monkeypatch):
    monkeypatch.setattr(refinement, "DEFAULT", fit_module.replace(DEFAULT, views=4000, patience=0))
    monkeypatch.setattr(
        fit_module.ImplicitFit, "prepare", lambda self, progress: time.sleep(0.05) or progress("x", 0, 0)
    )
    monkeypatch.setattr(fit_module.ImplicitFit, "_one_step", lambda self, progress: progress("x", 0, 0))
    desk = driver.window.fitting
    switch(driver)
    driver.wait_for(lambda: desk.running)

    def cancelled() -> bool:
        if driver.window.bar.cancel.isEnabled():  # between two pieces there is nothing to cancel
            QTest.mouseClick(driver.window.bar.cancel, Qt.MouseButton.LeftButton)
        return not desk.running

    driver.wait_for(cancelled)
    driver.wait_until_idle()
    assert desk.numbers == ()
    assert driver.studio.views["pca"].facts.method == "attention"
    driver.qtbot.wait(1000)
    assert not desk.running, "who cancelled it does not want it"


def test_the_switch_is_remembered(config, computer, start, tmp_path):
    computer.battery = True
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    switch(driver)
    driver.window.close()
    assert json.loads((tmp_path / "config" / FILE_NAME).read_text())["refine"] is True
    again = start(sample_images()[0])
    assert again.window.refinement.enabled
    assert again.window.actions_by_name["refine"].isChecked()


def test_power_is_read_from_the_computer(monkeypatch):
    class Battery:
        power_plugged: bool | None = None

    battery = Battery()
    monkeypatch.setattr(power.psutil, "sensors_battery", lambda: battery, raising=False)
    for plugged, expected in ((True, False), (False, True), (None, False)):
        battery.power_plugged = plugged
        assert power.on_battery() is expected
    monkeypatch.setattr(power.psutil, "sensors_battery", lambda: None, raising=False)
    assert not power.on_battery()
    monkeypatch.delattr(power.psutil, "sensors_battery")
    assert not power.on_battery()
    for load, free in ((0.0, False), (20.0, True), (80.0, False)):
        monkeypatch.setattr(power.psutil, "cpu_percent", lambda interval, load=load: load)
        assert power.processor_free() is free
