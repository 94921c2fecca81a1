"""Jobs on a worker thread: one at a time, cancellable; the latest job of a kind replaces earlier ones. No Qt."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from featup_app.base.errors import Cancelled
from featup_app.base.progress import Progress, Stage

_PROGRESS_INTERVAL = 0.04
_ids = count(1)


@dataclass(frozen=True)
class Job:
    """The job that an event is about: its number, unique in the process, its kind, and whether nobody waits for it."""

    id: int
    kind: str
    background: bool = False


@dataclass(frozen=True)
class Started:
    job: Job


@dataclass(frozen=True)
class Progressed:
    """``done`` of ``total`` steps, and the current activity in words; a ``total`` of 0 means unknown."""

    job: Job
    words: str
    done: int
    total: int
    stage: Stage = Stage.WORKING


@dataclass(frozen=True)
class Succeeded:
    job: Job
    result: Any


@dataclass(frozen=True)
class Failed:
    job: Job
    error: Exception


@dataclass(frozen=True)
class Stopped:
    """The job was cancelled or replaced; not an error."""

    job: Job


@dataclass(frozen=True)
class Finished:
    """The last event of every submitted job, however it ended."""

    job: Job


Event = Started | Progressed | Succeeded | Failed | Stopped | Finished


class _Request:
    def __init__(self, job: Job, work: Callable[[Progress], Any]) -> None:
        self.job = job
        self.work = work
        self.cancelled = threading.Event()


class Lane:
    """One worker thread that runs jobs in the order of their submission.

    Args:
        name: of the thread.
        listener: is called with every event, mostly on the worker thread. It must be quick and must not raise.
    """

    def __init__(self, name: str, listener: Callable[[Event], None]) -> None:
        self._listener = listener
        self._waiting: deque[_Request] = deque()
        self._running: _Request | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, kind: str, work: Callable[[Progress], Any], *, replace: bool = True, background: bool = False
    ) -> Job:
        """Queue a job. Jobs in the background are cancelled by it, running or waiting, unless it is one of them.

        Args:
            kind: what it computes. With ``replace``, a waiting job of the same kind is dropped and a running one cancelled.
            work: does the job and returns its result. It takes a progress to call between its steps, which raises ``Cancelled``
                to stop it.
            background: whether nobody waits for it, so that any other job comes first.
        """
        request = _Request(Job(next(_ids), kind, background), work)
        with self._changed:
            if self._closing:
                raise RuntimeError("the lane is closed")

            def gives_way(other: Job) -> bool:
                return (replace and other.kind == kind) or (other.background and not background)

            dropped = self._take_waiting(gives_way)
            if self._running is not None and gives_way(self._running.job):
                self._running.cancelled.set()
            self._waiting.append(request)
            self._changed.notify_all()
        self._report_stopped(dropped)
        return request.job

    def cancel(self, kind: str | None = None) -> None:
        """Cancel the jobs of a kind, or all."""
        with self._changed:
            dropped = self._take_waiting(lambda job: kind in (None, job.kind))
            if self._running is not None and kind in (None, self._running.job.kind):
                self._running.cancelled.set()
        self._report_stopped(dropped)

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits that somebody waits for."""
        with self._changed:
            running = () if self._running is None else (self._running,)
            return any(not request.job.background for request in (*running, *self._waiting))

    def close(self, timeout: float) -> bool:
        """Cancel everything and end the thread; whether it ended within ``timeout`` seconds."""
        with self._changed:  # at once, so that no request slips in that would never be answered
            self._closing = True
            dropped = self._take_waiting(lambda job: True)
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify_all()
        self._report_stopped(dropped)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _take_waiting(self, wanted: Callable[[Job], bool]) -> list[_Request]:
        dropped = [request for request in self._waiting if wanted(request.job)]
        self._waiting = deque(request for request in self._waiting if request not in dropped)
        return dropped

    def _report_stopped(self, requests: list[_Request]) -> None:
        for request in requests:
            self._listener(Stopped(request.job))
            self._listener(Finished(request.job))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                request = self._running = self._waiting.popleft()
            try:
                self._do(request)
            finally:
                with self._changed:
                    self._running = None
                self._listener(Finished(request.job))
                del request  # a waiting thread would keep the work and what it refers to

    def _do(self, request: _Request) -> None:
        job = request.job
        self._listener(Started(job))
        last = ("", 0.0)

        def progress(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
            nonlocal last
            if request.cancelled.is_set():
                raise Cancelled
            now = time.monotonic()
            if words != last[0] or now - last[1] > _PROGRESS_INTERVAL:
                last = (words, now)
                self._listener(Progressed(job, words, done, total, stage))

        try:
            result = request.work(progress)
        except Cancelled:
            self._listener(Stopped(job))
        except Exception as error:  # noqa: BLE001 - whatever fails in a job is shown in the window, never lost with the thread
            self._listener(Failed(job, error))
        else:
            # A job that was cancelled in its last step must not overwrite what replaced it.
            self._listener(Stopped(job) if request.cancelled.is_set() else Succeeded(job, result))
