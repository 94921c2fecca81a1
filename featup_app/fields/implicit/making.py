"""The method "implicit" for :func:`~featup_app.fields.upsample`: fit a network now, or take one that was fitted before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featup_app.base.errors import UpsamplerError
from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap
from featup_app.fields.implicit.files import load_fit
from featup_app.fields.implicit.fit import ImplicitFit
from featup_app.fields.implicit.implicit_field import ImplicitField
from featup_app.fields.implicit.recipe import FitRecipe, find_fit_recipe
from featup_app.images import Image


def make_field(
    features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent
) -> ImplicitField:
    """The field.

    Args:
        features: of the whole image; its backbone sees the views.
        image: the picture.
        options: ``fit``, a file of ``featup-app fit`` that was fitted to this image, instead of fitting; or any of ``recipe`` (a
            name or a :class:`FitRecipe`), ``seed``, and ``steps`` and ``seconds``, at most so many.
        progress: called between and within steps; may cancel.

    Raises:
        UpsamplerError: for options that exclude each other, features without their backbone, a file of another image, or a fit
            that found nothing.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "fit" in given:
        if len(given) > 1:
            other = next(name for name in given if name != "fit")
            raise UpsamplerError(f'A finished fit takes no "{other}"; give either a file or settings of a new fit.')
        return load_fit(Path(given["fit"]), features, image)
    recipe = given.get("recipe", "default")
    if not isinstance(recipe, FitRecipe):
        recipe = find_fit_recipe(str(recipe))
    for name in ("steps", "seconds"):
        if name in given and not given[name] > 0:
            raise UpsamplerError(f"The fit was given {given[name]} {name}; give more than 0.")
    fit = ImplicitFit(features, image, recipe=recipe, seed=int(given.get("seed", 0)))
    state = fit.run(steps=given.get("steps"), seconds=given.get("seconds"), progress=progress)
    field = fit.field()
    if field is None:
        raise UpsamplerError(
            f'No features could be fitted to "{image.name}": {state.reason or "no step was done; allow more time."}'
        )
    return field
