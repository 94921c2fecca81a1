"""The memory that a fit needs, and how its recipe adapts to the size of the backbone's input."""

from __future__ import annotations

import math
from dataclasses import replace

from featup_app.features import FeatureMap, Geometry, Size
from featup_app.fields.implicit.network import FourierNetwork
from featup_app.fields.implicit.recipe import FitRecipe
from featup_app.fields.implicit.views import ASKED_VIEWS, BATCH_PIXELS

CONVOLUTIONAL_CELL = 32
"""Cells of this many pixels and more get proportionally more points to be fitted at than those of a transformer."""


MOST_VIEWS, FEWEST_VIEWS = 96, 28
"""Views of a fit whose recipe leaves their number open."""

CELLS_SEEN = 43_008
"""Cells of all these views together, for each of which the solution has an equation."""

FEWEST_AT_ONCE = 2
"""Views of a short step: a solution takes half as long as a large view."""


def with_views(recipe: FitRecipe, grid_hw: Size) -> FitRecipe:
    """The recipe with a number of views, if it leaves that open: the more cells a view has, the fewer views are needed."""
    if recipe.views:
        return recipe
    enough = math.ceil(CELLS_SEEN / math.prod(grid_hw))
    return replace(recipe, views=min(max(enough, FEWEST_VIEWS), MOST_VIEWS))


def fitted_size(recipe: FitRecipe, geometry: Geometry) -> Size:
    """(H, W) points at which the network is evaluated while it is fitted."""
    if recipe.samples_per_cell == 0:
        return geometry.input_hw
    cell = geometry.input_hw[0] / geometry.grid_hw[0]
    side = recipe.samples_per_cell * max(1, round(2 * cell / CONVOLUTIONAL_CELL))
    return geometry.grid_hw[0] * side, geometry.grid_hw[1] * side


def memory_bytes(recipe: FitRecipe, features: FeatureMap) -> int:
    """Peak memory of a fit beyond backbone and features, in bytes; an upper estimate."""
    geometry, channels = features.geometry, features.channels
    points, cells = math.prod(fitted_size(recipe, geometry)), math.prod(geometry.grid_hw)
    outputs = min((recipe.gradient_steps and recipe.components) or channels, channels)
    width = FourierNetwork.width_for(recipe, geometry.grid_hw) if recipe.network == "fourier" else recipe.hidden
    per_view = 4 * cells * channels
    views = (recipe.held_out + 4 * recipe.views_per_step + ASKED_VIEWS // 2) * per_view
    total = 8 * width * points + views + 300 * 2**20
    total += 8 * outputs * points if recipe.start != "mean" else 0
    if recipe.solve:
        # Rows of the held-out or new views, sums in single and double precision, and the solution's factor.
        total += 4 * width * cells * max(recipe.held_out, recipe.views_per_step) * 2 + 24 * width**2
    if recipe.gradient_steps:
        pixels = math.prod(geometry.input_hw)
        total += 4 * recipe.views * cells * outputs + points * 4 * (12 * width + 8 * outputs)
        total += 4 * 8 * outputs * pixels if recipe.downsampler != "box" else 0
    return total


def smaller(recipe: FitRecipe, geometry: Geometry) -> FitRecipe | None:
    """A recipe of the same kind that needs less memory; None if no sensible one exists."""
    if recipe.samples_per_cell == 0:
        return replace(recipe, name=f"{recipe.name}, smaller", samples_per_cell=4)
    width = FourierNetwork.width_for(recipe, geometry.grid_hw) // 2
    if recipe.network == "fourier" and width > 256:
        return replace(recipe, name=f"{recipe.name}, smaller", waves=width // 2, views_per_step=4)
    return None


def in_short_steps(recipe: FitRecipe, input_hw: Size) -> FitRecipe:
    """A solving recipe with as many views, but no more in a step than the backbone sees at once, or two, so that pictures of
    the fit are renewed every few seconds where views are large too."""
    at_once = max(FEWEST_AT_ONCE, BATCH_PIXELS // math.prod(input_hw))
    if not recipe.solve or recipe.gradient_steps or recipe.views_per_step <= at_once:
        return recipe
    return replace(recipe, views_per_step=at_once)
