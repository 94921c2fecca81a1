"""Plain box averages over the footprint of each cell of a grid, also where pixels and cells do not divide evenly."""

from __future__ import annotations

import torch
from torch import Tensor

from featup_app.features import Size


def overlap(cells: int, pixels: int) -> Tensor:
    """How much of each of ``cells`` cells along one side is covered by each of ``pixels`` pixels.

    Returns:
        (cells, pixels) float64; rows sum to one.
    """
    edges = torch.arange(pixels + 1, dtype=torch.float64) * (cells / pixels)
    low, high = edges[:-1], edges[1:]
    cell = torch.arange(cells, dtype=torch.float64)[:, None]
    shared = (torch.minimum(high, cell + 1) - torch.maximum(low, cell)).clamp(min=0)
    return shared / shared.sum(1, keepdim=True)


def box_average(values: Tensor, size: Size) -> Tensor:
    """(K, H, W) -> (K, h, w) in the type of the values: the mean over each cell's footprint."""
    rows = overlap(size[0], values.shape[1]).to(values)
    columns = overlap(size[1], values.shape[2]).to(values)
    return rows @ values @ columns.T


def label_shares(labels: Tensor, size: Size, classes: int) -> tuple[Tensor, Tensor]:
    """Which part of each cell's labelled pixels has which class.

    Args:
        labels: (H, W) integers, the class or a negative number for pixels that do not count.
        size: (h, w) of the grid, which covers the same image.
        classes: number K of classes.

    Returns:
        (h * w, K) float32 shares that sum to one (zeros for a cell without a labelled pixel), and (h * w) float32, the
        labelled part of each cell.
    """
    if tuple(labels.shape) == size:
        counted = labels.flatten() >= 0
        shares = torch.nn.functional.one_hot(labels.flatten().long().clamp(min=0), classes).float()
        return shares * counted[:, None], counted.float()
    places = torch.stack([labels == index for index in range(classes)]).float()
    covered = box_average(places, size).flatten(1).T
    labelled = covered.sum(1)
    return covered / labelled.clamp(min=1e-12)[:, None], labelled
