"""Where the window opens: in its remembered place, and never larger than the screen or outside of it."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QRect
from PySide6.QtWidgets import QWidget

from featup_app.gui.placing import DEFAULT_SIZE, fitted, place, place_of

SCREEN = QRect(0, 24, 1280, 696)


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        (QRect(100, 100, 800, 500), QRect(100, 100, 800, 500)),
        (QRect(100, 100, 1440, 900), SCREEN),
        (QRect(-300, -200, 800, 500), QRect(0, 24, 800, 500)),
        (QRect(5000, 3000, 800, 500), QRect(480, 220, 800, 500)),
    ],
)
def test_a_window_ends_inside_the_screen(wanted, got):
    assert fitted(wanted, SCREEN) == got


def test_a_first_window_stands_in_the_middle():
    assert fitted(QRect(0, 0, 1000, 600), SCREEN, centred=True).center() == SCREEN.center()


def test_place_and_size_are_remembered(qapp):
    before, after = QWidget(), QWidget()
    place(before, None)
    before.setGeometry(QRect(120, 90, 500, 400))
    place(after, place_of(before))
    assert after.geometry() == before.geometry()


@pytest.mark.parametrize("text", ["", "not base64!", "AAAA"])
def test_an_unreadable_place_is_the_first_place(qapp, text):
    window = QWidget()
    place(window, text)
    available = window.screen().availableGeometry()
    assert available.contains(window.geometry())
    assert window.size() == DEFAULT_SIZE.boundedTo(available.size())
