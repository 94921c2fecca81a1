"""FeatUp's implicit form: a small network from position and colour to features, fitted to one image. Importing this imports no
torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.base.lazily import lazy_names

if TYPE_CHECKING:
    from featup_app.fields.implicit.files import load_fit, save_fit
    from featup_app.fields.implicit.fit import ImplicitFit
    from featup_app.fields.implicit.implicit_field import ImplicitField
    from featup_app.fields.implicit.making import make_field
    from featup_app.fields.implicit.recipe import FIT_RECIPES, FitRecipe, find_fit_recipe, fit_recipe_from_facts
    from featup_app.fields.implicit.state import FitPoint, FitState

__all__ = [
    "FIT_RECIPES",
    "FitPoint",
    "FitRecipe",
    "FitState",
    "ImplicitField",
    "ImplicitFit",
    "find_fit_recipe",
    "fit_recipe_from_facts",
    "load_fit",
    "make_field",
    "save_fit",
]

__getattr__ = lazy_names(
    __name__,
    {
        "FIT_RECIPES": "recipe",
        "FitPoint": "state",
        "FitRecipe": "recipe",
        "FitState": "state",
        "ImplicitField": "implicit_field",
        "ImplicitFit": "fit",
        "find_fit_recipe": "recipe",
        "fit_recipe_from_facts": "recipe",
        "load_fit": "files",
        "make_field": "making",
        "save_fit": "files",
    },
)
