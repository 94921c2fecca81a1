"""Gradient steps on all parameters of a network, with all terms of the paper (FeatUp sections 3.1 and 3.3).

The network is evaluated once at all fitted points of the image; every view looks that map up where the view looks, the
downsampler makes a coarse map of it, and the backbone's features of the view say how wrong that is. The views' gradients are
gathered at the map and go through the network once, so that memory does not grow with the number of views.
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
    sampled_views,
    total_variation,
)


class Descent:
    """The loss of a few views, and steps down its gradient.

    Args:
        network: whose parameters are learned.
        uncertainty: learned along, or None.
        recipe: weights of the terms and the learning rate.
        places, colours: (H * W, 2) and (H * W, 3) of the fitted points, row by row.
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
        *,
        fit_hw: Size,
        input_hw: Size,
        unit: float,
        generator: torch.Generator,
    ) -> None:
        self.network, self.uncertainty, self.recipe = network, uncertainty, recipe
        self.downsampler = _downsampler(recipe, network.last.out_features, min(input_hw), generator)
        self._places, self._colours, self._fit_hw = places, colours, fit_hw
        self._input_hw, self._unit, self._generator = input_hw, unit, generator
        parameters = [*network.parameters(), *self.downsampler.parameters()]
        if uncertainty is not None:
            parameters += list(uncertainty.head.parameters())
        self._optimizer = torch.optim.NAdam(parameters, lr=recipe.rate)

    def step(self, jitters: Sequence[Jitter], components: Tensor) -> float:
        """One step.

        Args:
            jitters: V views.
            components: (V, K, h, w), what the backbone gives for them.

        Returns:
            The mean squared error of the views, in units of the components' mean square.
        """
        network = self.network
        network.train()
        self.downsampler.train()
        with torch.enable_grad():
            drawn = network(self._places, self._colours, self._generator).T.reshape(-1, *self._fit_hw) / self._unit
            gathered = drawn.detach().requires_grad_(True)
            plain = 0.0
            for jitter, target in zip(jitters, components / self._unit, strict=True):
                loss, error = self._view_loss(gathered, jitter, target)
                torch.autograd.backward(loss / len(jitters))
                plain += error / len(jitters)
            terms = self._map_terms(gathered)
            if terms is not None:
                torch.autograd.backward(terms)
            torch.autograd.backward(drawn, gathered.grad)
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

    def _view_loss(self, features: Tensor, jitter: Jitter, target: Tensor) -> tuple[Tensor, float]:
        """The loss of one view of the map (K, H, W), and its plain squared error."""
        recipe = self.recipe
        channels = features
        if recipe.magnitude:
            channels = torch.cat([features, _magnitude(features)])
        grid_hw = int(target.shape[1]), int(target.shape[2])
        seen = self._seen(channels, features.shape[0], jitter, grid_hw)
        predicted = seen[: features.shape[0]]
        scale = None if self.uncertainty is None else self.uncertainty.head(target[None])
        if scale is None or recipe.weigh:
            loss = reconstruction_loss(predicted[None], target[None], scale)
        else:
            # The scale is learned from errors that it does not change.
            loss = reconstruction_loss(predicted[None], target[None])
            loss = loss + reconstruction_loss(predicted.detach()[None], target[None], scale)
        if recipe.magnitude:
            loss = loss + recipe.magnitude * magnitude_loss(seen[-1:], target)
        return loss, float((predicted.detach() - target).square().mean())

    def _seen(self, channels: Tensor, components: int, jitter: Jitter, grid_hw: Size) -> Tensor:
        """What the downsampler makes of a view of (K + 0 or 1, H, W): (K + 0 or 1, h, w)."""
        if not isinstance(self.downsampler, AttentionDownsampler | BlurDownsampler):
            return box_views(channels, [jitter], grid_hw)[0]
        view = sampled_views(channels, [jitter], self._input_hw)[0]
        if isinstance(self.downsampler, AttentionDownsampler):
            saliency = self.downsampler.saliency(view[:components], self._generator)
            attended: Tensor = self.downsampler(view, grid_hw, saliency=saliency, generator=self._generator)
            return attended
        blurred: Tensor = self.downsampler(view, grid_hw)
        return blurred

    def _map_terms(self, features: Tensor) -> Tensor | None:
        """What the map itself has to pay, weighed."""
        terms = []
        if self.recipe.total_variation:
            terms.append(self.recipe.total_variation * total_variation(_magnitude(features)))
        if self.recipe.blur_pin:
            terms.append(self.recipe.blur_pin * blur_distance(features))
        return torch.stack(terms).sum() if terms else None


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
