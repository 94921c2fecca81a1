"""Every switch of the fit of an implicit network to one image, and two settings of them: ours and the published one.

Imports no torch, so that a dialog can be filled before torch is loaded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featup_app.base.errors import UpsamplerError


@dataclass(frozen=True)
class FitRecipe:
    """How an implicit network is fitted (FeatUp, ICLR 2024, sections 3.1 and 3.3).

    Two ways lead to a network, and may follow each other: *solving*, where every step adds the features of a few more views
    and the last layer is the exact least-squares answer to all views so far; and *descent*, gradient steps on all parameters
    with all terms of the paper.

    Attributes:
        network: "fourier" (one layer of waves of position and colour together) or "perceptron" (the published one: waves of
            each coordinate and colour, three layers).
        start: the base field that the network adds to, which remains where the views determine nothing: "attention" (attention
            of the image's own features, untrained), "jbu" (their joint bilateral upsampling with the bundled weights, which a
            saved fit holds), "bilinear" (their bilinear interpolation) or "mean" (the mean feature, as published).
        positional: whether the positional component is removed from the features that are fitted to, where the
            bundled weights know it (:mod:`featup_app.fields.restoration`).
        colour: whether the network sees the colour of a place; without it, it sees positions alone.
        waves: of the Fourier network; 0 for two per cell of the feature grid, at least 512 and at most 1024.
        position_width: deviation of the waves' frequencies, in radians per cell of the feature grid. Tied to the grid, the
            waves are as fine as the features need and mean the same at every resolution.
        colour_width: the same for colours, in radians per deviation of ImageNet's colours.
        frequencies: of the perceptron, for each coordinate and colour.
        tied_frequencies: whether the perceptron's highest frequency is the finest that the fitted grid can hold. The published
            one, exp(10) in units of half the image, is noise off the grid that it was fitted on.
        hidden: width of the perceptron's layers.
        dropout: of the perceptron's inputs and first layer, whole channels at a time.
        components: principal components that the network predicts; 0 for all channels. Gradient steps fit those of the views'
            features, as published; a solution is found for all channels and then compressed to those that it uses most.
        views: jittered views of the image whose features are computed; 0 for as many as the grid needs: 96 for up to 448 cells,
            fewer for more, at least 28 (:func:`featup_app.fields.implicit.planning.with_views`).
        views_per_step: views that a solving step adds, or that a gradient step is computed on.
        max_padding, max_zoom: of the jitter, padding in pixels at an input of 224.
        samples_per_cell: points along a side of each cell at which the network is evaluated while it is fitted; 0 for every
            pixel of the backbone's input, as published.
        solve: whether the last layer is solved for while views arrive.
        ridge: of the least-squares solution, as the variance of the views' features around the field over that of
            the field; larger is smoother.
        image_weight: how many views the unjittered image counts as while solving.
        gradient_steps: gradient steps after all views are computed.
        rate: learning rate of the descent (NAdam).
        downsampler: of the descent: "box" (the plain average over each cell), "blur" or "attention".
        downsampler_size: k, pixels along a side of the learned downsampler's patches, at an input of 224.
        uncertainty: whether the scale of the error to expect is learned for each cell, from its features.
        weigh: whether cells count the less, the larger their expected error is, as published.
        magnitude: weight of the error of the features' magnitude.
        total_variation: weight of the squared differences of the magnitude of neighbouring pixels.
        blur_pin: weight of the squared distance between the features and their blurred form.
        patience: steps without a lower held-out error after which the fit ends; 0 to go on to the end.
        measure_every: gradient steps between two measurements on the held-out views.
        held_out: views that the curve is measured on, the first of those that methods are compared on.
    """

    name: str = "default"
    network: str = "fourier"
    start: str = "attention"
    positional: bool = True
    colour: bool = True
    waves: int = 0
    position_width: float = 2.0
    colour_width: float = 0.4
    frequencies: int = 30
    tied_frequencies: bool = True
    hidden: int = 128
    dropout: float = 0.0
    components: int = 128
    views: int = 0
    views_per_step: int = 8
    max_padding: int = 30
    max_zoom: float = 1.8
    samples_per_cell: int = 2
    solve: bool = True
    ridge: float = 3.0
    image_weight: float = 3.0
    gradient_steps: int = 0
    rate: float = 2e-3
    downsampler: str = "box"
    downsampler_size: int = 29
    uncertainty: bool = True
    weigh: bool = False
    magnitude: float = 0.0
    total_variation: float = 0.0
    blur_pin: float = 0.0
    patience: int = 4
    measure_every: int = 10
    held_out: int = 6

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UpsamplerError(
                    f'The recipe\'s {name} is "{getattr(self, name)}"; choose one of: {", ".join(choices)}.'
                )
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise UpsamplerError(f"The recipe's {name} is {value}; it must be at least {least:g}.")
        if not 0 <= self.dropout < 1:
            raise UpsamplerError(f"The recipe's dropout is {self.dropout}; it is a share of the channels, below 1.")
        if not self.solve and not self.gradient_steps:
            raise UpsamplerError("The recipe neither solves nor takes gradient steps; set solve or gradient_steps.")
        if self.weigh and not self.uncertainty:
            raise UpsamplerError(
                "The recipe weighs cells by an uncertainty that it does not learn; switch uncertainty on."
            )
        if self.solve and self.ridge <= 0:
            raise UpsamplerError(f"The recipe's ridge is {self.ridge}; a solution needs one above 0.")

    @property
    def solving_steps(self) -> int:
        """Steps in which views are added and the last layer is solved for; 0 while the number of views is open."""
        return math.ceil(self.views / self.views_per_step) if self.solve else 0

    @property
    def steps(self) -> int:
        """All steps of the plan."""
        return self.solving_steps + self.gradient_steps

    def facts(self) -> dict[str, Any]:
        """JSON-able; :func:`fit_recipe_from_facts` reads it."""
        return dataclasses.asdict(self)


STARTS = ("attention", "jbu", "bilinear", "mean")
"""What a fit can add to."""

_CHOICES = {
    "network": ("fourier", "perceptron"),
    "start": STARTS,
    "downsampler": ("box", "blur", "attention"),
}
_LEAST = {
    "waves": 0,
    "position_width": 0,
    "colour_width": 0,
    "frequencies": 1,
    "hidden": 1,
    "components": 0,
    "views": 0,
    "views_per_step": 1,
    "max_padding": 0,
    "max_zoom": 1,
    "samples_per_cell": 0,
    "ridge": 0,
    "image_weight": 0,
    "gradient_steps": 0,
    "rate": 0,
    "downsampler_size": 1,
    "magnitude": 0,
    "total_variation": 0,
    "blur_pin": 0,
    "patience": 0,
    "measure_every": 1,
    "held_out": 1,
}

DEFAULT = FitRecipe()

PAPER = FitRecipe(
    name="paper",
    network="perceptron",
    start="mean",
    positional=False,
    tied_frequencies=False,
    dropout=0.2,
    views=3000,
    views_per_step=10,
    samples_per_cell=0,
    solve=False,
    gradient_steps=1200,
    downsampler="attention",
    weigh=True,
    magnitude=1e-3,
    total_variation=0.05,
    blur_pin=0.1,
    patience=0,
)
"""The published configuration (FeatUp's ``implicit_upsampler.yaml``), with the attention downsampler's patches summed row by row
instead of being cut out, and its saliency dropout only where it learns."""

FIT_RECIPES: dict[str, FitRecipe] = {"default": DEFAULT, "paper": PAPER}


def find_fit_recipe(name: str) -> FitRecipe:
    """The recipe of this name.

    Raises:
        UpsamplerError: naming the recipes that exist.
    """
    if name not in FIT_RECIPES:
        raise UpsamplerError(f'There is no recipe "{name}". Choose one of: {", ".join(FIT_RECIPES)}.')
    return FIT_RECIPES[name]


def fit_recipe_from_facts(facts: Mapping[str, Any]) -> FitRecipe:
    """The recipe that :meth:`FitRecipe.facts` describes.

    Raises:
        UpsamplerError: if an entry is unknown or has an impossible value.
    """
    known = {entry.name for entry in dataclasses.fields(FitRecipe)}
    unknown = sorted(set(facts) - known)
    if unknown:
        raise UpsamplerError(f'The recipe has an unknown entry "{unknown[0]}"; it was written by another version.')
    # Earlier versions knew none of these.
    return FitRecipe(**{"start": "mean", "positional": False, "held_out": 16, **facts})
