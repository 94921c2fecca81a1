"""The loss of a training step: the upsampled map, seen through each jittered view, against the backbone's features of it.

Source: FeatUp (Fu, Hamilton et al., ICLR 2024), section 3.1. Everything between a map and its views is linear in the
features, so only a few random directions of them are upsampled, and the saliency of the attention downsampler is one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.features import Size
from featup_app.multiview import (
    AttentionDownsampler,
    BlurDownsampler,
    Jitter,
    UncertaintyHead,
    box_views,
    conditional_random_field_loss,
    random_projection,
    reconstruction_loss,
    sampled_views,
    total_variation,
)
from featup_app.training.chain import UPSAMPLING
from featup_app.training.learners import make_learner
from featup_app.training.recipes import Recipe


@dataclass(frozen=True)
class Example:
    """The data of a step: B pictures of one size and V views of each.

    Attributes:
        member: which of the trained backbones they belong to.
        levels: guidance of each doubling, as ``chain.pyramid`` makes it.
        features: (B, C, h, w) of the pictures, in units of the backbone's scale.
        views: (B, V, C, h, w) of their views, in the same units.
        jitters: V for each of the B pictures.
    """

    member: int
    levels: tuple[Tensor, ...]
    features: Tensor
    views: Tensor
    jitters: tuple[tuple[Jitter, ...], ...]


class Objective(nn.Module):
    """The upsampler with everything that is learned beside it; calling it returns the loss of an example.

    Args:
        channels: C of each backbone that is trained for.
        recipe: all switches.
        generator: draws the initial weights.

    Raises:
        UpsamplerError: if the recipe's method cannot be trained for several backbones.
    """

    def __init__(self, channels: Sequence[int], recipe: Recipe, generator: torch.Generator) -> None:
        super().__init__()
        self.recipe = recipe
        self.learner = make_learner(channels, recipe, generator)
        self.stack = self.learner.stack
        self.downsamplers = nn.ModuleList([_downsampler(count, recipe, generator) for count in channels])
        heads = [UncertaintyHead(count, generator) for count in channels] if recipe.uncertainty else []
        self.uncertainty = nn.ModuleList(heads)

    def parameter_groups(self) -> list[dict[str, object]]:
        """Groups for an optimizer, with the recipe's rates; parts with a rate of zero are in none."""
        rates = self.recipe.rates
        groups = [
            *self.learner.groups(),
            ("downsampler", rates.downsampler, list(self.downsamplers.parameters())),
            ("uncertainty", rates.uncertainty, list(self.uncertainty.parameters())),
        ]
        return [
            {"name": name, "lr": rate, "rate": rate, "params": learned}
            for name, rate, parameters in groups
            if rate > 0 and (learned := [p for p in parameters if p.requires_grad])
        ]

    def forward(self, example: Example, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The loss, and the plain mean squared error of the views in units of the features' variance (detached).

        Args:
            example: pictures and views.
            generator: draws directions, pixels and the dropout of the downsampler.
        """
        recipe, channels = self.recipe, example.features.shape[1]
        count = recipe.directions or channels
        chosen = random_projection(generator, channels, count) if recipe.directions else torch.eye(channels)
        chosen = chosen.to(example.features)
        downsampler = self.downsamplers[example.member]
        salient = isinstance(downsampler, AttentionDownsampler)
        directions = chosen
        if isinstance(downsampler, AttentionDownsampler):
            directions = torch.cat([chosen, downsampler.saliency_direction(generator)[None]])
        upsampled = self.learner.upsample(directions, example.features, example.levels)
        grid_hw = int(example.features.shape[2]), int(example.features.shape[3])
        predicted = torch.stack(
            [
                self._views(downsampler, features, jitters, grid_hw, generator)
                for features, jitters in zip(upsampled, example.jitters, strict=True)
            ]
        )
        target = torch.einsum("kc,bvchw->bvkhw", chosen, example.views)
        scale = None
        if recipe.uncertainty:
            scale = self.uncertainty[example.member](example.views.flatten(0, 1))
        loss = reconstruction_loss(predicted.flatten(0, 1), target.flatten(0, 1), scale)
        # Random directions of unit length see, on average, the mean over the channels.
        plain = (predicted.detach() - target).square().mean()
        features = upsampled[:, :-1] if salient else upsampled
        return loss + self._terms(features, chosen, example, generator), plain

    def _views(
        self,
        downsampler: nn.Module,
        features: Tensor,
        jitters: Sequence[Jitter],
        grid_hw: Size,
        generator: torch.Generator,
    ) -> Tensor:
        """(K, H, W) -> (V, K, h, w); the last channel is the saliency for the attention downsampler, and is used up."""
        side = self.recipe.downsampler_size
        size = grid_hw[0] * side, grid_hw[1] * side
        result: Tensor
        if isinstance(downsampler, AttentionDownsampler):
            seen = sampled_views(features, jitters, size)
            result = downsampler(seen[:, :-1], grid_hw, saliency=seen[:, -1:], generator=generator)
        elif isinstance(downsampler, BlurDownsampler):
            result = downsampler(sampled_views(features, jitters, size), grid_hw)
        else:
            result = box_views(features, jitters, grid_hw)
        return result

    def _terms(self, features: Tensor, chosen: Tensor, example: Example, generator: torch.Generator) -> Tensor:
        """The optional terms, weighted."""
        recipe, total = self.recipe, features.new_zeros(())
        channels = example.features.shape[1]
        if recipe.identity:
            low = torch.einsum("kc,bchw->bkhw", chosen, example.features)
            error = (F.avg_pool2d(features, UPSAMPLING) - low).square().mean()
            total = total + recipe.identity * error
        if recipe.total_variation:
            # Random directions of unit length keep their share of the squared length.
            squares = features.square().sum(dim=1) * (channels / chosen.shape[0])
            total = total + recipe.total_variation * total_variation((squares + 1e-12).sqrt())
        if recipe.conditional_random_field:
            guidance = example.levels[-1][..., 3:-3, 3:-3]
            smoothness = conditional_random_field_loss(features, guidance, generator)
            total = total + recipe.conditional_random_field * smoothness
        return total


def _downsampler(channels: int, recipe: Recipe, generator: torch.Generator) -> nn.Module:
    if recipe.downsampler == "attention":
        return AttentionDownsampler(channels, recipe.downsampler_size, generator)
    if recipe.downsampler == "blur":
        return BlurDownsampler(recipe.downsampler_size)
    return nn.Identity()
