"""The base field that a fitted network adds to, and the positional component of the features that it is fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from featup_app.features import FeatureMap
from featup_app.fields import attention, jbu
from featup_app.fields.bilinear import BilinearField
from featup_app.fields.field import FeatureField
from featup_app.fields.implicit.recipe import FitRecipe
from featup_app.fields.restoration import Restoration
from featup_app.fields.upsampler import Upsampler
from featup_app.fields.upsampler_files import tensors_of, upsampler_of
from featup_app.fields.weights import choose, options_for, restoring
from featup_app.images import Image

_TENSORS = "start."


@dataclass(frozen=True, eq=False)
class Start:
    """The base field of a fit.

    Attributes:
        field: the base field; None for the mean feature.
        weights: the upsampler that the field is made with, which a file of the fit has to hold; None for none.
    """

    field: FeatureField | None
    weights: Upsampler | None = None

    @classmethod
    def of(cls, recipe: FitRecipe, features: FeatureMap, image: Image) -> Start:
        """The start of a new fit, with the bundled weights."""
        return cls.with_weights(recipe, features, image, choose("jbu", features) if recipe.start == "jbu" else None)

    @classmethod
    def with_weights(cls, recipe: FitRecipe, features: FeatureMap, image: Image, weights: Upsampler | None) -> Start:
        """The start with these weights; without any, joint bilateral upsampling is the classical one."""
        if recipe.start == "jbu":
            return cls(jbu.make_field(features, image, options_for("jbu", weights)), weights)
        if recipe.start == "attention":
            return cls(attention.make_field(features, image, {"restoration": 0}))
        return cls(BilinearField(features) if recipe.start == "bilinear" else None)

    @classmethod
    def from_file(
        cls,
        recipe: FitRecipe,
        features: FeatureMap,
        image: Image,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any] | None,
        path: Path,
    ) -> Start:
        """The start of a saved fit, from :meth:`tensors` and :meth:`facts`.

        Raises:
            UpsamplerError: if its weights are damaged or do not fit the features.
        """
        weights = None
        if recipe.start == "attention":
            return cls(attention.make_field(features, image, {**(facts or {})["settings"], "restoration": 0}))
        if facts is not None:
            own = {name[len(_TENSORS) :]: value for name, value in tensors.items() if name.startswith(_TENSORS)}
            weights = upsampler_of(own, facts["provenance"], path, sha256=str(facts["sha256"]))
        return cls.with_weights(recipe, features, image, weights)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the base field, which a file of the fit holds besides the network."""
        weights = self.weights
        if weights is None:
            return {}
        named = tensors_of(weights.stack, weights.channels, weights.norm, weights.restoration)
        return {f"{_TENSORS}{name}": value for name, value in named.items()}

    def facts(self) -> dict[str, Any] | None:
        """Provenance and hash of the weights, or the settings of an attention; JSON-able. None where there is neither."""
        weights = self.weights
        if isinstance(self.field, attention.AttentionField):
            return {"settings": self.field.settings()}
        if weights is None:
            return None
        return {"provenance": {"channels": weights.channels, **weights.provenance}, "sha256": weights.sha256}


def placeless(recipe: FitRecipe, features: FeatureMap) -> Restoration:
    """The restoration whose ``without_position`` removes the positional component of a view's features, where it is known."""
    weights = restoring(features) if recipe.positional else None
    known = None if weights is None else weights.restoration
    return Restoration.nothing(features.channels) if known is None else known
