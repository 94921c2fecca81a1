"""What a fitted network adds to."""

from __future__ import annotations

from featup_app.features import FeatureMap
from featup_app.fields.bilinear import BilinearField
from featup_app.fields.field import FeatureField
from featup_app.fields.implicit.recipe import FitRecipe


def start_of(recipe: FitRecipe, features: FeatureMap) -> FeatureField | None:
    """The field that a recipe starts from; None for the mean feature. It is made of the low-resolution map alone."""
    return BilinearField(features) if recipe.start == "bilinear" else None
