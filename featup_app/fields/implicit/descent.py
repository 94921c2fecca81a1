"""Gradient steps on all parameters of a network, with all terms of the paper (FeatUp sections 3.1 and 3.3).

The network is evaluated once at all fitted points of the image; the downsampler makes coarse maps of the views, carrying its
weights over to that map instead of computing the views; the loss compares them with the backbone's features of the views.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from featup_app.features import Size
from featup_app.fields.implicit.network import ImplicitNetwork
from featup_app.fields.implicit.recipe import FitRecipe
from featup_app.fields.implicit.uncertainty import CellUncertainty
from featup_app.multiview import (
    AttentionDownsampler,
    BlurDownsampler,
    Jitter,
    blur_distance,
    box_views,
    magnitude_loss,
    reconstruction_loss,
    total_variation,
)


class Descent:
    """The loss of a few views, and steps down its gradient.

    Args:
        network: whose parameters are learned.
        uncertainty: learned along, or None.
        recipe: weights of the terms and the learning rate.
        places, colours: (H * W, 2) and (H * W, 3) of the fitted points, row by row.
        base: (K, H, W), the base field at these points; None without one.
        fit_hw: (H, W).
        input_hw: of the backbone, in pixels.
        unit: root mean square of a component; the loss is in this unit.
        generator: draws the downsampler's first weights and all dropout.
    """

    def __init__(
        self,
        network: ImplicitNetwork,
        uncertainty: CellUncertainty | None,
        recipe: FitRecipe,
        places: Tensor,
        colours: Tensor,
        base: Tensor | None,
        *,
        fit_hw: Size,
        input_hw: Size,
        unit: float,
        generator: torch.Generator,
    ) -> None:
        self.network, self.uncertainty, self.recipe = network, uncertainty, recipe
        self.downsampler = _downsampler(recipe, network.last.out_features, min(input_hw), generator).to(places.device)
        self._places, self._colours, self._base, self._fit_hw = places, colours, base, fit_hw
        self._input_hw, self._unit, self._generator = input_hw, unit, generator
        parameters = [*network.parameters(), *self.downsampler.parameters()]
        if uncertainty is not None:
            parameters += list(uncertainty.head.parameters())
        self._optimizer = torch.optim.NAdam(parameters, lr=recipe.rate)

    def step(self, jitters: Sequence[Jitter], components: Tensor) -> float:
        """One step.

        Args:
            jitters: V views.
            components: (V, K, h, w), the components of the backbone's features of the views.

        Returns:
            The mean squared error of the views, in units of the components' mean square.
        """
        network = self.network
        network.train()
        self.downsampler.train()
        with torch.enable_grad():
            drawn = network(self._places, self._colours, self._generator).T.reshape(-1, *self._fit_hw)
            if self._base is not None:
                drawn = drawn + self._base
            loss, plain = self._views_loss((drawn / self._unit).contiguous(), jitters, components / self._unit)
            torch.autograd.backward(loss)
            self._optimizer.step()
            self._optimizer.zero_grad()
        network.eval()
        self.downsampler.eval()
        return plain

    def kernel(self) -> Tensor | None:
        """(k, k), what a patch is averaged with where nothing is salient; None for the plain average."""
        with torch.no_grad():
            if isinstance(self.downsampler, BlurDownsampler):
                return self.downsampler.kernel()
            if isinstance(self.downsampler, AttentionDownsampler):
                return self.downsampler.b.flatten().softmax(0).view_as(self.downsampler.b)
        return None

    def saliency_direction(self) -> Tensor | None:
        """(K), the functional of the components that says how much a pixel counts in its patch; None without attention."""
        if isinstance(self.downsampler, AttentionDownsampler):
            return self.downsampler.saliency_direction().detach()
        return None

    def _views_loss(self, features: Tensor, jitters: Sequence[Jitter], targets: Tensor) -> tuple[Tensor, float]:
        """The loss of the map (K, H, W) and its views (V, K, h, w), and the views' plain squared error."""
        recipe = self.recipe
        magnitude = _magnitude(features) if recipe.magnitude or recipe.total_variation else None
        channels = features
        if recipe.magnitude:
            assert magnitude is not None
            channels = torch.cat([features, magnitude])
        seen = self._seen(features, channels, jitters, (int(targets.shape[2]), int(targets.shape[3])))
        predicted = seen[:, : features.shape[0]]
        scale = None if self.uncertainty is None else self.uncertainty.head(targets)
        if scale is None or recipe.weigh:
            loss = reconstruction_loss(predicted, targets, scale)
        else:
            # The scale is learned from errors that it does not change.
            loss = reconstruction_loss(predicted, targets) + reconstruction_loss(predicted.detach(), targets, scale)
        if recipe.magnitude:
            loss = loss + recipe.magnitude * magnitude_loss(seen[:, -1:], targets)
        if recipe.total_variation:
            assert magnitude is not None
            loss = loss + recipe.total_variation * total_variation(magnitude)
        if recipe.blur_pin:
            loss = loss + recipe.blur_pin * blur_distance(features)
        return loss, float((predicted.detach() - targets).square().mean())

    def _seen(self, features: Tensor, channels: Tensor, jitters: Sequence[Jitter], grid_hw: Size) -> Tensor:
        """The downsampled views (V, K + 0 or 1, h, w) of (K + 0 or 1, H, W) channels, of which the first K are features."""
        if isinstance(self.downsampler, AttentionDownsampler):
            return self.downsampler.of_views(
                features, jitters, self._input_hw, grid_hw, channels=channels, generator=self._generator
            )
        if isinstance(self.downsampler, BlurDownsampler):
            return self.downsampler.of_views(channels, jitters, self._input_hw, grid_hw)
        return box_views(channels, jitters, grid_hw)


def _magnitude(features: Tensor) -> Tensor:
    """(K, H, W) -> (1, H, W) length; its gradient is finite also where the features vanish."""
    return (features.square().sum(0, keepdim=True) + 1e-12).sqrt()


def _downsampler(recipe: FitRecipe, components: int, shorter: int, generator: torch.Generator) -> nn.Module:
    size = max(1, round(recipe.downsampler_size * shorter / 224))
    if recipe.downsampler == "attention":
        return AttentionDownsampler(components, size, generator)
    if recipe.downsampler == "blur":
        return BlurDownsampler(size)
    return nn.Identity()
