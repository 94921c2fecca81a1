"""How well an upsampler explains views that it has never seen: the held-out reprojection error (decision 0032).

The upsampled map is looked up where a held-out view looks, averaged over each patch (plain box) and compared with what the
backbone gives for that view: the mean squared error divided by the variance of the view's features over its positions. 1 is no
better than the mean. While training, the error is taken in 64 random orthonormal directions, the same for all methods and
times, which gives the error of all channels up to chance; at the end all channels are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.base.progress import Progress, Stage, silent
from featup_app.multiview import box_views
from featup_app.training.cache import Picture, PictureSet
from featup_app.training.chain import UPSAMPLING, classical_weights, pyramid, upsample

DIRECTIONS = 64

Upsample = Callable[[Tensor, Tensor, Picture], Tensor]
"""((K, C) directions, (C, h, w) features, the picture) -> (K, 16 h, 16 w): these functionals of the upsampled features."""


@dataclass(frozen=True)
class HeldOut:
    """Pictures and views kept for measuring.

    Attributes:
        pictures: the set.
        indices: numbers of its views that count, the same for every picture.
        prepare: features as the backbone gives them -> as they are upsampled (scaled, or normalised).
        seed: of the random directions.
    """

    pictures: PictureSet
    indices: tuple[int, ...]
    prepare: Callable[[Tensor], Tensor]
    seed: int = 0

    def directions(self, count: int = DIRECTIONS) -> Tensor:
        """(count, C) orthonormal rows; all channels themselves if there are no more than that."""
        channels = self.pictures.channels
        if channels <= count:
            return torch.eye(channels)
        generator = torch.Generator().manual_seed(self.seed)
        basis, _ = torch.linalg.qr(torch.randn(channels, count, generator=generator))
        rows: Tensor = basis.T.contiguous()
        return rows

    def error(self, upsampler: Upsample, directions: Tensor, *, progress: Progress = silent) -> float:
        """The mean over views of the relative error of a method.

        Args:
            upsampler: the method.
            directions: (K, C) in which the error is taken.
            progress: called for every picture; may cancel.
        """
        errors: list[float] = []
        with torch.no_grad():
            for number, picture in enumerate(self.pictures.pictures):
                progress("measuring on held-out views", number, len(self.pictures.pictures), Stage.MEASURING)
                upsampled = upsampler(directions, self.prepare(picture.features()), picture)
                jitters = [picture.jitters[index] for index in self.indices]
                predicted = box_views(upsampled, jitters, picture.grid_hw)
                target = self.prepare(picture.view_features(self.indices))
                target = torch.einsum("kc,vchw->vkhw", directions, target)
                errors += relative_errors(predicted, target).tolist()
        return sum(errors) / len(errors)

    def bilinear(self, directions: Tensor) -> float:
        """The error of bilinear interpolation."""
        return self.error(interpolated, directions)

    def classical(self, directions: Tensor) -> float:
        """The error of the untrained joint bilateral upsampler."""
        weigh = classical_weights()

        def upsampled(chosen: Tensor, features: Tensor, picture: Picture) -> Tensor:
            return upsample(_project(chosen, features), pyramid(picture.guidance()[None], normalise=False), weigh)[0]

        return self.error(upsampled, directions)


def relative_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """(V, K, h, w) each -> (V): squared error over the variance of the target's positions, all channels together."""
    error = (predicted - target).square().mean(dim=(1, 2, 3))
    variance = target.var(dim=(2, 3), correction=0).mean(dim=1)
    relative: Tensor = error / variance.clamp_min(1e-12)
    return relative


def interpolated(directions: Tensor, features: Tensor, picture: Picture) -> Tensor:
    """The baseline, bilinear interpolation, as an :data:`Upsample`."""
    size = (UPSAMPLING * features.shape[1], UPSAMPLING * features.shape[2])
    return F.interpolate(_project(directions, features), size, mode="bilinear", align_corners=False)[0]


def _project(directions: Tensor, features: Tensor) -> Tensor:
    """(K, C) and (C, h, w) -> (1, K, h, w)."""
    return torch.einsum("kc,chw->khw", directions, features)[None]


def split_held_out(count: int, seed: int) -> tuple[Sequence[int], Sequence[int]]:
    """Numbers of the images to train on and of a tenth, at least one, to measure on; a single image is both."""
    if count == 1:
        return [0], [0]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    kept = max(1, round(count / 10))
    return sorted(order[kept:]), sorted(order[:kept])
