"""Labels averaged over each cell of a grid, also if its borders cut through pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from featup_app.features import Size
from featup_app.multiview import box_average


def label_shares(labels: Tensor, size: Size, classes: int) -> tuple[Tensor, Tensor]:
    """Shares of the classes among the labelled pixels of each cell.

    Args:
        labels: (H, W) integers, the class of each pixel; negative for pixels that do not count.
        size: (h, w) of the grid, which covers the same image.
        classes: number K of classes.

    Returns:
        (h * w, K) float32 shares that sum to one (zeros for a cell without a labelled pixel), and (h * w) float32, the
        labelled share of each cell.
    """
    if tuple(labels.shape) == size:
        counted = labels.flatten() >= 0
        shares = torch.nn.functional.one_hot(labels.flatten().long().clamp(min=0), classes).float()
        return shares * counted[:, None], counted.float()
    members = torch.stack([labels == index for index in range(classes)]).float()
    covered = box_average(members, size).flatten(1).T
    labelled = covered.sum(1)
    return covered / labelled.clamp(min=1e-12)[:, None], labelled
