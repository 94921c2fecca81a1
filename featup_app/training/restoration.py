"""The restoration of the coarse map for a trained joint bilateral stack, in closed form.

The upsampled map, seen through jittered views, is linear in the restoration, and each principal direction of the features has
its own amount (:mod:`featup_app.fields.restoration`). The best amounts for two aims are quotients of sums over pictures:

* *views*: the reprojection error of the training's views. Alone it would make nearly all detail smaller, since views of a
  picture differ by more than their average does;
* *identity*: averaged over its cells, the upsampled map equals the coarse one. Each direction is divided by its variance, as
  a linear probe does. Alone it makes detail larger, since upsampling blurs.

The two aims conflict. The weight of the second is the largest with which held-out views are still explained better than by
bilinear interpolation, unless the recipe sets a weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.fields.restoration import Restoration, detail
from featup_app.multiview import box_views
from featup_app.training.cache import Picture, PictureSet
from featup_app.training.chain import UPSAMPLING, pyramid
from featup_app.training.held_out import interpolated

PICTURES = 24
"""At most so many are used, spread evenly over the set."""

FEW_PICTURES = 6
"""The same when a training was stopped, and a person waits for its result."""

MOST = 1.5
"""Detail is not made larger by more than this many times itself, and smaller only as the balance demands."""

LEAST = -0.9
"""Detail may be reduced to nothing, but not inverted."""

MARGIN = 0.005
"""How much lower than that of bilinear interpolation the error of views stays, as a part of it."""

_WEIGHTS = (1e-3, 1e3)
"""Bounds of the weight of the identity that is searched for."""

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
        told_error, told_slope, told_curve: error, slope and curve of the views as the yardstick counts them (decision 0032),
            divided by the variance of each view over its places.
        told_bilinear: the error of bilinear interpolation of the backbone's map, weighted likewise.
    """

    views_slope: Tensor
    views_curve: Tensor
    own_slope: Tensor
    own_curve: Tensor
    variance: Tensor
    told_error: Tensor
    told_slope: Tensor
    told_curve: Tensor
    told_bilinear: Tensor

    def amounts(self, weight: float) -> Tensor:
        """(C), the best for a weight of the identity."""
        # Directions of hardly any variance are not read by a probe: it would have to amplify them.
        shares = weight * self.variance.mean() / (self.variance + self.variance.mean()).clamp_min(1e-30)
        slope = self.views_slope + shares * self.own_slope
        curve = self.views_curve + shares * self.own_curve
        return (slope / curve.clamp_min(1e-30)).clamp(0, MOST)

    def balanced_amounts(self, held_out: Sums) -> Tensor:
        """(C), the best for the largest weight that leaves the error of held-out views below that of bilinear interpolation,
        by a margin. If none does, all detail is made smaller by the part that it takes, or that explains views best: among
        what lowers the error that costs a probe least."""
        allowed = (1 - MARGIN) * float(held_out.told_bilinear.sum())
        least, most = (math.log(weight) for weight in _WEIGHTS)

        def explained(amounts: Tensor) -> bool:
            return held_out.error(amounts) <= allowed

        start = self.amounts(math.exp(least))
        if explained(start):
            return self.amounts(math.exp(_last(least, most, lambda power: explained(self.amounts(math.exp(power))))))
        best = (held_out.told_slope - start * held_out.told_curve).sum() / held_out.told_curve.sum().clamp_min(1e-30)
        part = _last(float(best.clamp(LEAST, 0)), 0.0, lambda part: explained(start + part))
        return (start + part).clamp_min(LEAST)

    def error(self, amounts: Tensor) -> float:
        """Of the views with these amounts (C) of detail, as the yardstick counts them."""
        return float((self.told_error - 2 * amounts * self.told_slope + amounts.square() * self.told_curve).sum())


def _last(low: float, high: float, holds: Callable[[float], bool]) -> float:
    """The largest number up to which something holds; ``low`` if it never does."""
    if holds(high):
        return high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def solve_detail(
    upsample: Upsample,
    pictures: PictureSet,
    held_out: PictureSet,
    prepare: Callable[[Tensor], Tensor],
    start: Restoration,
    weight: float | None,
    *,
    at_most: int = PICTURES,
) -> Restoration:
    """The restoration for a network as it is.

    Args:
        upsample: the network, which does not restore by itself.
        pictures: to learn from.
        held_out: on which the balance is found.
        prepare: features as the backbone gives them -> as they are upsampled.
        start: names the positional part, which is taken out of the prepared features first.
        weight: of the identity, whose coarse map is the one without the positional part; None for the balance.
        at_most: pictures of each set that are used.

    Returns:
        ``start`` with the best change of detail, (C, C), symmetric.
    """
    with torch.no_grad():
        chosen = pictures.spread(at_most)
        basis = _principal_directions([start.without_position(prepare(picture.features())) for picture in chosen])

        def sums_of(some: Sequence[Picture]) -> Sums:
            found = [_picture_sums(upsample, picture, prepare, start, basis) for picture in some]
            return Sums(*(torch.stack(column).mean(0) for column in zip(*found, strict=True)))

        sums = sums_of(chosen)
        if weight is None:
            amounts = sums.balanced_amounts(sums_of(held_out.spread(at_most))).to(basis)
        else:
            amounts = sums.amounts(weight).to(basis)
        return replace(start, detail=(basis * amounts) @ basis.T)


def _principal_directions(maps: Sequence[Tensor]) -> Tensor:
    """(C, C), orthonormal columns, of the features' deviations from their mean over all pictures."""
    values = torch.cat([features.flatten(1) for features in maps], dim=1).double()
    values = values - values.mean(1, keepdim=True)
    _, directions = torch.linalg.eigh(values @ values.T)
    found: Tensor = directions.float()
    return found


def _picture_sums(
    upsample: Upsample, picture: Picture, prepare: Callable[[Tensor], Tensor], start: Restoration, basis: Tensor
) -> tuple[Tensor, ...]:
    """The contribution of one picture to each entry of :class:`Sums`, in their order."""
    given = prepare(picture.features())
    features = start.without_position(given)
    levels = pyramid(picture.guidance()[None])
    jitters = picture.jitters
    views = prepare(picture.view_features(range(len(jitters))))
    precision = 1 / (views.var(dim=(2, 3), correction=0).sum(1).clamp_min(1e-12) * len(jitters))
    both = torch.stack([features, features + detail(features)])
    pixels = UPSAMPLING**2 * features.shape[1] * features.shape[2]
    parts = []
    for directions in torch.split(basis.T, max(1, _BLOCK_BYTES // (4 * 2 * pixels))):
        plain, with_detail = (upsample(directions, each[None], levels)[0] for each in both)
        change = with_detail - plain
        targets = torch.einsum("kc,vchw->vkhw", directions, views)
        wrong = targets - box_views(plain, jitters, picture.grid_hw)
        seen = box_views(change, jitters, picture.grid_hw)
        slopes, curves = (wrong * seen).mean((2, 3)), (seen * seen).mean((2, 3))
        bilinear = box_views(interpolated(directions, given, picture), jitters, picture.grid_hw)
        coarse = torch.einsum("kc,chw->khw", directions, features)
        missing = coarse - F.avg_pool2d(plain, UPSAMPLING)
        gained = F.avg_pool2d(change, UPSAMPLING)
        parts.append(
            torch.stack(
                [
                    slopes.mean(0),
                    curves.mean(0),
                    (missing * gained).mean((1, 2)),
                    (gained * gained).mean((1, 2)),
                    coarse.var(dim=(1, 2), correction=0),
                    precision @ wrong.square().mean((2, 3)),
                    precision @ slopes,
                    precision @ curves,
                    precision @ (targets - bilinear).square().mean((2, 3)),
                ]
            )
        )
    return tuple(torch.cat(parts, dim=1).double())
