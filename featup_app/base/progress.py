"""Progress and cancellation in one small protocol.

Long functions take ``progress: Progress = silent`` and call ``progress(words, done, total)`` between short steps, where
``words`` say to the person what is done now ("upsampling"), and ``done`` of ``total`` steps are finished (``total`` 0 means
unknown). The callee of that call may raise :class:`~featup_app.base.errors.Cancelled`; the long function lets it pass after
cleaning up. That is the only way a computation is stopped, so no step between two calls may take longer than about a
quarter of a second where that can be helped.

Code that has to tell one stage of a long function from another reads the :class:`Stage` beside the words, never the words.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol


class Stage(Enum):
    """What a long function is doing, where somebody acts on it."""

    WORKING = "working"
    EXTRACTING = "extracting"
    """Features of pictures or of views of a picture are computed."""
    FITTING = "fitting"
    TRAINING = "training"
    MEASURING = "measuring"


class Progress(Protocol):
    """Takes notice of ``done`` of ``total`` steps; may raise ``Cancelled``."""

    def __call__(self, words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None: ...


def silent(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
    """A progress that tells no one and never cancels."""


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
    said, of_whole, count = words, done, total

    def inner(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
        shown = words if said is None else said if isinstance(said, str) else said(words)
        progress(shown, done if of_whole is None else of_whole, total if count is None else count, stage)

    return inner
