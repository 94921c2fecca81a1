"""Ctrl-C for long work that keeps what it has: noted by the signal, obeyed between two steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from featup_app.base.errors import Cancelled


@contextmanager
def stopped_by_signals(*, alone: bool = True) -> Iterator[Callable[[], None]]:
    """Ctrl-C and a polite request of the system to end (SIGTERM) are noted; the check raises Cancelled at the next step.

    A second one ends the program at once, unless it is one of several processes: torchrun passes on what the terminal has
    sent already, and ends what does not end by itself within half a minute.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked and alone:
            raise KeyboardInterrupt
        asked.append(number)

    def check() -> None:
        if asked:
            raise Cancelled

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, where signals do not arrive
        yield check
        return
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
