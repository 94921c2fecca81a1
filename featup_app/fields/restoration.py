"""Restoration of a coarse map before it is upsampled: its positional component is subtracted, and detail is amplified.

The map of a backbone has two faults. Both corrections are learned once for each backbone and layer:

* Position embeddings and the padding of convolutions add a component that depends on the position of a cell in the frame and
  not on the picture. When the picture moves within the frame, this positional component stays, so it can be estimated
  (:mod:`featup_app.training.positions`).
* A cell averages over its surroundings, in some directions of feature space more than in others, and upsampling blurs further.
  The difference between a cell and its neighbourhood is multiplied by a gain for each direction. Together the gains are one
  matrix between channels (:mod:`featup_app.training.restoration`). Where the jittered views of a picture agree on less detail
  than the map has, the gain is below one.

Both act on the coarse map alone, before it is projected or upsampled, and cost almost nothing.
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
    """The correction of the coarse maps of one backbone and layer.

    Attributes:
        detail: (C, C), by which each cell's difference to its neighbourhood is multiplied before it is added to the cell;
            zero changes nothing.
        positional: (C, n, n), the positional component over the whole frame, which is subtracted.
    """

    detail: Tensor
    positional: Tensor

    @classmethod
    def nothing(cls, channels: int) -> Restoration:
        """A restoration that changes nothing in maps of C channels."""
        return cls(torch.zeros(channels, channels), torch.zeros(channels, 1, 1))

    def __call__(self, features: Tensor) -> Tensor:
        """The restored map: (..., C, h, w) -> the same."""
        features = self.without_position(features)
        if not bool(self.detail.any()):  # while kernels are trained
            return features
        return features + torch.einsum("dc,...chw->...dhw", self.detail.to(features), detail(features))

    def without_position(self, features: Tensor) -> Tensor:
        """The map without its positional component, with unchanged detail: (..., C, h, w) -> the same."""
        rows, columns = features.shape[-2:]
        return features - at_grid(self.positional.to(features), (rows, columns))

    @property
    def sharpens(self) -> bool:
        """Whether it makes detail larger, on average over the channels."""
        return float(self.detail.float().trace()) > 0

    def scaled(self, factor: float) -> Restoration:
        """The restoration for features that are multiplied by a factor."""
        return Restoration(self.detail, self.positional * factor)

    def to(self, dtype: torch.dtype) -> Restoration:
        """The same with another dtype."""
        return Restoration(self.detail.to(dtype), self.positional.to(dtype))

    def in_words(self, share: float = 1) -> str:
        """A description for people; exports contain it. ``share`` of the positional component is subtracted."""
        part = "" if share == 1 else f"{100 * share:.0f} % of "
        position = (
            f"{part}what tells of the place in the frame taken out, " if share and bool(self.positional.any()) else ""
        )
        return f"{position}detail changed by a matrix between channels"

    def numel(self) -> int:
        """The number of its parameters."""
        return self.detail.numel() + self.positional.numel()


def detail(features: Tensor) -> Tensor:
    """The difference of each cell to a Gaussian mean of its neighbourhood: (..., C, h, w) -> the same. The map is padded with
    its outermost cells."""
    rows, columns = features.shape[-2:]
    positions = torch.arange(-_RADIUS, _RADIUS + 1, device=features.device, dtype=features.dtype)
    weights = torch.exp(-0.5 * (positions / BLUR_WIDTH).square())
    weights = weights / weights.sum()
    planes = F.pad(features.reshape(-1, 1, rows, columns), (_RADIUS,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return features - blurred.view_as(features)


def at_grid(positional: Tensor, grid_hw: Size) -> Tensor:
    """(C, n, n) over the frame -> (C, h, w) at a grid of any size: interpolated, or averaged where the grid is coarser."""
    rows, columns = (shares(length, positional.shape[-1]).to(positional) for length in grid_hw)
    return rows @ positional @ columns.T


@lru_cache(maxsize=64)
def shares(length: int, cells: int) -> Tensor:
    """(length, cells) float32: the weights with which ``length`` cells along an axis read ``cells`` cells along it."""
    if cells == 1:
        return torch.ones(length, 1)
    # Written as one axis of a square: torch 2.14 interpolates planes of width 1 wrongly when it antialiases.
    one = torch.eye(cells)[None, None]
    found: Tensor = F.interpolate(one, (length, cells), mode="bilinear", align_corners=False, antialias=True)[0, 0]
    return found
