"""Works around a defect of the Qt binding that would abort the program after some thousand signals or calls."""

from __future__ import annotations

import ctypes
import sys

from PySide6.QtCore import QObject, Signal

_TRIALS = 64
_ENOUGH = 2**40
"""References: at a million calls each second they last for twelve days."""


class _Bell(QObject):
    rung = Signal()


def keep_constants_alive() -> tuple[object, ...]:
    """Give ``True`` and ``None`` references to lose, if calls of Qt lose them; those for which it was necessary.

    PySide6 6.12.0 returns a new reference to ``True`` from every emitted signal, and to ``None`` from every method without a
    result, without counting it. Python before 3.12 counts these references, and aborts ("deallocating None") when the count
    reaches zero: for ``True`` some thousand signals after the start, for ``None`` after about 150 pictures in one window. Newer
    Pythons do not count references to constants, and other versions of PySide6 do it right. Whether references are lost is
    measured, not inferred from version numbers.
    """
    traced = hasattr(sys, "getobjects")  # such a Python keeps other things where the count is written below
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 12) or traced:
        return ()
    bell, constants = _Bell(), (True, None)
    before = [sys.getrefcount(constant) for constant in constants]
    for _ in range(_TRIALS):
        bell.rung.emit()
        bell.setObjectName("")
    lost = [count - sys.getrefcount(constant) for count, constant in zip(before, constants, strict=True)]
    losing = tuple(constant for constant, number in zip(constants, lost, strict=True) if number >= _TRIALS // 2)
    for constant in losing:
        count = ctypes.c_ssize_t.from_address(id(constant))
        if count.value < _ENOUGH // 2:
            count.value += _ENOUGH
    return losing
