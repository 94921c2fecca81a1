"""The command ``featup-app``, and ``python -m featup_app``. Ctrl+C ends it quietly from its first line on."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn


def main() -> None:
    """Entry point of the program: loads the commands and runs the one that the command line names."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and not where it is ignored, as in the background of a script
        signal.signal(signal.SIGINT, _cancel)
    from featup_app.cli.main import run

    signal.signal(signal.SIGINT, before)
    run()


def _cancel(number: int, frame: FrameType | None) -> NoReturn:
    """An exception would pass through half-loaded libraries, some of which turn it into an error of their own."""
    try:
        os.write(2, b"featup-app: Cancelled; nothing was written.\n")
    finally:
        os._exit(130)


if __name__ == "__main__":
    main()
