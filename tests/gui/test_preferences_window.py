"""The preferences in the window: the budget of kept results takes effect at once, and is there at the next start."""

from __future__ import annotations

import json

import pytest
from PySide6.QtCore import QLocale, Qt
from PySide6.QtTest import QTest

from featup_app.base.words import human_bytes
from featup_app.engine.memory import default_keep_bytes, machine_bytes
from featup_app.engine.preferences import FILE_NAME
from featup_app.gui.preferences_dialog import PreferencesDialog
from featup_app.images import sample_images


@pytest.fixture
def opened(monkeypatch) -> list[PreferencesDialog]:
    """The dialogs that were opened; they do not wait for anybody."""
    found: list[PreferencesDialog] = []

    def show(dialog: PreferencesDialog) -> int:
        found.append(dialog)
        dialog.show()
        return 0

    monkeypatch.setattr(PreferencesDialog, "exec", show)
    return found


@pytest.fixture
def driver(start):
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    return driver


def type_budget(dialog: PreferencesDialog, text: str) -> None:
    dialog.budget.selectAll()
    QTest.keyClicks(dialog.budget, text)
    QTest.keyClick(dialog.budget, Qt.Key.Key_Return)


def test_a_budget_takes_effect_at_once_and_is_remembered(driver, opened, tmp_path):
    window = driver.window
    session = window.engine._session
    assert session.kept.budget == default_keep_bytes()
    before = window.engine.kept_bytes
    assert before > 50_000_000, "at least a backbone"
    QTest.keyClick(window, Qt.Key.Key_Comma, Qt.KeyboardModifier.ControlModifier)
    (dialog,) = opened
    assert dialog.budget.value() == pytest.approx(default_keep_bytes() / 1e9, abs=0.051)
    assert dialog.budget.maximum() == pytest.approx(machine_bytes() / 1e9, abs=0.051)
    assert human_bytes(before) in dialog.in_use.text()
    assert not dialog.default.isEnabled()

    dialog.budget.setLocale(QLocale.c())
    type_budget(dialog, "0.1")
    assert dialog.isVisible()
    driver.wait_until_idle()
    assert session.kept.budget == 10**8
    assert session.kept.bytes < before, "the classifier, or what clicks prepared, is dropped"
    driver.wait_for(lambda: human_bytes(session.kept.bytes) in dialog.in_use.text())
    stored = tmp_path / "config" / FILE_NAME
    assert json.loads(stored.read_text())["memory_budget"] == 10**8
    driver.click("pca", 60, 40)
    driver.wait_until_idle()
    assert driver.studio.views["similarity"].request.point == pytest.approx((60, 40), abs=3)

    dialog.default.click()
    driver.wait_until_idle()
    assert session.kept.budget == default_keep_bytes()
    assert dialog.budget.value() == pytest.approx(default_keep_bytes() / 1e9, abs=0.051)
    assert json.loads(stored.read_text())["memory_budget"] is None


def test_the_next_start_has_the_budget_that_was_chosen(start, config, tmp_path, opened):
    stored = tmp_path / "config" / FILE_NAME
    stored.write_text(json.dumps({**json.loads(stored.read_text()), "memory_budget": 2 * 10**9}))
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    assert driver.window.engine._session.kept.budget == 2 * 10**9
    driver.window.actions_by_name["preferences"].trigger()
    assert opened[0].budget.value() == pytest.approx(2.0)
    assert opened[0].default.isEnabled()
