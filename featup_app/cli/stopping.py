"""Ctrl-C for long work that keeps its results: the signal is noted, and the work stops between two steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from featup_app.base.errors import Cancelled
from featup_app.base.progress import Progress, Stage


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a program to end, beside Ctrl-C; SIGHUP not where it is ignored, as under nohup."""
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is None or signal.getsignal(hang_up) is signal.SIG_IGN:
        return (signal.SIGTERM,)
    return signal.SIGTERM, hang_up


@contextmanager
def stopped_by_signals(*, alone: bool = True) -> Iterator[Callable[[], None]]:
    """Note Ctrl-C (SIGINT), SIGTERM and SIGHUP, the end of the terminal.

    Args:
        alone: whether this is the only process. Then a second signal ends the program at once. One of several processes must
            not do so: torchrun sends it the signal that it has already received from the terminal, and kills it after half a
            minute if it has not ended.

    Yields:
        A check that raises Cancelled after a signal; call it between steps.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked and alone:
            raise KeyboardInterrupt
        asked.append(number)

    def check() -> None:
        if asked:
            raise Cancelled

    with _handled_by(note, signal.SIGINT, *ending_signals()):
        yield check


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """A polite request of the system to end (SIGTERM, SIGHUP) cleans up like Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    with _handled_by(stop, *ending_signals()):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None], *signals: signal.Signals) -> Iterator[None]:
    """Signals call the handler within; in other threads than the main one, where they do not arrive, nothing changes."""
    try:
        before = {number: signal.signal(number, handler) for number in signals}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def checked(progress: Progress, check: Callable[[], None]) -> Progress:
    """The progress, with a check before each call that may raise Cancelled."""

    def inner(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
        check()
        progress(words, done, total, stage)

    return inner
