"""Runs a module of this program in a new process, whose memory can be measured alone. Imports no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from featup_app.base.errors import FeatUpError
from featup_app.base.progress import Progress, silent


def child_facts(
    module: str,
    words: Sequence[str],
    title: str,
    progress: Progress = silent,
    *,
    request: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a module in a new process and return the JSON object that it prints.

    Args:
        module: run with ``python -m``.
        words: its arguments.
        title: what is measured, for the middle of sentences.
        progress: called while the other process measures; may cancel, and the process is then ended.
        request: JSON for its standard input.

    Raises:
        FeatUpError: if the process fails.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", module, *words]
    with subprocess.Popen(command, text=True, **pipes) as child:  # type: ignore[call-overload]
        try:
            sent = None if request is None else json.dumps(request)
            while True:
                progress(f"measuring {title}", 0, 0)
                try:
                    printed, complaint = child.communicate(sent, timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    sent = None
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        reason = (complaint.strip().splitlines() or [f"it ended with {child.returncode}"])[-1]
        raise FeatUpError(f"{title[0].upper()}{title[1:]} could not be measured: {reason}.")
    facts: dict[str, Any] = json.loads(printed)
    return facts
