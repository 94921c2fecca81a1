"""Restoration of a coarse map before it is upsampled: what the frame put into the features is taken out, and detail is restored.

Two things are wrong with the map that a backbone gives, and both can be learned once for each backbone and layer:

* Part of its features tell where in the frame a cell lies, whatever the picture shows there, from position embeddings and the
  padding of convolutions. When the picture moves within the frame that part stays where it is, by which it can be told apart
  (:mod:`featup_app.training.positions`).
* A cell is a mean over its surroundings, more so in some directions of the features than in others, and upsampling blurs a
  little further. Each direction has an amount of its own by which the difference between a cell and its neighbourhood is made
  larger, all of them together one matrix between channels (:mod:`featup_app.training.restoration`). Where views of a picture
  agree on less than that, all detail is made a little smaller instead.

Both act on the coarse map alone, before anything is projected or upsampled, and cost next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.features import Size

BLUR_WIDTH = 1.0
"""Deviation of the neighbourhood's Gaussian, in cells."""

_RADIUS = 3


@dataclass(frozen=True, eq=False)
class Restoration:
    """What is done to the coarse map of one backbone and layer.

    Attributes:
        detail: (C, C), what is added of each cell's difference to its neighbourhood; zero leaves it as it is.
        positional: (C, n, n), the part of the features that belongs to the place in the frame, over the whole frame.
    """

    detail: Tensor
    positional: Tensor

    @classmethod
    def nothing(cls, channels: int) -> Restoration:
        """The one that leaves maps of C channels as they are."""
        return cls(torch.zeros(channels, channels), torch.zeros(channels, 1, 1))

    def __call__(self, features: Tensor) -> Tensor:
        """The restored map: (..., C, h, w) -> the same."""
        features = self.without_position(features)
        if not bool(self.detail.any()):  # as long as kernels are being trained
            return features
        return features + torch.einsum("dc,...chw->...dhw", self.detail.to(features), detail(features))

    def without_position(self, features: Tensor) -> Tensor:
        """The map without what belongs to the place in the frame, its detail as it was: (..., C, h, w) -> the same."""
        rows, columns = features.shape[-2:]
        return features - at_grid(self.positional.to(features), (rows, columns))

    def scaled(self, factor: float) -> Restoration:
        """The one for features that are multiplied by a factor."""
        return Restoration(self.detail, self.positional * factor)

    def to(self, dtype: torch.dtype) -> Restoration:
        """The same in numbers of another type."""
        return Restoration(self.detail.to(dtype), self.positional.to(dtype))

    def in_words(self) -> str:
        """What it does, for people."""
        place = "what tells of the place in the frame taken out, " if bool(self.positional.any()) else ""
        return f"{place}detail changed by a matrix between channels"

    def numel(self) -> int:
        """How many numbers it consists of."""
        return self.detail.numel() + self.positional.numel()


def detail(features: Tensor) -> Tensor:
    """How each cell differs from its neighbourhood: (..., C, h, w) -> the same. Beyond its edges the map is continued by
    its outermost cells."""
    rows, columns = features.shape[-2:]
    places = torch.arange(-_RADIUS, _RADIUS + 1, device=features.device, dtype=features.dtype)
    weights = torch.exp(-0.5 * (places / BLUR_WIDTH).square())
    weights = weights / weights.sum()
    planes = F.pad(features.reshape(-1, 1, rows, columns), (_RADIUS,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return features - blurred.view_as(features)


def at_grid(positional: Tensor, grid_hw: Size) -> Tensor:
    """(C, n, n) over the frame -> (C, h, w), as a grid of any size sees it: interpolated, or averaged where it is coarser."""
    rows, columns = (shares(length, positional.shape[-1]).to(positional) for length in grid_hw)
    return rows @ positional @ columns.T


@lru_cache(maxsize=64)
def shares(length: int, cells: int) -> Tensor:
    """(length, cells) float32: what each of ``length`` cells along an axis sees of ``cells`` cells along the same axis."""
    if cells == 1:
        return torch.ones(length, 1)
    # Written as one axis of a square: torch 2.14 interpolates planes of width 1 wrongly when it antialiases.
    one = torch.eye(cells)[None, None]
    found: Tensor = F.interpolate(one, (length, cells), mode="bilinear", align_corners=False, antialias=True)[0, 0]
    return found
