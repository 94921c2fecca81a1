"""Signals and calls without end: a defect of PySide6 6.12.0 would abort older Pythons after some thousand of them."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from PySide6.QtCore import QObject, Signal
from featup_app.gui.app import make_application

application = make_application(["test"])

class Bell(QObject):
    rung = Signal(int)

bell, heard = Bell(), []
bell.rung.connect(heard.append)
for number in range(200_000):
    bell.rung.emit(number)
assert len(heard) == 200_000
for number in range(400_000):
    bell.setObjectName("")
print("alive")
"""


def test_the_program_outlives_many_signals_and_calls():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "alive\n", done.stderr
    assert done.returncode == 0, done.stderr
