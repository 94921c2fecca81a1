"""How a training stands, and what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from featup_app.fields.restoration import Restoration


@dataclass(frozen=True)
class Measurement:
    """One point of the curve.

    Attributes:
        step: steps done.
        seconds: of training until then, without measuring.
        loss: mean of the steps since the last point; None at the beginning.
        error: of those steps, the plain mean squared error of the trained views in units of the features' variance.
        held_out: reprojection error of the stack on held-out views, the mean over backbones.
    """

    step: int
    seconds: float
    loss: float | None
    error: float | None
    held_out: float


@dataclass(frozen=True)
class TrainingState:
    """How a training stands, for panels and terminals.

    Attributes:
        step: steps done.
        steps: steps in all; None if only the time is limited.
        fraction: done, 0 .. 1.
        loss: mean of the last steps; None before the first.
        held_out: reprojection error of the stack, as measured last.
        best: the lowest so far.
        bilinear, classical: the same error of bilinear interpolation and of classical joint bilateral upsampling.
        steps_per_second: of the last steps; 0 before the first.
        seconds_left: estimate.
    """

    step: int
    steps: int | None
    fraction: float
    loss: float | None
    held_out: float
    best: float
    bilinear: float
    classical: float
    steps_per_second: float
    seconds_left: float


OnState = Callable[[TrainingState], None]


@dataclass(frozen=True)
class TrainingResult:
    """The best state of an upsampler that a training found, and how it went.

    Attributes:
        method: name of the upsampling method.
        stack: its network, in evaluation mode, for features as the backbone gives them (after ``norm``, if there is one).
        norm: weight and bias (C) of the layer norm over channels that comes before it; None without.
        restoration: what is done to the coarse map before it, in half precision; None for nothing.
        universal: whether the network serves any backbone.
        curve: all measurements.
        best_step: at which step the stack is from.
        figures: held-out reprojection errors of ``stack``, ``bilinear`` and ``classical``, the mean over backbones, for
            ``start`` the untrained stack, and the number of ``directions`` in which they were taken (0 for all).
        baselines: of ``bilinear`` and ``classical`` in the directions of the curve.
        steps, seconds: of training.
        stopped: why it ended before its limit, as a sentence; empty if it did not.
        notes: sentences for the person: images left out, fewer views than asked for.
        facts: JSON-able: recipe, seed, backbones, data.
    """

    method: str
    stack: nn.Module
    norm: tuple[Tensor, Tensor] | None
    restoration: Restoration | None
    universal: bool
    curve: tuple[Measurement, ...]
    best_step: int
    figures: dict[str, float]
    baselines: dict[str, float]
    steps: int
    seconds: float
    stopped: str
    notes: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def restores_detail(self) -> bool:
        """Whether detail is made larger at the end, which raises the error of the weights above that of the curve."""
        return self.restoration is not None and self.restoration.sharpens
