"""Where a window opens: in its remembered place, but never larger than the screen or outside of it."""

from __future__ import annotations

import base64
import binascii

from PySide6.QtCore import QByteArray, QRect, QSize
from PySide6.QtGui import QGuiApplication, QScreen
from PySide6.QtWidgets import QWidget

DEFAULT_SIZE = QSize(1440, 900)

_TITLE_BAR = 36
"""Pixels that a title bar takes, where the window system adds one and has not told its height yet."""


def place(window: QWidget, remembered: str | None) -> None:
    """Give a window that is not shown yet its size and place.

    Args:
        window: the window.
        remembered: what :func:`place_of` said in an earlier run; None, or a text that says nothing, for a window of the default
            size in the middle of the screen.
    """
    restored = remembered is not None and window.restoreGeometry(_bytes_of(remembered))
    if window.isMaximized() or window.isFullScreen():
        return
    screen = QGuiApplication.screenAt(window.geometry().center()) or window.screen()
    wanted = window.geometry() if restored else QRect(window.pos(), DEFAULT_SIZE)
    window.setGeometry(fitted(wanted, _room(screen), centred=not restored))


def place_of(window: QWidget) -> str:
    """Size, place and screen of a window, for :func:`place`."""
    return base64.b64encode(bytes(window.saveGeometry().data())).decode()


def _room(screen: QScreen) -> QRect:
    """What a window without its title bar may cover."""
    available = screen.availableGeometry()
    managed = available != screen.geometry()  # a bar of the desktop stands there, so windows have title bars
    return available.adjusted(0, _TITLE_BAR if managed else 0, 0, 0)


def fitted(rectangle: QRect, available: QRect, *, centred: bool = False) -> QRect:
    """A rectangle made no larger than another, and moved into it; into its middle if ``centred``."""
    inside = QRect(rectangle.topLeft(), rectangle.size().boundedTo(available.size()))
    if centred:
        inside.moveCenter(available.center())
    inside.moveLeft(min(max(inside.left(), available.left()), available.right() + 1 - inside.width()))
    inside.moveTop(min(max(inside.top(), available.top()), available.bottom() + 1 - inside.height()))
    return inside


def _bytes_of(text: str) -> QByteArray:
    try:
        return QByteArray(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return QByteArray()
