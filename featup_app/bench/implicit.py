"""How fast and how well implicit networks are fitted: our recipe, the published one, and methods without a fit.

Quality is always the held-out reprojection error that all methods share (decision 0032); the clock of a fit stops while it
is measured. Times of fits include the features of the fitted views, but not those of the held-out ones.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from featup_app.backbones import load_backbone
from featup_app.backbones.catalogue import CLASSIFIER, DEFAULT_BACKBONE
from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Size
from featup_app.fields import upsample
from featup_app.fields.implicit import FitRecipe, ImplicitField, ImplicitFit
from featup_app.fields.implicit.recipe import DEFAULT, PAPER
from featup_app.images import load_image

BACKBONES = (DEFAULT_BACKBONE, CLASSIFIER)
INPUT = "224"
PAPER_STEPS = 50
FACTORS = (2, 4)
_STEP_FACTOR = 1.25
"""The steps of a curve's points grow by at least this factor, so that points are dense where the error falls fast."""

_DIRECTIONS = 16


@dataclass(frozen=True)
class Point:
    """One point of a curve: steps done, seconds of fitting, and the held-out error of the best state until then."""

    step: int
    seconds: float
    error: float


@dataclass(frozen=True)
class Fitted:
    """The result of one fit.

    Attributes:
        error: held-out reprojection error at the end.
        bilinear, jbu: held-out reprojection error of these methods.
        seconds: of fitting, including the features of the views.
        steps, views: number of steps done and of views used.
        seconds_per_step: median over the steps after the first.
        points: the curve of the error.
        off_grid: result of :func:`off_grid` by factor; empty where it was not measured.
        reason: why the fit ended.
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
    """A method without a fit: held-out error, and seconds to compute all channels at the backbone's input size."""

    error: float
    seconds: float


@dataclass(frozen=True)
class ImplicitRow:
    """One photo and backbone.

    Attributes:
        photo, backbone, input_hw, grid_hw: names of photo and backbone, (H, W) of its input and of its features.
        bilinear, jbu: the methods without a fit.
        ours, paper: the fits; the published recipe may have been stopped early.
        paper_seconds: duration of the whole published recipe, measured or extrapolated.
        paper_extrapolated: whether ``paper_seconds`` is ``seconds_per_step`` times the steps of the recipe, plus the time of
            one view times its views.
        seconds_to_paper: after which our fit reached the error of the published recipe; None if it never did, or if the
            published recipe was stopped early.
        speedup: ``paper_seconds`` divided by ``seconds_to_paper``, or by the duration of our fit where that is None.
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
        curve: whether the error is also measured during the fit.
        factors: to measure :func:`off_grid` at.
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
        if curve and known and (not points or state.step >= points[-1].step * _STEP_FACTOR):
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
    """How much a field varies between the points of a grid.

    Args:
        field: of one image.
        size: (H, W) of the grid.
        factor: how many times denser the field is computed, before it is averaged down to the grid.
        progress: may cancel.

    Returns:
        Root mean square difference between that average and the field on the grid, divided by the field's standard
        deviation on the grid.
    """
    finer = size[0] * factor, size[1] * factor
    difference = deviation = 0.0
    # Components have orthonormal directions, so differences have the same size in them as in all channels.
    for block in torch.split(field.components.basis.T, _DIRECTIONS):
        plain = field.project(block, size=size, progress=progress)
        averaged = F.avg_pool2d(field.project(block, size=finer, progress=progress), factor)
        difference += float((averaged - plain).double().square().sum())
        deviation += float((plain - plain.mean((1, 2), keepdim=True)).double().square().sum())
    return math.sqrt(difference / max(deviation, 1e-30))


def compare_recipes(
    features: FeatureMap,
    *,
    ours: FitRecipe = DEFAULT,
    paper: FitRecipe = PAPER,
    paper_steps: int = PAPER_STEPS,
    factors: Sequence[int] = FACTORS,
    progress: Progress = silent,
) -> ImplicitRow:
    """Measure our recipe, the published one and the methods without a fit on one photo.

    Args:
        features: of the photo, with its backbone.
        ours, paper: the recipes.
        paper_steps: gradient steps to run of the published recipe. With fewer than it has, fewer views are used and its
            duration is extrapolated.
        factors: to measure :func:`off_grid` at.
        progress: may cancel.
    """
    baselines = {name: _baseline(features, name, progress) for name in ("bilinear", "jbu")}
    our_fit = fitted(features, ours, factors=factors, progress=progress)
    whole = paper_steps >= paper.gradient_steps
    recipe = paper if whole else shortened(paper, paper_steps)
    paper_fit = fitted(features, recipe, factors=factors, progress=progress)
    paper_seconds = paper_fit.seconds
    if not whole:
        for_views = max(0.0, paper_fit.seconds - paper_fit.steps * paper_fit.seconds_per_step)
        paper_seconds = paper_fit.seconds_per_step * paper.gradient_steps + for_views * paper.views / recipe.views
    reached = reached_after(our_fit.points, paper_fit.error) if whole else None
    return ImplicitRow(
        photo=features.image.name,
        backbone=str(features.backbone_name),
        input_hw=features.geometry.input_hw,
        grid_hw=features.geometry.grid_hw,
        bilinear=Baseline(our_fit.bilinear, baselines["bilinear"]),
        jbu=Baseline(our_fit.jbu, baselines["jbu"]),
        ours=our_fit,
        paper=paper_fit,
        paper_seconds=paper_seconds,
        paper_extrapolated=not whole,
        seconds_to_paper=reached,
        speedup=paper_seconds / (reached or our_fit.seconds),
    )


def shortened(recipe: FitRecipe, steps: int) -> FitRecipe:
    """The recipe with fewer gradient steps, and no more views than these steps use."""
    views = min(recipe.views, steps * recipe.views_per_step)
    return replace(recipe, gradient_steps=steps, views=views)


def reached_after(points: Sequence[Point], error: float) -> float | None:
    """Seconds until a curve falls to an error; None if it never does."""
    return next((point.seconds for point in points if point.error <= error), None)


def _baseline(features: FeatureMap, method: str, progress: Progress) -> float:
    """Seconds to compute all channels of a method without a fit at the backbone's input size, after a warm-up run."""
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        upsample(features, method=method, progress=progress).features(
            size=features.geometry.input_hw, progress=progress
        )
        seconds = time.perf_counter() - started
    return seconds
