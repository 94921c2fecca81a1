"""How well a stack explains views that it has never seen: the held-out reprojection error (DESIGN section 8).

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

from featup_app.multiview import box_views
from featup_app.progress import Progress, silent
from featup_app.training.cache import Picture, PictureSet
from featup_app.training.chain import UPSAMPLING, Weigh, classical_weights, pyramid, upsample

DIRECTIONS = 64

Upsample = Callable[[Tensor, Picture], Tensor]
"""((K, h, w) functionals of the features, the picture) -> (K, 16 h, 16 w)."""


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

    def error(
        self,
        upsampler: Upsample,
        directions: Tensor,
        *,
        functional: Callable[[Tensor], tuple[Tensor, Tensor | None]] | None = None,
        progress: Progress = silent,
    ) -> float:
        """The mean over views of the relative error of a method.

        Args:
            upsampler: the method.
            directions: (K, C) in which the error is taken.
            functional: directions of the result as functionals of the input, and an addend (K), for a method that ends
                with an affine map of the channels.
            progress: called for every picture; may cancel.
        """
        errors: list[float] = []
        with torch.no_grad():
            matrix, bias = functional(directions) if functional is not None else (directions, None)
            for number, picture in enumerate(self.pictures.pictures):
                progress("measuring on held-out views", number, len(self.pictures.pictures))
                low = torch.einsum("kc,chw->khw", matrix, self.prepare(picture.features()))
                upsampled = upsampler(low, picture)
                jitters = [picture.jitters[index] for index in self.indices]
                predicted = box_views(upsampled, jitters, picture.grid_hw)
                if bias is not None:
                    predicted = predicted + bias[:, None, None]
                target = self.prepare(picture.view_features(self.indices))
                target = torch.einsum("kc,vchw->vkhw", directions, target)
                errors += relative_errors(predicted, target).tolist()
        return sum(errors) / len(errors)

    def bilinear(self, directions: Tensor) -> float:
        """The error of bilinear interpolation."""
        return self.error(_bilinear, directions)

    def classical(self, directions: Tensor) -> float:
        """The error of the untrained joint bilateral upsampler."""
        weigh = classical_weights()
        return self.error(lambda low, picture: guided(low, picture, weigh, normalise=False), directions)


def relative_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """(V, K, h, w) each -> (V): squared error over the variance of the target's positions, all channels together."""
    error = (predicted - target).square().mean(dim=(1, 2, 3))
    variance = target.var(dim=(2, 3), correction=0).mean(dim=1)
    relative: Tensor = error / variance.clamp_min(1e-12)
    return relative


def guided(low: Tensor, picture: Picture, weigh: Weigh, *, normalise: bool = True) -> Tensor:
    """The stack's doublings of one picture: (K, h, w) -> (K, 16 h, 16 w)."""
    return upsample(low[None], pyramid(picture.guidance()[None], normalise=normalise), weigh)[0]


def _bilinear(low: Tensor, picture: Picture) -> Tensor:
    size = (UPSAMPLING * low.shape[1], UPSAMPLING * low.shape[2])
    return F.interpolate(low[None], size, mode="bilinear", align_corners=False)[0]


def split_held_out(count: int, seed: int) -> tuple[Sequence[int], Sequence[int]]:
    """Numbers of the images to train on and of a tenth, at least one, to measure on; a single image is both."""
    if count == 1:
        return [0], [0]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    kept = max(1, round(count / 10))
    return sorted(order[kept:]), sorted(order[:kept])
