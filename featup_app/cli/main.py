"""The command ``featup-app``: its subcommands, and the exit codes of errors."""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from featup_app.base.errors import FeatUpError
from featup_app.cli.bench import bench
from featup_app.cli.compare import compare
from featup_app.cli.evaluate import evaluate
from featup_app.cli.export import export
from featup_app.cli.fit import fit
from featup_app.cli.info import backbones, info
from featup_app.cli.match import match
from featup_app.cli.options import given_path
from featup_app.cli.terminal import BAD_INPUT, DEFECT, lost_results, prepare_streams, print_line, print_message
from featup_app.cli.train import train

WINDOW = "open"
"""The command that runs if none is named."""

_HELP = """
See the deep features of an image at the resolution of the image.

`featup-app` opens the window, `featup-app photo.jpg` opens it with a photo, `featup-app FOLDER` with all pictures of a folder.
The commands below work without a window.
"""


class _Group(TyperGroup):
    """A group of commands that opens the window if the first argument is no command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        if first not in self.commands and first not in ("--help", "--version"):
            _refuse_mistyped(first, sorted(self.commands))
            args = [WINDOW, *args]
        return super().parse_args(ctx, args)


def _refuse_mistyped(word: str, commands: list[str]) -> None:
    """Refuse an unknown word that cannot be a file: it is a mistyped command rather than an image. Raises FeatUpError."""
    if not word or word.startswith("-") or Path(word).suffix or "/" in word or "\\" in word or Path(word).exists():
        return
    close = difflib.get_close_matches(word, commands, n=1, cutoff=0.5)
    hint = f'Did you mean "{close[0]}"?' if close else f"The commands are: {', '.join(commands)}."
    raise FeatUpError(f'There is no command and no image "{word}". {hint}')


app = typer.Typer(cls=_Group, help=_HELP, add_completion=False, rich_markup_mode="markdown")


def _show_version(wanted: bool) -> None:
    if wanted:
        import featup_app

        print_line(f"featup-app {featup_app.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Options in front of the command."""


@app.command(WINDOW)
def open_window(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=given_path,
            metavar="[IMAGE|FOLDER]...",
            help="Images to show, and folders of images; a sample photo if none is given.",
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget remembered settings and window layout.")] = False,
) -> None:
    """Open the window. The same as `featup-app [IMAGE|FOLDER]...` without a command."""
    from featup_app.base.display import check_display

    check_display()
    from featup_app.gui.app import main

    raise typer.Exit(main(*places or (), fresh=fresh))


app.command()(export)
app.command()(compare)
app.command()(match)
app.command()(info)
app.command()(backbones)
app.command()(bench)
app.command()(train)
app.command()(fit)
app.command()(evaluate)


def _lost_help(error: OSError) -> FeatUpError | None:
    """The error for a help text that stdout does not take; None if stdout is not what failed."""
    if error.filename is not None:
        return None
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        return lost_results(error)
    return None


def run(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command. Exit codes: 0 done, 1 images of a batch passed over or a defect of the program, 2 bad
    input, 130 cancelled.

    Args:
        arguments: what follows the program's name; from the command line if not given.
    """
    prepare_streams()
    command = typer.main.get_command(app)
    try:
        command.main(args=None if arguments is None else list(arguments), prog_name="featup-app")
    except FeatUpError as error:
        print_message(error)
        sys.exit(BAD_INPUT)
    except Exception as error:  # noqa: BLE001 - the last place to report a defect with its traceback
        if isinstance(error, OSError) and (lost := _lost_help(error)):
            print_message(lost)
            sys.exit(BAD_INPUT)
        traceback.print_exc()
        print_message(
            f"This is a defect of the program ({type(error).__name__}); please report it with the lines above."
        )
        sys.exit(DEFECT)
