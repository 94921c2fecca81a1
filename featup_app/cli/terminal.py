"""Output on the terminal: results to stdout, everything else to stderr, progress only where stderr is a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO, cast

from featup_app.base.errors import FeatUpError
from featup_app.base.files import reason_of
from featup_app.base.progress import Progress, Stage, silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.table import Table

    from featup_app.backbones import Backbone
    from featup_app.images import Image

_PIPE_WIDTH = 260

DEFECT = 1
"""Exit code after a defect of the program."""

PASSED_OVER = 1
"""Exit code when images of a batch were passed over and the others were done."""

BAD_INPUT = 2
"""Exit code when the request cannot be met."""

CANCELLED = 130
"""Exit code when the person cancelled it."""


_bars: list[Bars] = []
"""The progress bar that is on the screen, if there is one."""


def prepare_streams() -> None:
    """Make stdout and stderr usable whatever they are; call this first.

    Characters that they cannot encode are escaped, and messages that stderr does not take are lost. Where one is closed, what
    is written there is lost, and no file that is opened later gets its number, into which libraries may write.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open to the end)
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stderr, _Forgiving):
        sys.stderr = cast(TextIO, _Forgiving(sys.stderr))


def print_line(text: str) -> None:
    """Print a line of results to stdout. Raises FeatUpError if it cannot be written."""
    with _results():
        sys.stdout.write(f"{text}\n")


@contextmanager
def _results() -> Iterator[None]:
    """Results are written to stdout within, where no progress bar is in their way."""
    with _without_bar():
        try:
            yield
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads any more, as after "| head": the program ends without a word
            raise
        except OSError as error:
            raise lost_results(error) from error


def lost_results(error: OSError) -> FeatUpError:
    """The error for results that stdout does not take; the rest of them goes nowhere."""
    _give_up(sys.stdout)
    return FeatUpError(f"Cannot write the results to the standard output: {reason_of(error)}; send them elsewhere.")


def _give_up(stream: TextIO) -> None:
    """Let a stream that cannot be written lead nowhere, so that the end of the program does not fail to empty it."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def _without_bar() -> Iterator[None]:
    for bars in _bars:
        bars.stop()
    try:
        yield
    finally:
        for bars in _bars:
            bars.start()


def print_json(value: Any) -> None:
    """Print results for another program: one JSON document."""
    print_line(json.dumps(value, indent=2, sort_keys=True))


def print_table(table: Table) -> None:
    """Print a table to stdout; in a file or a pipe its lines are not wrapped."""
    with _results():
        _console().print(table)


def fits(table: Table) -> bool:
    """Whether :func:`print_table` wraps no line of a table."""
    console = _console()
    return console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width


def _console() -> Console:
    from rich.console import Console

    # Names are printed as they are: brackets and colons in them are neither styles nor emoji.
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False, emoji=False)


def print_message(text: object) -> None:
    """Print a message or an error to stderr; one that cannot be written is lost."""
    with _without_bar():
        sys.stderr.write(f"featup-app: {text}\n")
        sys.stderr.flush()


def print_image_notes(image: Image, name: str) -> None:
    """Print to stderr what of an image's file is not seen."""
    for note in image.notes if image.is_partial else ():
        print_message(f"{name}: {note}")


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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Redirected output would be wrapped at the width of the terminal, and would go to stderr.
    with Bars(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bars:
        _bars.append(bars)
        task = bars.add_task("starting", total=None)

        def show(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
            bars.update(task, description=words, completed=done, total=total or None)

        try:
            yield show
        finally:
            _bars.remove(bars)


class _Forgiving:
    """A stream that loses what it cannot write, such as to a terminal that was closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
