"""The state of a fit, for panels and terminals. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class FitPoint:
    """One point of the curves.

    Attributes:
        step: steps done.
        seconds: of fitting until then, views included, baselines left out.
        loss: error of views when they were first seen (solving) or of those of the step (descent), in units of the
            components' mean square; None where there is none.
        held_out: held-out reprojection error; None where it was not measured.
    """

    step: int
    seconds: float
    loss: float | None
    held_out: float | None


@dataclass(frozen=True)
class FitState:
    """The state of a fit, for panels and terminals.

    Attributes:
        step, steps: done and planned.
        stage: what is done now, in a few words.
        seconds: of fitting so far.
        loss: latest, see :class:`FitPoint`.
        held_out, best: held-out reprojection error, latest and lowest; that of the mean feature before the first step.
        best_step: where the lowest is from.
        bilinear, jbu: the same error of these methods.
        steps_per_second: of the last steps; 0 before the first.
        seconds_left: estimate; 0 when finished.
        points: the curves.
        finished: whether nothing is left of the plan.
        reason: a sentence saying why it ended; empty while it goes on.
        diverged: whether it ended because the error grew beyond all bounds.
    """

    step: int
    steps: int
    stage: str
    seconds: float
    loss: float | None
    held_out: float
    best: float
    best_step: int
    bilinear: float
    jbu: float
    steps_per_second: float
    seconds_left: float
    points: tuple[FitPoint, ...]
    finished: bool
    reason: str
    diverged: bool


OnState = Callable[[FitState], None]


def ignore_state(state: FitState) -> None:
    """For callers who do not follow a fit."""
