"""Processes that share the work of an evaluation: they run the same request on the same folder, and claims keep them apart."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from types import TracebackType

_END_SECONDS = 5.0


class Helpers:
    """Processes that run at most as long as the block::

        with Helpers([sys.executable, "-m", "featup_app.evaluation.run", ...], count=1, threads=1):
            ...

    A helper ends when no work is left, at the latest at the end of the block. If a helper fails or is killed, its claims are free
    for the others, so no result is lost.

    Args:
        command: the command of each helper.
        count: number of helpers; may be 0.
        threads: number of threads of each helper.
    """

    def __init__(self, command: Sequence[str], *, count: int, threads: int) -> None:
        self._command, self._count, self._threads = list(command), count, threads
        self._running: list[subprocess.Popen[bytes]] = []
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the block ends)

    def __enter__(self) -> Helpers:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
        for _ in range(self._count):
            self._running.append(
                subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._complaints,
                    env=environment,
                )
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._complaints.close()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Process ids of the helpers."""
        return tuple(process.pid for process in self._running)

    def complaint(self) -> str | None:
        """The last line of the errors of helpers that failed; None if none failed."""
        if not any(process.poll() for process in self._running):
            return None
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a message"


def threads_each(workers: int) -> int:
    """Number of threads for each of several processes."""
    return max(1, (os.cpu_count() or 1) // workers)
