"""Weighted averages of a map over the patches of a jittered view, without ever computing the view.

A weight on a pixel of a view is a weight on the few pixels of the map that are looked up there. Rows and columns are looked up
separately, so the weights of a whole patch are carried over to the map by two small matrices, and the patch's sum is taken
there: neither the view of all channels nor its blurred or padded copy is made, forwards or backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.features import Size
from featup_app.multiview.jitter import Jitter
from featup_app.multiview.look_up import view_matrices
from featup_app.multiview.patches import patch_starts, pixels_of

_Lines = tuple[list[tuple[int, Tensor]], Tensor]
"""A view's rows and columns: for each row of patches the first row of the map that it touches and (k, r), which of the next r
rows each of its own is; and (n_w, k, W), which column of the map each of the columns of each patch is."""


def weighted_views(
    features: Tensor, jitters: Sequence[Jitter], weights: Tensor, view_hw: Size, *, border: int = 0
) -> Tensor:
    """Each patch's weighted sum in each view of one picture, with the same weights for all channels.

    Args:
        features: (K, H, W), a map over the whole picture, any resolution.
        jitters: V views.
        weights: (V, n_h, n_w, k, k), of patches that lie on a view as :func:`~featup_app.multiview.patches.patch_starts` says.
        view_hw: (h, w) pixels of a view; the size that the jitters were drawn for.
        border: pixels by which a view is mirrored beyond its edges before the patches are laid on it.

    Returns:
        (V, K, n_h, n_w), equal to the patches' sums over ``sampled_views(features, jitters, view_hw)``. Differentiable with
        respect to features and weights.

    Raises:
        ValueError: if the patches are larger than the view with its border.
    """
    kernel_size = weights.shape[-1]
    lines: list[_Lines] = []
    for jitter in jitters:
        down, right = (
            _patches_of_lines(lookup, kernel_size, count, border).to(features)
            for lookup, count in zip(
                view_matrices(jitter, (features.shape[1], features.shape[2]), view_hw), weights.shape[1:3], strict=True
            )
        )
        lines.append(([_cut(rows) for rows in down], right))
    apply = cast(Any, _WeightedViews.apply)
    return cast(Tensor, apply(features.contiguous(), weights, lines))


def _patches_of_lines(lookup: Tensor, kernel_size: int, count: int, border: int) -> Tensor:
    """(h, H), the map's lines at each of the view's -> (n, k, H), those at each line of each patch."""
    mirrored = F.pad(lookup.T, (border, border), mode="reflect").T
    chosen = pixels_of(patch_starts(len(mirrored), kernel_size, count), kernel_size, lookup.device)
    return mirrored[chosen].view(count, kernel_size, -1)


def _cut(lines: Tensor) -> tuple[int, Tensor]:
    """(k, H) without the lines of the map that the patch does not touch, and the first one that it does."""
    touched = lines.any(0).nonzero()
    first, last = int(touched[0]), int(touched[-1])
    return first, lines[:, first : last + 1].contiguous()


class _WeightedViews(torch.autograd.Function):
    """One row of patches after the other; all views add to one gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Tensor, lines: list[_Lines]) -> Tensor:
        ctx.save_for_backward(features, weights)
        ctx.lines = lines
        seen = features.new_empty(weights.shape[0], features.shape[0], *weights.shape[1:3])
        for view, (rows, columns) in enumerate(lines):
            for row, (first, own) in enumerate(rows):
                seen[view, :, row] = _band(features, first, own) @ _shares(own, weights[view, row], columns).T
        return seen

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        features, weights = ctx.saved_tensors
        to_features = torch.zeros_like(features) if ctx.needs_input_grad[0] else None
        to_weights = torch.empty_like(weights) if ctx.needs_input_grad[1] else None
        for view, (rows, columns) in enumerate(ctx.lines):
            for row, (first, own) in enumerate(rows):
                here = gradient[view, :, row]
                if to_features is not None:
                    _band(to_features, first, own).addmm_(here, _shares(own, weights[view, row], columns))
                if to_weights is not None:
                    shares = (here.T @ _band(features, first, own)).view(len(columns), own.shape[1], -1)
                    to_weights[view, row] = own @ (shares @ columns.mT)
        return to_features, to_weights, None


def _band(planes: Tensor, first: int, rows: Tensor) -> Tensor:
    """The rows of the map that a row of patches touches: a view of it, (K, r * W)."""
    return planes[:, first : first + rows.shape[1]].flatten(1)


def _shares(rows: Tensor, weights: Tensor, columns: Tensor) -> Tensor:
    """The weight of each pixel of the band in each patch: (k, r), (n_w, k, k), (n_w, k, W) -> (n_w, r * W)."""
    return ((rows.T @ weights) @ columns).flatten(1)
