"""The engine's lanes as Qt signals. The session, and torch with it, comes to life on the engine's thread."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal

from featup_app.base.errors import FeatUpError
from featup_app.base.progress import Progress
from featup_app.engine.jobs import Event, Failed, Finished, Job, Lane, Progressed, Started, Stopped, Succeeded

if TYPE_CHECKING:
    from featup_app.engine.session import Session

SessionWork = Callable[["Session", Progress], Any]


class JobSignals(QObject):
    """The events of lanes as signals.

    They arrive on the thread of this object (the GUI's): ``started(Job)``, ``progressed(Progressed)``, ``succeeded(Job,
    result)``, ``failed(Job, sentence, details)``, ``stopped(Job)``, and ``finished(Job)`` exactly once for each job, last.
    """

    started = Signal(object)
    progressed = Signal(object)
    succeeded = Signal(object, object)
    failed = Signal(object, str, str)
    stopped = Signal(object)
    finished = Signal(object)
    _happened = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._happened.connect(self._dispatch)

    def lane(self, name: str) -> Lane:
        """A worker thread whose events become these signals."""
        return Lane(name, self._happened.emit)

    def _dispatch(self, event: Event) -> None:
        match event:
            case Started(job):
                self.started.emit(job)
            case Progressed():
                self.progressed.emit(event)
            case Succeeded(job, result):
                self.succeeded.emit(job, result)
            case Failed(job, error):
                self.failed.emit(job, *_in_words(error))
            case Stopped(job):
                self.stopped.emit(job)
            case Finished(job):
                self.finished.emit(job)


class EngineBridge(JobSignals):
    """Two worker threads: one owns models and device, the other reads and writes files."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._session: Session | None = None
        self._engine = self.lane("featup-engine")
        self._files = self.lane("featup-files")

    def compute(self, kind: str, work: SessionWork, *, replace: bool = True) -> Job:
        """Queue work for the engine's thread; it is given the session."""
        return self._engine.submit(kind, lambda progress: work(self._own_session(progress), progress), replace=replace)

    def files(self, kind: str, work: Callable[[Progress], Any]) -> Job:
        """Queue work that reads or writes files and needs no model."""
        return self._files.submit(kind, work)

    def cancel(self, kind: str | None = None) -> None:
        """Cancel the engine's jobs of a kind, or all."""
        self._engine.cancel(kind)

    @property
    def busy(self) -> bool:
        """Whether any job runs or waits."""
        return self._engine.busy or self._files.busy

    def close(self, timeout: float = 5.0) -> None:
        """Cancel everything and end both threads."""
        self._files.close(timeout)
        self._engine.close(timeout)

    def _own_session(self, progress: Progress) -> Session:
        if self._session is None:
            progress("starting the engine", 0, 0)
            from featup_app.engine.session import Session

            self._session = Session()
        return self._session


def _in_words(error: Exception) -> tuple[str, str]:
    """One sentence for the person, and what a developer would want to see."""
    details = "".join(traceback.format_exception(error))
    if isinstance(error, FeatUpError):
        return str(error), details
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "There was not enough memory for this; choose a smaller output or input size.", details
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"Something unexpected went wrong: {first}", details
