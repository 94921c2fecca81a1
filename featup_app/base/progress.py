"""Progress and cancellation in one small protocol.

Long functions take ``progress: Progress = silent`` and call ``progress(words, done, total)`` between short steps, where
``words`` describe the current step for a person ("upsampling"), and ``done`` of ``total`` steps are finished (``total`` 0
means unknown). That call may raise :class:`~featup_app.base.errors.Cancelled`; the long function cleans up and lets it pass.
This is the only way to stop a computation, so the steps between two calls should take at most a quarter of a second.

Code that depends on the stage of a long function reads the :class:`Stage` beside the words, never the words.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol


class Stage(Enum):
    """What a long function is doing, for code that depends on it."""

    WORKING = "working"
    EXTRACTING = "extracting"
    """Features of pictures or of views of a picture are computed."""
    FITTING = "fitting"
    TRAINING = "training"
    MEASURING = "measuring"


class Progress(Protocol):
    """Is called when ``done`` of ``total`` steps are finished; may raise ``Cancelled``."""

    def __call__(self, words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None: ...


def silent(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
    """A progress that does nothing and never cancels."""


def part_of(
    progress: Progress,
    done: int | None = None,
    total: int | None = None,
    *,
    words: str | Callable[[str], str] | None = None,
) -> Progress:
    """The progress of a part of something longer, which can be cancelled at each step of the part.

    Args:
        progress: of the whole.
        done, total: how much of the whole is done, shown instead of the part's own steps if given.
        words: shown instead of the part's words; or a function of them.
    """
    replacement, whole_done, whole_total = words, done, total

    def inner(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
        shown = replacement(words) if callable(replacement) else replacement or words
        steps = done if whole_done is None else whole_done, total if whole_total is None else whole_total
        progress(shown, *steps, stage)

    return inner
