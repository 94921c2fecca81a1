"""Recipes small enough to fit networks within a test, and what the tests of fits ask again and again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from featup_app.features import FeatureMap
from featup_app.fields.implicit import FitRecipe, ImplicitFit
from featup_app.images import Image, image_from_array

SOLVED = FitRecipe(name="tiny", waves=48, views=8, views_per_step=4)
DESCENDED = replace(SOLVED, solve=False, gradient_steps=12, measure_every=2, rate=1e-2, patience=0)
PERCEPTRON = replace(DESCENDED, network="perceptron", hidden=24, frequencies=6)
SIZE = (24, 32)


def fitted(features: FeatureMap, recipe: FitRecipe, **changes: object) -> ImplicitFit:
    fit = ImplicitFit(features, recipe=replace(recipe, **changes))
    fit.run()
    return fit


def drawn(fit: ImplicitFit) -> torch.Tensor:
    field = fit.field()
    assert field is not None
    return field.features(size=SIZE)


def smooth_picture() -> Image:
    """Slow waves and a disc with a soft edge, as photos are smooth."""
    rows, columns = np.mgrid[0:96, 0:128] / 16
    disc = 1 / (1 + np.exp(6 * (np.hypot(rows - 3, columns - 4) - 2)))
    planes = [np.sin(rows) + 2 * disc, np.cos(columns / 2) - disc, np.sin(rows + columns) + disc]
    pixels = np.stack(planes, axis=-1)
    pixels = 255 * (pixels - pixels.min()) / (pixels.max() - pixels.min())
    return image_from_array(pixels.round().astype(np.uint8))
