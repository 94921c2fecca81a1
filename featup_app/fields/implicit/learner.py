"""The network of a fit with everything that it is learned from, built in one go from the first views."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.guidance import Guidance
from featup_app.fields.implicit.descent import Descent
from featup_app.fields.implicit.network import FourierNetwork, ImplicitNetwork, PerceptronNetwork, pixel_places
from featup_app.fields.implicit.planning import fitted_size
from featup_app.fields.implicit.recipe import FitRecipe
from featup_app.fields.implicit.solving import NormalEquations, weights_of
from featup_app.fields.implicit.start import Start, placeless
from featup_app.fields.implicit.uncertainty import CellUncertainty
from featup_app.fields.implicit.views import Views, find_components
from featup_app.images import Image
from featup_app.multiview import Jitter, box_average, box_view_cells


class Learner:
    """Learns a network by least squares and by gradient steps.

    Attributes:
        components: the directions in feature space that the network predicts.
        network: as it is now, in evaluation mode.
        uncertainty: learned along; None if the recipe has none.

    Args:
        recipe: all switches.
        features: the low-resolution map.
        image: the picture.
        start: the base field that the network adds to.
        first_views: (V, C, h, w), features of the first jittered views.
        generator: draws the network, the head of uncertainties, and whatever gradient steps draw.
    """

    def __init__(
        self,
        recipe: FitRecipe,
        features: FeatureMap,
        image: Image,
        start: Start,
        first_views: Tensor,
        generator: torch.Generator,
    ) -> None:
        self._features, self._image, self._generator = features, image, generator
        self._fit_hw = fitted_size(recipe, features.geometry)
        self._without_position = placeless(recipe, features).without_position
        data = features.data
        # A solution costs next to nothing for further channels; what it then does not use is left out of the field.
        wanted = recipe.components if recipe.gradient_steps else 0
        self.components = components = find_components(torch.cat([data[None], first_views]), wanted)
        outputs = components.basis.shape[1]
        places, colours = self._fitted_points()
        self.network = _new_network(recipe, outputs, features, self._fit_hw, colours, generator)
        self._base: Tensor | None = None
        if start.field is not None:
            base = start.field.project(components.basis.T, -(components.mean @ components.basis), size=self._fit_hw)
            self._base = base.permute(1, 2, 0).contiguous()
        self.uncertainty = (
            CellUncertainty(outputs, components.scale, generator, data.device) if recipe.uncertainty else None
        )
        self.normal: NormalEquations | None = None
        self._descent: Descent | None = None
        self._jitters: list[Jitter] = []
        self._targets: list[Tensor] = []
        if recipe.solve:
            self.normal = self._own_equations(recipe, places, colours, outputs)

    def _own_equations(self, recipe: FitRecipe, places: Tensor, colours: Tensor, outputs: int) -> NormalEquations:
        """The sums for least squares, with the cells of the image itself counted in."""
        grid_hw = self._features.geometry.grid_hw
        parts = zip(torch.split(places, 4096), torch.split(colours, 4096), strict=True)
        hidden = torch.cat([self.network.hidden(*part) for part in parts])
        normal = NormalEquations(hidden.view(*self._fit_hw, -1), grid_hw, outputs, recipe.ridge)
        own = self._own_components()
        if self._base is not None:
            own = own - box_average(self._base.permute(2, 0, 1), grid_hw)
        normal.add(normal.image_rows(), _as_rows(own), recipe.image_weight)
        return normal

    # -- steps ---------------------------------------------------------------------------------------------------------

    def solve(self, recipe: FitRecipe, views: Views, *, first: bool) -> float | None:
        """Count some views in, and solve for the last layer.

        Args:
            recipe: all switches.
            views: that the network has not seen yet.
            first: whether they are the first ones.

        Returns:
            The mean squared error of the views before they were counted in, in units of the components' mean square; None
            for the first ones, and NaN if the solution is not finite.
        """
        network, normal = self.network, self.normal
        assert normal is not None, "the recipe solves for nothing"
        targets = self.components.of(self._without_position(views.features))
        rows, wanted = normal.rows(views.jitters), _as_rows(targets)
        if self._base is not None:
            wanted = wanted - box_view_cells(self._base, views.jitters, self._features.geometry.grid_hw).flatten(0, 2)
        loss = None
        if not first:
            # The network has not seen these views yet: their error is unbiased, and shows where errors are to be expected.
            squared = (rows @ network.last.weight.T - wanted).square().mean(1)
            loss = float(squared.mean()) / self.components.scale**2
            if self.uncertainty is not None and math.isfinite(loss):
                shape = targets.shape
                self.uncertainty.learn(targets, squared.view(shape[0], *shape[2:]))
        normal.add(rows, wanted, weights_of(self.uncertainty if recipe.weigh and not first else None, targets))
        self._keep(recipe, views.jitters, targets)
        solved = normal.solution()
        if not bool(solved.isfinite().all()):
            return math.nan
        network.last.weight.copy_(solved)
        return loss

    def gather(self, recipe: FitRecipe, views: Views) -> None:
        """Keep views for gradient steps."""
        self._keep(recipe, views.jitters, self.components.of(self._without_position(views.features)))

    def _keep(self, recipe: FitRecipe, jitters: tuple[Jitter, ...], targets: Tensor) -> None:
        """Keep views for the descent, in half precision."""
        if recipe.gradient_steps:
            self._jitters += jitters
            self._targets += list(targets.half())

    def descend(self, recipe: FitRecipe) -> float:
        """A gradient step on some of the kept views; their mean squared error, in units of the components' mean square."""
        if self._descent is None:
            places, colours = self._fitted_points()
            self._descent = Descent(
                self.network,
                self.uncertainty,
                recipe,
                places,
                colours,
                None if self._base is None else self._base.permute(2, 0, 1),
                fit_hw=self._fit_hw,
                input_hw=self._features.geometry.input_hw,
                unit=self.components.scale,
                generator=self._generator,
            )
        order = torch.randperm(len(self._jitters), generator=self._generator).tolist()
        chosen = order[: recipe.views_per_step]
        targets = torch.stack([self._targets[index] for index in chosen]).to(self.components.basis)
        return self._descent.step([self._jitters[index] for index in chosen], targets)

    # -- what was learned ----------------------------------------------------------------------------------------------

    def predicted(self, network: ImplicitNetwork, jitters: tuple[Jitter, ...]) -> Tensor:
        """(V, K, h, w): the components of jittered views that a state of the network, with the base field, predicts."""
        if self.normal is not None and self._descent is None:  # a solution leaves the hidden numbers as they were
            drawn = network.last(self.normal.hidden)
        else:
            places, colours = self._fitted_points()
            parts = zip(torch.split(places, 16384), torch.split(colours, 16384), strict=True)
            drawn = torch.cat([network(*part) for part in parts]).view(*self._fit_hw, -1)
        if self._base is not None:
            drawn = drawn + self._base
        return box_view_cells(drawn, jitters, self._features.geometry.grid_hw).permute(0, 3, 1, 2)

    def expected_errors(self) -> Tensor | None:
        """(h, w), the root mean square error of a component that is expected at each cell of the image; None without."""
        return None if self.uncertainty is None else self.uncertainty.scale(self._own_components())[0]

    def downsampler_kernel(self) -> Tensor | None:
        """(k, k), what a learned downsampler averages a patch with; None for the plain average."""
        return None if self._descent is None else self._descent.kernel()

    def saliency(self) -> tuple[Tensor, Tensor] | None:
        """The functional of the features (1, C), and its bias (1), that says how much a pixel counts in its patch."""
        direction = None if self._descent is None else self._descent.saliency_direction()
        if direction is None:
            return None
        functional = direction[None] @ self.components.basis.T
        return functional, -(functional @ self.components.mean)

    def _own_components(self) -> Tensor:
        """(1, K, h, w) components of the image's own features."""
        return self.components.of(self._without_position(self._features.data[None]))

    def _fitted_points(self) -> tuple[Tensor, Tensor]:
        """(N, 2) places and (N, 3) colours of the points that the network is fitted at."""
        size, device = self._fit_hw, self._features.data.device
        geometry = replace(self._features.geometry, offset_xy=(0.0, 0.0))
        colours = Guidance(self._image, geometry, device, normalise=True).at(size)
        return pixel_places(size, Region.whole(size), device), colours.flatten(1).T.contiguous()


def _new_network(
    recipe: FitRecipe, outputs: int, features: FeatureMap, fit_hw: Size, colours: Tensor, generator: torch.Generator
) -> ImplicitNetwork:
    network: ImplicitNetwork
    if recipe.network == "fourier":
        network = FourierNetwork(recipe, outputs, features.geometry.grid_hw, generator)
    else:
        network = PerceptronNetwork(recipe, outputs, fit_hw, colours.cpu(), generator)
    if recipe.solve and network.last.bias is not None:  # the weights alone are solved for
        network.last.bias.zero_()
    return network.to(features.data.device).eval()


def _as_rows(maps: Tensor) -> Tensor:
    """(V, K, h, w) -> (V * h * w, K)."""
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)
