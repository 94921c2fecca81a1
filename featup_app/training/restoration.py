"""The restoration of the coarse map for a trained joint bilateral stack, in closed form.

What views see of the upsampled map is linear in the restoration, and each principal direction of the features has an amount of
its own (:mod:`featup_app.fields.restoration`), so that the best amounts for two aims are quotients of sums over pictures:

* *views*: the reprojection error of the training's views. Alone it makes nearly all detail smaller, since views of a picture
  differ by more than their average tells;
* *identity*: averaged over its cells, the upsampled map gives the coarse one again. Each direction counts as a linear probe
  reads it, by its own variance. Alone it makes detail larger, since upsampling blurs.

The recipe says how much the second counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.fields.restoration import detail
from featup_app.multiview import box_views
from featup_app.training.cache import Picture, PictureSet
from featup_app.training.chain import UPSAMPLING, pyramid

PICTURES = 24
"""At most so many are looked at, spread evenly over the set."""

FEW_PICTURES = 6
"""The same where someone waits."""

LEAST, MOST = -0.9, 1.5
"""Detail is neither turned over nor made larger than this many times itself."""

_BLOCK_BYTES = 256 * 2**20

Upsample = Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor]
"""(directions (K, C), features (B, C, h, w), levels) -> (B, K, 16 h, 16 w), as ``Learner.upsample``."""


@dataclass(frozen=True)
class Sums:
    """Quadratic functions of the amounts, one entry (C) float64 for each direction; means over pictures.

    Attributes:
        views_slope, views_curve: amount^2 curve - 2 amount slope is what a restoration adds to the squared error of views.
        own_slope, own_curve: the same of the identity.
        variance: of the coarse maps over their places.
    """

    views_slope: Tensor
    views_curve: Tensor
    own_slope: Tensor
    own_curve: Tensor
    variance: Tensor

    def amounts(self, weight: float) -> Tensor:
        """(C), the best for a weight of the identity."""
        # Directions of hardly any variance are not read by a probe: it would have to amplify them.
        shares = weight * self.variance.mean() / (self.variance + self.variance.mean()).clamp_min(1e-30)
        slope = self.views_slope + shares * self.own_slope
        curve = self.views_curve + shares * self.own_curve
        return (slope / curve.clamp_min(1e-30)).clamp(LEAST, MOST)


def solve_restoration(
    upsample: Upsample,
    pictures: PictureSet,
    prepare: Callable[[Tensor], Tensor],
    weight: float,
    *,
    at_most: int = PICTURES,
) -> Tensor:
    """The restoration for a network as it is.

    Args:
        upsample: the network, which does not restore by itself.
        pictures: to learn from.
        prepare: features as the backbone gives them -> as they are upsampled.
        weight: of the identity.
        at_most: pictures that are looked at.

    Returns:
        (C, C) float32, symmetric.
    """
    count = len(pictures.pictures)
    looked_at = min(count, at_most)
    chosen = [pictures.pictures[index * count // looked_at] for index in range(looked_at)]
    with torch.no_grad():
        basis = _principal_directions([prepare(picture.features()) for picture in chosen])
        found = [_picture_sums(upsample, picture, prepare, basis) for picture in chosen]
        sums = Sums(*(torch.stack(column).mean(0) for column in zip(*found, strict=True)))
        amounts = sums.amounts(weight).to(basis)
        return (basis * amounts) @ basis.T


def _principal_directions(maps: Sequence[Tensor]) -> Tensor:
    """(C, C), orthonormal columns, of the features' deviations from their mean over all pictures."""
    values = torch.cat([features.flatten(1) for features in maps], dim=1).double()
    values = values - values.mean(1, keepdim=True)
    _, directions = torch.linalg.eigh(values @ values.T)
    found: Tensor = directions.float()
    return found


def _picture_sums(
    upsample: Upsample, picture: Picture, prepare: Callable[[Tensor], Tensor], basis: Tensor
) -> tuple[Tensor, ...]:
    """What one picture adds to the entries of :class:`Sums`, in their order."""
    features = prepare(picture.features())
    levels = pyramid(picture.guidance()[None])
    jitters = picture.jitters
    views = prepare(picture.view_features(range(len(jitters))))
    both = torch.stack([features, features + detail(features)])
    pixels = UPSAMPLING**2 * features.shape[1] * features.shape[2]
    parts = []
    for directions in torch.split(basis.T, max(1, _BLOCK_BYTES // (4 * 2 * pixels))):
        plain, with_detail = (upsample(directions, each[None], levels)[0] for each in both)
        change = with_detail - plain
        wrong = torch.einsum("kc,vchw->vkhw", directions, views) - box_views(plain, jitters, picture.grid_hw)
        seen = box_views(change, jitters, picture.grid_hw)
        coarse = torch.einsum("kc,chw->khw", directions, features)
        missing = coarse - F.avg_pool2d(plain, UPSAMPLING)
        gained = F.avg_pool2d(change, UPSAMPLING)
        parts.append(
            torch.stack(
                [
                    (wrong * seen).mean((0, 2, 3)),
                    (seen * seen).mean((0, 2, 3)),
                    (missing * gained).mean((1, 2)),
                    (gained * gained).mean((1, 2)),
                    coarse.var(dim=(1, 2), correction=0),
                ]
            )
        )
    return tuple(torch.cat(parts, dim=1).double())
