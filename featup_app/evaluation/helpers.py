"""Further processes that help with an evaluation: they run the same command on the same folder, and claims keep them apart."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType

_END_SECONDS = 5.0


class Helpers:
    """Processes that live no longer than the block::

        with Helpers([sys.executable, "-m", "featup_app", ...], count=1):
            ...

    They end by themselves when no work is left, and are ended when the block is. A helper that fails or is killed is no loss:
    what it had claimed is free for the others.

    Args:
        command: what each of them runs.
        count: how many; 0 is none.
        threads: that each of them computes with.
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
        """Of the helpers that were started."""
        return tuple(process.pid for process in self._running)

    def complaint(self) -> str | None:
        """What the helpers that ended with an error said last; None if none did."""
        if not any(process.poll() for process in self._running):
            return None
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"


def threads_each(workers: int) -> int:
    """How many threads each of several processes should compute with."""
    return max(1, (os.cpu_count() or 1) // workers)


def own_program() -> list[str]:
    """The command that runs this program."""
    return [sys.executable, "-m", "featup_app"]
