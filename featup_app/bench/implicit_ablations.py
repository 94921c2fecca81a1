"""Ablations of the recipe that implicit networks are fitted with: the held-out error with one switch changed at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from featup_app.base.progress import Progress, part_of, silent
from featup_app.bench.implicit import fitted
from featup_app.features import FeatureMap
from featup_app.fields.implicit import FitRecipe
from featup_app.fields.implicit.recipe import DEFAULT

DESCENT_STEPS = 60
"""Gradient steps after the solution, for switches that only gradient descent has."""


@dataclass(frozen=True)
class Ablation:
    """One setting of one switch."""

    switch: str
    setting: str
    recipe: FitRecipe


@dataclass(frozen=True)
class AblationRow:
    """The effect of a setting: means over photos, and the error of each photo.

    Attributes:
        error: held-out reprojection error.
        difference: of that error from the first row of the same kind (with or without a descent).
        seconds: of fitting, including the features of the views.
        errors: of each photo.
    """

    switch: str
    setting: str
    error: float
    difference: float
    seconds: float
    errors: tuple[float, ...]


def ablations(base: FitRecipe = DEFAULT, *, descent_steps: int = DESCENT_STEPS) -> tuple[Ablation, ...]:
    """One change at a time to a recipe that solves for the weights.

    Switches that only gradient descent has are changed in a recipe with a short descent after the solution.
    """
    descent = replace(base, gradient_steps=descent_steps)
    perceptron = replace(descent, network="perceptron", solve=False, gradient_steps=2 * descent_steps)
    settings: dict[str, Sequence[tuple[str, FitRecipe]]] = {
        "": [("solved", base)],
        "start": [(kind, replace(base, start=kind)) for kind in ("bilinear", "mean")],
        "positional": [("left in", replace(base, positional=False))],
        "uncertainty": [("not learned", replace(base, uncertainty=False))],
        "weigh": [("by the uncertainty", replace(base, uncertainty=True, weigh=True))],
        "colour": [("none", replace(base, colour=False))],
        "waves": [(str(count), replace(base, waves=count)) for count in (128, 256, 512, 1024, 2048)],
        "width": [(f"{width:g} radians a cell", replace(base, position_width=width)) for width in (1.0, 1.5, 3.0, 4.0)],
        "views": [(str(count), replace(base, views=count)) for count in (16, 48, 96, 192, 384)],
        "components": [(str(count or "all"), replace(base, components=count)) for count in (16, 32, 64, 128, 256, 0)],
        "image_weight": [
            (f"{weight:g}", replace(base, image_weight=weight)) for weight in (0.0, 1.0, 3.0, 10.0, 100.0)
        ],
        "ridge": [(f"{ridge:g}", replace(base, ridge=ridge)) for ridge in (0.03, 0.1, 0.3, 1.0, 3.0)],
        "downsampler": [
            ("box, descent", descent),
            *((f"{name}, descent", replace(descent, downsampler=name)) for name in ("blur", "attention")),
        ],
        "total_variation": [("0.05, descent", replace(descent, total_variation=0.05))],
        "magnitude": [("0.001, descent", replace(descent, magnitude=1e-3))],
        "blur_pin": [("0.1, descent", replace(descent, blur_pin=0.1))],
        "frequencies": [
            (f"{count}, perceptron, descent alone", replace(perceptron, frequencies=count)) for count in (10, 30)
        ],
    }
    return tuple(
        Ablation(switch, setting, recipe) for switch, entries in settings.items() for setting, recipe in entries
    )


def run_ablations(
    maps: Sequence[FeatureMap], chosen: Sequence[Ablation], progress: Progress = silent
) -> Iterator[AblationRow]:
    """The error of each setting, averaged over photos.

    Differences refer to the first setting without a descent, and to the first one with a descent.
    """
    reference: dict[bool, float] = {}
    for index, ablation in enumerate(chosen):
        prefix = f"{ablation.switch} {ablation.setting}: "
        part = part_of(progress, index, len(chosen), words=lambda words, prefix=prefix: prefix + words)  # type: ignore[misc]
        found = [fitted(features, ablation.recipe, curve=False, progress=part) for features in maps]
        errors = tuple(each.error for each in found)
        error = sum(errors) / len(errors)
        first = reference.setdefault(bool(ablation.recipe.gradient_steps), error)
        seconds = sum(each.seconds for each in found) / len(found)
        yield AblationRow(ablation.switch, ablation.setting, error, error - first, seconds, errors)
