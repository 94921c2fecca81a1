"""The engine's lanes as Qt signals. The session is made, and torch imported, on the engine's thread."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal

from featup_app.base.errors import FeatUpError
from featup_app.base.progress import Progress
from featup_app.engine.jobs import Event, Failed, Finished, Job, Lane, Progressed, Started, Stopped, Succeeded
from featup_app.gui.failure_report import UNEXPECTED

if TYPE_CHECKING:
    from featup_app.engine.session import Session

SessionWork = Callable[["Session", Progress], Any]


@dataclass(frozen=True)
class _Asker:
    """The callbacks of whoever asked for a job."""

    answer: Callable[[Any], None] | None
    failed: Callable[[str, str], None] | None
    stopped: Callable[[], None] | None
    finished: Callable[[], None] | None


class JobSignals(QObject):
    """The events of lanes on the thread of this object (the GUI's).

    The answer of a job goes to who asked for it. Signals report to everybody else: ``started(Job)``,
    ``progressed(Progressed)``, ``failed(sentence, details)`` of a job whose asker does not handle failures, and
    ``finished(Job)`` exactly once for each job, last. Jobs in the background, which nobody waits for, emit no signal.
    """

    started = Signal(object)
    progressed = Signal(object)
    failed = Signal(str, str)
    finished = Signal(object)
    _happened = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._askers: dict[int, _Asker] = {}
        self._latest: dict[str, int] = {}
        self._closed = False
        self._happened.connect(self._dispatch)

    def lane(self, name: str) -> Lane:
        """A worker thread whose events arrive here."""
        return Lane(name, self._happened.emit)

    def ask(
        self,
        lane: Lane,
        kind: str,
        work: Callable[[Progress], Any],
        *,
        answer: Callable[[Any], None] | None = None,
        failed: Callable[[str, str], None] | None = None,
        stopped: Callable[[], None] | None = None,
        finished: Callable[[], None] | None = None,
        replace: bool = True,
        background: bool = False,
    ) -> Job:
        """Queue work on a lane. Call it on the thread of this object; the callbacks run there too.

        Args:
            lane: the worker thread.
            kind: of the work, as in :meth:`Lane.submit`.
            work: takes a progress and returns the result.
            answer: is called with the result, unless the job was replaced or cancelled.
            failed: is called with a sentence for the person and details for a developer; without it, the signal ``failed`` is
                emitted.
            stopped: is called if the job is cancelled or replaced.
            finished: is called last, however the job ended.
            replace: whether earlier jobs of this kind are cancelled.
            background: whether nobody waits for it, as in :meth:`Lane.submit`.
        """
        job = lane.submit(kind, work, replace=replace, background=background)
        self._askers[job.id] = _Asker(answer, failed, stopped, finished)
        if replace:
            self._latest[kind] = job.id
        return job

    def forget_askers(self) -> None:
        """Call no callback any more, since the objects that asked are about to be deleted."""
        self._closed = True
        self._askers.clear()

    def _is_replaced(self, job: Job) -> bool:
        return job.id < self._latest.get(job.kind, 0)

    def _dispatch(self, event: Event) -> None:
        if self._closed:
            return
        job = event.job
        asker = self._askers.pop(job.id, None) if isinstance(event, Finished) else self._askers.get(job.id)
        match event:
            case Started() | Progressed() if job.background:
                pass
            case Started():
                self.started.emit(job)
            case Progressed():
                self.progressed.emit(event)
            case Succeeded(_, result):
                if asker is not None and asker.answer is not None and not self._is_replaced(job):
                    asker.answer(result)
            case Failed(_, error):
                sentence, details = _in_words(error)
                if asker is None or asker.failed is None:
                    if not job.background:
                        self.failed.emit(sentence, details)
                elif not self._is_replaced(job):
                    asker.failed(sentence, details)
            case Stopped():
                if asker is not None and asker.stopped is not None and not self._is_replaced(job):
                    asker.stopped()
            case Finished():
                if asker is not None and asker.finished is not None:
                    asker.finished()
                if not job.background:
                    self.finished.emit(job)


class EngineBridge(JobSignals):
    """Two worker threads: one owns models and device, the other reads and writes files.

    Args:
        parent: as of any QObject.
        keep_bytes: budget of the results that the session keeps; None for its default.
    """

    def __init__(self, parent: QObject | None = None, *, keep_bytes: int | None = None) -> None:
        super().__init__(parent)
        self._keep_bytes = keep_bytes
        self._session: Session | None = None
        self._engine = self.lane("featup-engine")
        self._files = self.lane("featup-files")

    def compute(self, kind: str, work: SessionWork, answer: Callable[[Any], None] | None = None, **asked: Any) -> Job:
        """Queue work for the engine's thread; it takes the session and a progress. Other arguments as in :meth:`ask`."""
        return self.ask(
            self._engine, kind, lambda progress: work(self._own_session(progress), progress), answer=answer, **asked
        )

    def files(
        self, kind: str, work: Callable[[Progress], Any], answer: Callable[[Any], None] | None = None, **asked: Any
    ) -> Job:
        """Queue work that reads or writes files and needs no model. Other arguments as in :meth:`ask`."""
        return self.ask(self._files, kind, work, answer=answer, **asked)

    def keep(self, keep_bytes: int | None) -> None:
        """Change the budget of the results that the session keeps; None for its default."""
        self._keep_bytes = keep_bytes
        self.compute("keep", lambda session, progress: session.keep(keep_bytes))

    @property
    def kept_bytes(self) -> int:
        """Memory of the results that are kept now."""
        session = self._session
        return 0 if session is None else session.kept.bytes

    def cancel(self, kind: str | None = None) -> None:
        """Cancel the engine's jobs of a kind, or all."""
        self._engine.cancel(kind)

    def cancel_files(self, kind: str) -> None:
        """Cancel the jobs of a kind that read or write files."""
        self._files.cancel(kind)

    @property
    def busy(self) -> bool:
        """Whether any job runs or waits that somebody waits for."""
        return self._engine.busy or self._files.busy

    def close(self, timeout: float = 5.0) -> None:
        """Cancel everything, call no callback any more, and end both threads."""
        self.forget_askers()
        self._files.close(timeout)
        if self._engine.close(timeout):
            self._session = None  # frees models and fields with the window

    def _own_session(self, progress: Progress) -> Session:
        if self._session is None:
            progress("starting the engine", 0, 0)
            from featup_app.engine.session import Session

            self._session = Session(keep_bytes=self._keep_bytes)
        return self._session


def _in_words(error: Exception) -> tuple[str, str]:
    """A sentence for the person, and the traceback for a developer."""
    details = "".join(traceback.format_exception(error))
    if isinstance(error, FeatUpError):
        return str(error), details
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "There was not enough memory for this; choose a smaller output or input size.", details
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{UNEXPECTED}: {first}", details
