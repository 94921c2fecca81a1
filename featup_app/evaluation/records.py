"""Results of single pictures, kept as they come, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from featup_app.export.staging import explained

RESULTS_FILE = "results.jsonl"


def configuration_key(facts: Mapping[str, Any]) -> str:
    """A short name for everything that a result depends on, apart from the picture."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:20]


class Records:
    """A file with one JSON object a line: configuration, picture and values. Use as a context; lines are flushed at once.

    Args:
        folder: of the report; made if there is none.
        fresh: whether to forget what earlier runs have left there.

    Raises:
        ExportError: if the folder or the file cannot be written.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self._path = folder / RESULTS_FILE
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        with explained(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            text = "" if fresh or not self._path.is_file() else self._path.read_text(encoding="utf-8")
            self._remember(text)
            self._stream: TextIO = self._path.open("w" if fresh else "a", encoding="utf-8")
            if text and not text.endswith("\n"):
                self._stream.write("\n")  # a run was killed while it wrote this line, which is passed over

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def find(self, configuration: str, picture: str) -> dict[str, Any] | None:
        """The values that were kept for a picture; None if there are none."""
        return self._known.get((configuration, picture))

    def keep(self, configuration: str, picture: str, values: Mapping[str, Any]) -> None:
        """Write the values of a picture down."""
        line = {"configuration": configuration, "picture": picture, "values": dict(values)}
        self._known[configuration, picture] = line["values"]  # type: ignore[assignment]
        with explained(self._path):
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()

    def _remember(self, text: str) -> None:
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._known[entry["configuration"], entry["picture"]] = entry["values"]
            except (ValueError, KeyError, TypeError):
                continue  # the rest of a line that was cut short
