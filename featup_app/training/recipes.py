"""Every switch of the training of an upsampler, and two settings of them: the published one and ours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featup_app.base.errors import UpsamplerError
from featup_app.fields.registry import METHODS, STAGES


@dataclass(frozen=True)
class Rates:
    """Learning rates of the parts of the upsampler and of what is learned beside it; 0 keeps a part as it starts.

    Attributes:
        keys: the guidance's way to keys (``range_proj``).
        temperature: the logarithm of the factor of the products of keys.
        width: the spatial Gaussian's width.
        kernel_correction: the per-pixel correction of the window weights (``up*.fixup_proj``).
        feature_correction: the last 1x1 correction of the features (``fixup_proj``).
        downsampler: kernel or saliency.
        uncertainty: the scale of the error that is expected of a position.
        network: all of the network of a method other than joint bilateral upsampling, which scales it to its own.
    """

    keys: float = 1e-3
    temperature: float = 1e-3
    width: float = 1e-3
    kernel_correction: float = 1e-3
    feature_correction: float = 1e-3
    downsampler: float = 1e-3
    uncertainty: float = 1e-3
    network: float = 1e-3


GENTLE_RATES = Rates(keys=1e-4, temperature=1e-4, width=1e-4)
"""Stages that start as the classical filter need little; faster ones drift from seed to seed into what probes do not read."""


@dataclass(frozen=True)
class Recipe:
    """How an upsampler is trained (FeatUp, ICLR 2024, sections 3.1 and 3.2).

    Attributes:
        method: upsampling method: "jbu", "carafe", "sapa" or "resize_conv".
        initial: "published" begins with torch's random layers, temperature 1 and spatial width 1; "classical" with keys
            that reproduce the classical joint bilateral weights, and corrections that are zero. Methods other than jbu
            begin as bilinear interpolation then.
        widths: spatial widths of the four stages that a classical start has, coarsest first.
        restoration: how much keeping the coarse map counts beside the error of views when a change of its detail is solved for
            at the end (:mod:`featup_app.training.restoration`); larger is sharper, 0 for none, None for as much as leaves
            held-out views explained better than by bilinear interpolation. Of stacks for a single backbone, which then serve no
            other.
        positional: whether the positional component is removed from the coarse map before
            (:mod:`featup_app.training.positions`); only with a restoration.
        normalise: whether features pass a layer normalisation over their channels first, as in the published training.
        rates: learning rates of the parts.
        schedule: "constant", or "cosine" (a linear rise over ``warm_up`` of the training, then half a cosine to zero).
        warm_up: fraction of the training.
        downsampler: "blur", "attention" or "box" (the plain average over each patch, nothing learned).
        downsampler_size: points along a side of each patch at which a view is looked up, for "blur" and "attention".
        images_per_step: pictures in a step.
        views: views of each picture in a step.
        directions: random directions on which the error is measured, new in each step; 0 for all channels.
        uncertainty: whether errors are weighed by a learned scale for each position.
        identity: weight of the error of the unjittered map: averaged over its cells, the upsampled map is to give the
            backbone's.
        total_variation: weight of the squared differences of the magnitude of neighbours.
        conditional_random_field: weight of the smoothness where the image is smooth.
        clip: largest norm of the gradient; 0 for none.
        clip_steps: steps in which gradients are clipped; 0 for all.
        max_padding, max_zoom: of the jitter, padding in pixels of the backbone's input.
        learn_kernel_correction: whether the window weights get their per-pixel correction, after which they need not sum
            to one. Left out, a step takes half the time.
        learn_feature_correction: whether the last 1x1 correction of the features is learned. A universal upsampler has
            none. Both corrections lower the error of held-out views by a tenth and more, and both change what the features
            mean: linear probes fitted on the backbone's features lose a point or more (decision 0025).
        reference_gradient: gives the window weights only the seven of 49 taps of their gradient that the published
            CUDA operator computes.
        dropout: whether the published dropout acts (a tenth in the kernels, a fifth before the feature correction).
    """

    name: str = "default"
    method: str = "jbu"
    initial: str = "classical"
    widths: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    restoration: float | None = None
    positional: bool = True
    normalise: bool = False
    rates: Rates = field(default_factory=lambda: GENTLE_RATES)
    schedule: str = "cosine"
    warm_up: float = 0.02
    downsampler: str = "box"
    downsampler_size: int = 14
    images_per_step: int = 1
    views: int = 5
    directions: int = 30
    uncertainty: bool = True
    identity: float = 0.0
    total_variation: float = 0.0
    conditional_random_field: float = 0.0
    clip: float = 0.0
    clip_steps: int = 0
    max_padding: int = 30
    max_zoom: float = 2.0
    learn_kernel_correction: bool = False
    learn_feature_correction: bool = False
    reference_gradient: bool = False
    dropout: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UpsamplerError(
                    f'The recipe\'s {name} is "{getattr(self, name)}"; choose one of: {", ".join(choices)}.'
                )
        for name in ("views", "images_per_step", "downsampler_size"):
            if getattr(self, name) < 1:
                raise UpsamplerError(f"The recipe's {name} is {getattr(self, name)}; it must be at least 1.")
        if len(self.widths) != STAGES or not all(0 < width < math.inf for width in self.widths):
            raise UpsamplerError(f"The recipe's widths are {self.widths}; give {STAGES} numbers above 0.")
        if not self.max_zoom >= 1:
            raise UpsamplerError(f"The recipe's max_zoom is {self.max_zoom}; views cannot be smaller than the image.")
        if not 0 <= self.warm_up < 1:
            raise UpsamplerError(f"The recipe's warm_up is {self.warm_up}; it is a fraction of the training, below 1.")
        for part in (*dataclasses.astuple(self.rates), *(getattr(self, name) or 0.0 for name in _NOT_NEGATIVE)):
            if not 0 <= part < math.inf:
                raise UpsamplerError(f"The recipe holds {part}; rates, weights and counts are not negative.")

    def rate_factor(self, progress: float) -> float:
        """The factor of the learning rates when a fraction ``progress`` of the training is done."""
        if progress < self.warm_up:
            return (progress + 1e-3) / (self.warm_up + 1e-3)
        if self.schedule == "constant":
            return 1.0
        done = min(1.0, (progress - self.warm_up) / (1 - self.warm_up))
        return 0.5 * (1 + math.cos(math.pi * done))

    def facts(self) -> dict[str, Any]:
        """JSON-able; :func:`recipe_from_facts` reads it."""
        return dataclasses.asdict(self)


TRAINED = tuple(method.name for method in METHODS if method.takes_weights)
"""The methods that can be trained."""

_CHOICES = {
    "method": TRAINED,
    "initial": ("classical", "published"),
    "schedule": ("constant", "cosine"),
    "downsampler": ("blur", "attention", "box"),
}
_NOT_NEGATIVE = (
    "directions",
    "restoration",
    "identity",
    "total_variation",
    "conditional_random_field",
    "clip",
    "clip_steps",
    "max_padding",
)

DEFAULT = Recipe()

PAPER = Recipe(
    name="paper",
    rates=Rates(),
    initial="published",
    restoration=0.0,
    normalise=True,
    schedule="constant",
    warm_up=0.0,
    downsampler="attention",
    downsampler_size=16,
    images_per_step=4,
    conditional_random_field=1e-3,
    clip=1e-4,
    clip_steps=10,
    max_padding=20,
    learn_kernel_correction=True,
    learn_feature_correction=True,
    dropout=True,
)
"""The published configuration (FeatUp's ``jbu_upsampler.yaml``), except that all views of a step share one backward pass
and one projection, and that the conditional random field pairs each feature with the place it belongs to."""

RECIPES: dict[str, Recipe] = {"default": DEFAULT, "paper": PAPER}


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UpsamplerError: naming the recipes that exist.
    """
    if name not in RECIPES:
        raise UpsamplerError(f'There is no recipe "{name}". Choose one of: {", ".join(RECIPES)}.')
    return RECIPES[name]


def recipe_from_facts(facts: Mapping[str, Any]) -> Recipe:
    """The recipe that :meth:`Recipe.facts` describes.

    Raises:
        UpsamplerError: if an entry is unknown.
    """
    known = {entry.name for entry in dataclasses.fields(Recipe)}
    unknown = sorted(set(facts) - known)
    if unknown:
        raise UpsamplerError(f'The recipe has an unknown entry "{unknown[0]}"; it was written by another version.')
    widths = tuple(facts.get("widths", DEFAULT.widths))
    return Recipe(**{**facts, "widths": widths, "rates": Rates(**facts.get("rates", {}))})
