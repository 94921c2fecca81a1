"""Which pictures and views a step of the training sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.features import Size
from featup_app.training.cache import PictureSet
from featup_app.training.chain import pyramid
from featup_app.training.distributed import ALONE, Processes
from featup_app.training.held_out import HeldOut
from featup_app.training.objective import Example
from featup_app.training.recipes import Recipe


@dataclass(frozen=True)
class TrainingSet:
    """One backbone's pictures.

    Attributes:
        pictures: to train on.
        held_out: to measure on; never trained on.
    """

    pictures: PictureSet
    held_out: PictureSet


class Features:
    """Brings a backbone's features to what the stack is trained on: a layer norm over channels, or one scale for all.

    Args:
        pictures: name the scale.
        normalise: whether features pass a layer norm (published) and not the scale.
    """

    def __init__(self, pictures: PictureSet, *, normalise: bool) -> None:
        self.normalise = normalise
        self.scale = 1.0 if normalise else pictures.scale

    def __call__(self, features: Tensor) -> Tensor:
        """(..., C, h, w) -> the same."""
        if self.normalise:
            moved = features.movedim(-3, -1)
            return F.layer_norm(moved, moved.shape[-1:]).movedim(-1, -3).contiguous()
        return features / self.scale


class Sampler:
    """Draws the examples of all steps.

    Args:
        sets: one for each backbone; steps take turns.
        recipe: how many pictures and views a step has.
    """

    def __init__(self, sets: Sequence[TrainingSet], recipe: Recipe) -> None:
        self._sets = sets
        self._recipe = recipe
        self.features = [Features(each.pictures, normalise=recipe.normalise) for each in sets]
        self._groups = [_by_size(each.pictures) for each in sets]

    def held_out(self, member: int, seed: int, processes: Processes = ALONE) -> HeldOut:
        """This process's share of the pictures that one backbone is measured on; it may be empty."""
        pictures = self._sets[member].held_out
        views = min(len(picture.jitters) for picture in pictures.pictures)
        share = replace(pictures, pictures=tuple(processes.share(pictures.pictures)))
        return HeldOut(share, tuple(range(views)), self.features[member], seed)

    def draw(self, step: int, generator: torch.Generator) -> Example:
        """The example of a step: pictures of one size, drawn with replacement, and views of them without."""
        member = step % len(self._sets)
        pictures = self._sets[member].pictures.pictures
        first = int(torch.randint(len(pictures), (1,), generator=generator))
        alike = self._groups[member][pictures[first].grid_hw]
        others = torch.randint(len(alike), (self._recipe.images_per_step - 1,), generator=generator).tolist()
        chosen = [pictures[index] for index in (first, *(alike[other] for other in others))]
        jitters, views = [], []
        for picture in chosen:
            order = torch.randperm(len(picture.jitters), generator=generator)[: self._recipe.views].tolist()
            jitters.append(tuple(picture.jitters[index] for index in order))
            views.append(picture.view_features(order))
        prepare = self.features[member]
        return Example(
            member=member,
            levels=pyramid(torch.stack([picture.guidance() for picture in chosen])),
            features=prepare(torch.stack([picture.features() for picture in chosen])),
            views=prepare(torch.stack(views)),
            jitters=tuple(jitters),
        )


def _by_size(pictures: PictureSet) -> dict[Size, list[int]]:
    """Numbers of the pictures with each grid, so that a step's pictures form one tensor."""
    groups: dict[Size, list[int]] = {}
    for index, picture in enumerate(pictures.pictures):
        groups.setdefault(picture.grid_hw, []).append(index)
    return groups
