"""Makes up for a defect of the Qt binding that would end the program after some thousand signals."""

from __future__ import annotations

import ctypes
import sys

from PySide6.QtCore import QObject, Signal

_TRIALS = 64
_ENOUGH = 2**40
"""References: a million signals each second would take twelve days to lose them."""


class _Bell(QObject):
    rung = Signal()


def keep_true_alive() -> bool:
    """Give ``True`` references to lose, if signals lose them; whether that was necessary.

    With every signal PySide6 6.12.0 gives back a reference to ``True`` that it did not take. Python before 3.12 counts them, and
    aborts ("deallocating True or False") when the count comes to zero: some thousand signals after the start, in the middle of a
    fit or of moving the mouse. Newer Pythons do not count references to ``True``, and other versions of PySide6 return what
    they took; whether it is so is measured, and not guessed from version numbers.
    """
    traced = hasattr(sys, "getobjects")  # such a Python keeps other things where the count is written below
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 12) or traced:
        return False
    bell = _Bell()
    before = sys.getrefcount(True)
    for _ in range(_TRIALS):
        bell.rung.emit()
    if before - sys.getrefcount(True) < _TRIALS // 2:
        return False
    count = ctypes.c_ssize_t.from_address(id(True))
    if count.value < _ENOUGH // 2:
        count.value += _ENOUGH
    return True
