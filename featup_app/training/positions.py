"""The positional component: the part of the features that depends on the position in the frame alone, in closed form.

Position embeddings and padded convolutions leave a pattern in every map that stays where it is while the picture moves. A view
moves the picture: the backbone's features of it, minus the unmoved map seen through the view, are the pattern minus the pattern
as the view has moved it, plus whatever else differs. Over many pictures the rest averages out, and the pattern is the solution of
a least-squares problem with one right-hand side for each channel. (Yang et al., Denoising Vision Transformers, ECCV 2024, part
features into the same two terms by fitting a network to each image.)

How much of the pattern to take out is asked of pictures that took no part in finding it: as much as makes the map without it
explain their views best. Views show the pattern too, so that is about half of it, and nothing where the pattern is chance. (An
amount for each direction explains views better still, but takes from probes what they know of the frame.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.fields.restoration import shares
from featup_app.multiview.look_up import view_matrices
from featup_app.training.cache import Picture, PictureSet

SIDE = 16
"""Cells along each side of the frame in which the pattern is solved for."""

PICTURES = 400
"""At most so many pictures are used, spread evenly over the set."""

_RIDGE = 0.01
"""Of the mean diagonal: what views hardly determine, such as a pattern that is the same everywhere, stays small."""


@dataclass(frozen=True)
class _Sums:
    """Least squares over views, with n = SIDE squared cells of the pattern.

    Attributes:
        gram, crossed: (n, n) and (n, C), of what a pattern adds to the difference between a view and the moved map.
        moved_gram, moved_crossed: the same of the moved pattern alone.
    """

    gram: Tensor
    crossed: Tensor
    moved_gram: Tensor
    moved_crossed: Tensor

    @classmethod
    def nothing(cls, channels: int) -> _Sums:
        """Of no pictures."""
        square = torch.zeros(SIDE**2, SIDE**2, dtype=torch.float64)
        crossed = torch.zeros(SIDE**2, channels, dtype=torch.float64)
        return cls(square, crossed, square, crossed)

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.gram + other.gram,
            self.crossed + other.crossed,
            self.moved_gram + other.moved_gram,
            self.moved_crossed + other.moved_crossed,
        )

    def pattern(self) -> Tensor:
        """(n, C) float64, with a mean of zero."""
        ridge = _RIDGE * self.gram.diagonal().mean().clamp_min(1e-30)
        found: Tensor = torch.linalg.solve(self.gram + ridge * torch.eye(len(self.gram)).to(self.gram), self.crossed)
        centred: Tensor = found - found.mean(0)
        return centred


def solve_positional(
    pictures: PictureSet,
    prepare: Callable[[Tensor], Tensor],
    *,
    progress: Progress = silent,
) -> Tensor:
    """The positional part of the features of a backbone and layer.

    Args:
        pictures: to learn from.
        prepare: features as the backbone gives them -> as they are upsampled.
        progress: called for every picture; may cancel.

    Returns:
        (C, SIDE, SIDE) float32; zero for a single picture, whose content cannot be separated from it.
    """
    chosen = pictures.spread(PICTURES)
    if len(chosen) < 2:
        return torch.zeros(pictures.channels, SIDE, SIDE)
    halves = [_Sums.nothing(pictures.channels)] * 2
    for index, picture in enumerate(chosen):
        progress("telling places in the frame apart", index, len(chosen))
        halves[index % 2] += _picture_sums(picture, prepare)
    one, other = halves
    pattern = _amount(one, other) * (one + other).pattern()
    return pattern.T.reshape(-1, SIDE, SIDE).float().contiguous()


def _amount(one: _Sums, other: _Sums) -> float:
    """Between 0 and 1: how much of the pattern of each half explains the views of the other half best."""
    slope = curve = 0.0
    for half, rest in ((one, other), (other, one)):
        pattern = half.pattern()
        slope -= float((pattern * rest.moved_crossed).sum())
        curve += float((pattern * (rest.moved_gram @ pattern)).sum())
    return min(1.0, max(0.0, slope / curve)) if curve > 0 else 0.0


def _picture_sums(picture: Picture, prepare: Callable[[Tensor], Tensor]) -> _Sums:
    features = prepare(picture.features())
    views = prepare(picture.view_features(range(len(picture.jitters))))
    own_rows, own_columns = (shares(length, SIDE) for length in picture.grid_hw)
    still = torch.kron(own_rows, own_columns)
    gram, moved_gram = torch.zeros(2, SIDE**2, SIDE**2)
    crossed, moved_crossed = torch.zeros(2, SIDE**2, len(features))
    for jitter, view in zip(picture.jitters, views, strict=True):
        rows, columns = view_matrices(jitter, picture.grid_hw, picture.grid_hw)
        moved = torch.kron(rows @ own_rows, columns @ own_columns)
        change = still - moved
        missing = (view - rows @ features @ columns.T).flatten(1).T
        gram += change.T @ change
        crossed += change.T @ missing
        moved_gram += moved.T @ moved
        moved_crossed += moved.T @ missing
    return _Sums(gram.double(), crossed.double(), moved_gram.double(), moved_crossed.double())
