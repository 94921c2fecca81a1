"""Output on the terminal: results to stdout, everything else to stderr, progress only where stderr is a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from featup_app.base.progress import Progress, Stage, silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from featup_app.backbones import Backbone

_PIPE_WIDTH = 260

DEFECT = 1
"""Exit code after a defect of the program."""

PASSED_OVER = 1
"""Exit code when images of a batch were passed over and the others were done."""

BAD_INPUT = 2
"""Exit code when the request cannot be met."""

CANCELLED = 130
"""Exit code when the person cancelled it."""


def print_line(text: str) -> None:
    """Print a line of results to stdout."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Print results for another program: one JSON document."""
    print_line(json.dumps(value, indent=2, sort_keys=True))


def print_table(table: Table) -> None:
    """Print a table to stdout; in a file or a pipe its lines are not wrapped."""
    _console().print(table)


def fits(table: Table) -> bool:
    """Whether :func:`print_table` wraps no line of a table."""
    console = _console()
    return console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def print_message(text: object) -> None:
    """Print a message or an error to stderr."""
    sys.stderr.write(f"featup-app: {text}\n")
    sys.stderr.flush()


def print_notes(backbone: Backbone) -> None:
    """Print what had to be done to the weights of a checkpoint to stderr."""
    for note in backbone.notes:
        print_message(f"{backbone.name}: {note}.")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress that shows a bar on stderr; silent where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None)

        def show(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
            bars.update(task, description=words, completed=done, total=total or None)

        yield show
