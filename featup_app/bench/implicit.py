"""How fast and how well implicit networks are fitted: ours, the published recipe, and what needs no fit.

Every figure of quality is the held-out reprojection error that all methods share (decision 0032), measured while the clock
of a fit stands still. Times of fits count the features of the views that are fitted to, not those of the held-out ones.
``python -m featup_app.bench.implicit`` reads from its standard input which fit to measure the memory of, and prints
the figures, both as JSON.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.backbones import load_backbone
from featup_app.backbones.catalogue import CLASSIFIER, DEFAULT_BACKBONE
from featup_app.base.child_process import child_facts
from featup_app.base.peak_memory import extra_megabytes
from featup_app.base.progress import Progress, part_of, silent
from featup_app.features import FeatureMap, Size
from featup_app.fields import upsample
from featup_app.fields.implicit import FitRecipe, ImplicitField, ImplicitFit, find_fit_recipe
from featup_app.fields.implicit.recipe import DEFAULT, PAPER
from featup_app.images import load_image

BACKBONES = (DEFAULT_BACKBONE, CLASSIFIER)
INPUT = "224"
LARGE_INPUT = "448"
PAPER_STEPS = 50
FACTORS = (2, 4)
DESCENT_STEPS = 60
"""Gradient steps after solving, in the ablations of what only a descent has."""

_POINTS_APART = 1.25
"""A curve is measured when a fit has done this many times the steps of its last point: often where it falls fast."""

_DIRECTIONS = 16


@dataclass(frozen=True)
class Point:
    """One point of a curve: steps done, seconds of fitting, and the held-out error of the best state until then."""

    step: int
    seconds: float
    error: float


@dataclass(frozen=True)
class Fitted:
    """What one fit came to.

    Attributes:
        error: held-out reprojection error in the end.
        bilinear, jbu: that of these methods.
        seconds: of fitting, views included.
        steps, views: done and seen.
        seconds_per_step: median over the steps after the first.
        points: the curve.
        off_grid: by factor, see :func:`off_grid`; empty where it was not measured.
        reason: why it ended.
    """

    error: float
    bilinear: float
    jbu: float
    seconds: float
    steps: int
    views: int
    seconds_per_step: float
    points: tuple[Point, ...]
    off_grid: Mapping[int, float]
    reason: str


@dataclass(frozen=True)
class Baseline:
    """A method without a fit: held-out error, and seconds to draw all channels at the backbone's input size."""

    error: float
    seconds: float


@dataclass(frozen=True)
class ImplicitRow:
    """One photo and backbone.

    Attributes:
        photo, backbone, input_hw, grid_hw: what was fitted.
        bilinear, jbu: what needs no fit.
        ours, paper: the fits; the published recipe perhaps only begun.
        paper_seconds: that all of the published recipe takes, measured or extrapolated.
        paper_extrapolated: whether it is ``seconds_per_step`` times its steps plus the time of one view times its views.
        seconds_to_paper: when ours reached the error of the published recipe; None where that was not run to its end, or
            ours did not get there.
        speedup: ``paper_seconds`` by ``seconds_to_paper``, or by all of ours where that is not known.
    """

    photo: str
    backbone: str
    input_hw: Size
    grid_hw: Size
    bilinear: Baseline
    jbu: Baseline
    ours: Fitted
    paper: Fitted
    paper_seconds: float
    paper_extrapolated: bool
    seconds_to_paper: float | None
    speedup: float


@dataclass(frozen=True)
class MemoryRow:
    """A fit in a process of its own.

    Attributes:
        extra_mb: peak memory beyond backbone and features (1e6 bytes); None where the system does not tell it.
        predicted_mb: what the fit said before that it would take.
        seconds, steps, error: of the fit; ``error`` is the held-out reprojection error.
    """

    photo: str
    backbone: str
    recipe: str
    input_hw: Size
    extra_mb: float | None
    predicted_mb: float
    seconds: float
    steps: int
    error: float


@dataclass(frozen=True)
class Ablation:
    """One setting of one switch."""

    switch: str
    setting: str
    recipe: FitRecipe


@dataclass(frozen=True)
class AblationRow:
    """What a setting is worth: means over photos, and the error of each.

    Attributes:
        error: held-out reprojection error.
        difference: of that error to the first row of the same kind (with or without a descent).
        seconds: of fitting, views included.
        errors: of each photo.
    """

    switch: str
    setting: str
    error: float
    difference: float
    seconds: float
    errors: tuple[float, ...]


def photo_features(
    photos: Sequence[Path], backbone: str, size: str = INPUT, progress: Progress = silent
) -> Iterator[FeatureMap]:
    """The features of each photo at an input size."""
    loaded = load_backbone(backbone, progress=progress)
    for photo in photos:
        yield loaded.extract(load_image(photo), size=size, progress=progress)


def fitted(
    features: FeatureMap,
    recipe: FitRecipe,
    *,
    curve: bool = True,
    factors: Sequence[int] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> Fitted:
    """Fit once.

    Args:
        features: of a photo, with its backbone.
        recipe: of the fit, which is run to its end.
        curve: whether the error is measured on the way, too.
        factors: densities to measure :func:`off_grid` at.
        seed: of the fit.
        progress: may cancel.
    """
    fit = ImplicitFit(features, recipe=recipe, seed=seed)
    fit.prepare(progress)
    points: list[Point] = []
    seconds: list[float] = []

    def on_state(state: Any) -> None:
        seconds.append(state.seconds)
        known = state.points and state.points[-1].held_out is not None
        if curve and known and (not points or state.step >= points[-1].step * _POINTS_APART):
            points.append(Point(state.step, state.seconds, fit.measure(progress).mean))

    state = fit.run(on_state=on_state, progress=progress)
    field = fit.field()
    assert field is not None
    if not points or points[-1].step != state.step:
        points.append(Point(state.step, state.seconds, fit.measure(progress).mean))
    durations = sorted(later - earlier for earlier, later in itertools.pairwise(seconds))
    size = features.geometry.input_hw
    return Fitted(
        error=points[-1].error,
        bilinear=state.bilinear,
        jbu=state.jbu,
        seconds=state.seconds,
        steps=state.step,
        views=int(field.settings()["views"]),  # type: ignore[call-overload]
        seconds_per_step=durations[len(durations) // 2] if durations else state.seconds,
        points=tuple(points),
        off_grid={factor: off_grid(field, size, factor, progress) for factor in factors},
        reason=state.reason,
    )


def off_grid(field: ImplicitField, size: Size, factor: int, progress: Progress = silent) -> float:
    """How far a field between the points of a grid is from what it is on them.

    Args:
        field: of one image.
        size: (H, W) of the grid.
        factor: how many times denser the field is drawn, before it is averaged down to the grid.
        progress: may cancel.

    Returns:
        Root mean square difference between that average and the field on the grid, by the field's deviation there.
    """
    finer = size[0] * factor, size[1] * factor
    wrong = deviation = 0.0
    # Components have orthonormal directions: differences are as large in them as in all channels.
    for block in torch.split(field.components.basis.T, _DIRECTIONS):
        plain = field.project(block, size=size, progress=progress)
        averaged = F.avg_pool2d(field.project(block, size=finer, progress=progress), factor)
        wrong += float((averaged - plain).double().square().sum())
        deviation += float((plain - plain.mean((1, 2), keepdim=True)).double().square().sum())
    return math.sqrt(wrong / max(deviation, 1e-30))


def compare_recipes(
    features: FeatureMap,
    *,
    ours: FitRecipe = DEFAULT,
    paper: FitRecipe = PAPER,
    paper_steps: int = PAPER_STEPS,
    factors: Sequence[int] = FACTORS,
    progress: Progress = silent,
) -> ImplicitRow:
    """Ours, the published recipe and what needs no fit, on one photo.

    Args:
        features: of the photo, with its backbone.
        ours, paper: the recipes.
        paper_steps: gradient steps of the published recipe; fewer than it has are extrapolated, and see fewer views.
        factors: densities of :func:`off_grid`.
        progress: may cancel.
    """
    baselines = {name: _baseline(features, name, progress) for name in ("bilinear", "jbu")}
    mine = fitted(features, ours, factors=factors, progress=progress)
    whole = paper_steps >= paper.gradient_steps
    begun = paper if whole else shortened(paper, paper_steps)
    theirs = fitted(features, begun, factors=factors, progress=progress)
    paper_seconds = theirs.seconds
    if not whole:
        for_views = max(0.0, theirs.seconds - theirs.steps * theirs.seconds_per_step)
        paper_seconds = theirs.seconds_per_step * paper.gradient_steps + for_views * paper.views / begun.views
    reached = reached_after(mine.points, theirs.error) if whole else None
    return ImplicitRow(
        photo=features.image.name,
        backbone=str(features.backbone_name),
        input_hw=features.geometry.input_hw,
        grid_hw=features.geometry.grid_hw,
        bilinear=Baseline(mine.bilinear, baselines["bilinear"]),
        jbu=Baseline(mine.jbu, baselines["jbu"]),
        ours=mine,
        paper=theirs,
        paper_seconds=paper_seconds,
        paper_extrapolated=not whole,
        seconds_to_paper=reached,
        speedup=paper_seconds / (reached or mine.seconds),
    )


def shortened(recipe: FitRecipe, steps: int) -> FitRecipe:
    """The recipe with fewer gradient steps, and no more views than those can look at."""
    views = min(recipe.views, steps * recipe.views_per_step)
    return replace(recipe, gradient_steps=steps, views=views)


def reached_after(points: Sequence[Point], error: float) -> float | None:
    """Seconds after which a curve is no higher than an error; None if it never is."""
    return next((point.seconds for point in points if point.error <= error), None)


def _baseline(features: FeatureMap, method: str, progress: Progress) -> float:
    """Seconds to draw all channels of a method without a fit at the backbone's input size, after one time that does not count."""
    seconds = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        upsample(features, method=method, progress=progress).features(
            size=features.geometry.input_hw, progress=progress
        )
        seconds = time.perf_counter() - begun
    return seconds


# -- memory ------------------------------------------------------------------------------------------------------------


def peak_memory(
    photo: Path, backbone: str, size: str, recipe: str = "default", progress: Progress = silent
) -> MemoryRow:
    """Fit in a process of its own, with as many threads as torch has here, and say how much memory it took.

    Raises:
        FeatUpError: if that process fails.
    """
    request = {
        "photo": str(photo),
        "backbone": backbone,
        "size": size,
        "recipe": recipe,
        "threads": torch.get_num_threads(),
    }
    title = f"fitting {photo.name} at {size} with {backbone}"
    facts = child_facts("featup_app.bench.implicit", (), title, progress, request=request)
    return MemoryRow(**{**facts, "input_hw": tuple(facts["input_hw"])})


def _measure_here(request: Mapping[str, Any]) -> MemoryRow:
    torch.set_num_threads(request["threads"])
    features = load_backbone(request["backbone"], device="cpu").extract(
        load_image(request["photo"]), size=request["size"]
    )
    fits: list[ImplicitFit] = []

    def run() -> Tensor:
        fits.append(ImplicitFit(features, recipe=find_fit_recipe(request["recipe"])))
        fits[-1].run()
        field = fits[-1].field()
        assert field is not None
        return field.network.last.weight

    extra = extra_megabytes(run)
    if not fits:
        run()
    state = fits[-1].state
    return MemoryRow(
        photo=Path(request["photo"]).name,
        backbone=request["backbone"],
        recipe=request["recipe"],
        input_hw=features.geometry.input_hw,
        extra_mb=extra,
        predicted_mb=fits[-1].memory_bytes() / 1e6,
        seconds=state.seconds,
        steps=state.step,
        error=fits[-1].measure().mean,
    )


# -- ablations ---------------------------------------------------------------------------------------------------------


def ablations(base: FitRecipe = DEFAULT, *, descent_steps: int = DESCENT_STEPS) -> tuple[Ablation, ...]:
    """One change at a time: of a solution, and of a solution with a short descent after it for what only that has."""
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
    """The error of each setting, averaged over photos; the first, and the first with a descent, are what others are told to."""
    reference: dict[bool, float] = {}
    for index, ablation in enumerate(chosen):
        place = f"{ablation.switch} {ablation.setting}: "
        told = part_of(progress, index, len(chosen), words=lambda words, place=place: place + words)  # type: ignore[misc]
        found = [fitted(features, ablation.recipe, curve=False, progress=told) for features in maps]
        errors = tuple(each.error for each in found)
        error = sum(errors) / len(errors)
        first = reference.setdefault(bool(ablation.recipe.gradient_steps), error)
        seconds = sum(each.seconds for each in found) / len(found)
        yield AblationRow(ablation.switch, ablation.setting, error, error - first, seconds, errors)


def _main() -> None:
    sys.stdout.write(json.dumps(dataclasses.asdict(_measure_here(json.loads(sys.stdin.read())))))


if __name__ == "__main__":
    _main()
