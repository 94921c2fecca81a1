"""Results of single pictures, written at once, so that an interrupted evaluation can resume.

Several processes may share a folder: each piece of work is claimed before it is done, the results of other processes are read,
and lines are written under a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from featup_app.base.progress import Progress, silent
from featup_app.evaluation.claims import claimed
from featup_app.export.staging import explained

RESULTS_FILE = "results.jsonl"
EXTRAS_FILE = "extras.jsonl"
"""File of costs and sample pictures, which are no results."""

CLAIMS_FOLDER = ".claims"
_WRITING = "a line of the results"
_WAIT_SECONDS = 0.1


def configuration_key(facts: Mapping[str, Any]) -> str:
    """A short name for everything that a result depends on, except the picture."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:20]


class Records:
    """A file with one JSON object a line: configuration, picture and values. Use as a context; lines are flushed at once.

    Args:
        folder: folder of the report; created if there is none.
        fresh: whether to delete the results of earlier runs.
        name: name of the file.

    Raises:
        ExportError: if the folder or the file cannot be written.
    """

    def __init__(self, folder: Path, *, fresh: bool = False, name: str = RESULTS_FILE) -> None:
        self._folder = folder
        self._path = folder / name
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        self._read = 0
        with explained(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("wb" if fresh else "ab"):
                pass
        self.refresh()

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # another process may still have claims there
            (self._folder / CLAIMS_FOLDER).rmdir()

    def find(self, configuration: str, picture: str) -> dict[str, Any] | None:
        """The values of a picture under a configuration; None if there are none."""
        return self._known.get((configuration, picture))

    def keep(self, configuration: str, picture: str, values: Mapping[str, Any]) -> None:
        """Write the values of a picture."""
        line = json.dumps({"configuration": configuration, "picture": picture, "values": dict(values)}) + "\n"
        self._known[configuration, picture] = dict(values)
        with self.exclusive(_WRITING), explained(self._path), self._path.open("r+b") as stream:
            end = stream.seek(0, 2)
            if end:
                stream.seek(end - 1)
                if stream.read(1) != b"\n":
                    line = "\n" + line  # a process was killed while writing that line, which is then ignored
            stream.seek(0, 2)
            stream.write(line.encode())

    def refresh(self) -> None:
        """Read the results that other processes have written meanwhile."""
        with explained(self._path), self._path.open("rb") as stream:
            stream.seek(self._read)
            text = stream.read()
        whole = text.rfind(b"\n") + 1
        self._read += whole
        for line in text[:whole].splitlines():
            try:
                entry = json.loads(line)
                self._known[entry["configuration"], entry["picture"]] = entry["values"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # part of an incomplete line

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[bool]:
        """Claim a piece of work while the block lasts; yields False if another process has claimed it. See :mod:`.claims`."""
        with contextlib.ExitStack() as stack:
            with explained(self._folder / CLAIMS_FOLDER):
                mine = stack.enter_context(claimed(self._folder / CLAIMS_FOLDER, name))
            if mine and name != _WRITING:
                self.refresh()  # another process may have done it just before the claim
            yield mine

    @contextlib.contextmanager
    def exclusive(self, name: str, progress: Progress = silent) -> Iterator[None]:
        """Wait until no other process works on this piece, then claim it while the block lasts. Results until then are read.

        Args:
            name: name of the piece of work.
            progress: called while waiting; may cancel.
        """
        while True:
            with self.claimed(name) as mine:
                if mine:
                    yield
                    return
            progress("waiting for another process", 0, 0)
            time.sleep(_WAIT_SECONDS if name != _WRITING else _WAIT_SECONDS / 20)
