"""Whether there is a screen for the window. Imports no Qt, which ends the program where there is none."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from featup_app.base.errors import FeatUpError

_SECONDS = 2.0
_FIRST_PORT = 6000
"""TCP port of X display 0."""


def check_display(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> None:
    """Raises FeatUpError if Qt would find no display: on Unix neither a Wayland nor an X server that answers."""
    chosen = environment.get("QT_QPA_PLATFORM", "").partition(":")[0].partition(";")[0]
    if platform in ("win32", "darwin", "cygwin") or chosen not in ("", "xcb", "wayland", "wayland-egl"):
        return
    wayland, display = environment.get("WAYLAND_DISPLAY"), environment.get("DISPLAY")
    if wayland and _answers(str(Path(environment.get("XDG_RUNTIME_DIR", "/run"), wayland))):
        return
    if display and _x_answers(display):
        return
    named = f'the display "{display or wayland}" does not answer' if display or wayland else "there is no display"
    raise FeatUpError(
        f"Cannot open the window: {named}; log in with a screen (for ssh: ssh -X), or use the commands that need none, such as "
        '"featup-app export IMAGE".'
    )


def _x_answers(display: str) -> bool:
    host, _, number = display.rpartition(":")
    number = number.partition(".")[0]
    if not number.isdecimal():
        return Path(display).exists()  # macOS names a socket
    if host in ("", "unix"):
        path = f"/tmp/.X11-unix/X{number}"
        return _answers(path) or (sys.platform == "linux" and _answers(f"\0{path}"))
    try:
        with socket.create_connection((host, _FIRST_PORT + int(number)), timeout=_SECONDS):
            return True
    except OSError:
        return False


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect(path)
        except OSError:
            return False
    return True
