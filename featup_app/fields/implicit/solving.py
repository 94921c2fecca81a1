"""The last layer of a network by least squares over all views so far, each new view adding to the sums.

With the plain average as downsampler, what a view sees of the network's hidden numbers is a row of numbers for each of its cells,
and the features of the cell are to be a linear map of them. All that a solution needs of the views are two sums of products,
so nothing is stored for a view once it is added, and a solution takes as long for a thousand views as for one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from featup_app.features import Size
from featup_app.fields.implicit.uncertainty import CellUncertainty
from featup_app.fields.implicit.views import Components
from featup_app.multiview import Jitter, box_average, box_view_cells


class NormalEquations:
    """Sums over the cells of all views: of hidden numbers with each other, and with the components that they are to give.

    Args:
        hidden: (H, W, D), the network's hidden numbers at the fitted points, which cover the image.
        grid_hw: (h, w) cells of a view.
        components: K.
        ridge: see :class:`~featup_app.fields.implicit.FitRecipe`.
    """

    def __init__(self, hidden: Tensor, grid_hw: Size, components: int, ridge: float) -> None:
        self.hidden, self.grid_hw, self.ridge = hidden, grid_hw, ridge
        width = hidden.shape[-1]
        self._products = hidden.new_zeros(width, width)
        self._targets = hidden.new_zeros(width, components)

    def rows(self, jitters: Sequence[Jitter]) -> Tensor:
        """The hidden numbers averaged over the cells of some views: (V * h * w, D)."""
        return box_view_cells(self.hidden, jitters, self.grid_hw).flatten(0, 2)

    def image_rows(self) -> Tensor:
        """The hidden numbers averaged over the cells of the image itself: (h * w, D)."""
        return box_average(self.hidden.permute(2, 0, 1), self.grid_hw).flatten(1).T

    def add(self, rows: Tensor, components: Tensor, weights: Tensor | float = 1.0) -> None:
        """Count some cells in.

        Args:
            rows: (N, D) of :meth:`rows`.
            components: (N, K) that they are to give.
            weights: (N), or one for all.
        """
        weighed = rows * (weights[:, None] if isinstance(weights, Tensor) else weights)
        self._products += weighed.T @ rows
        self._targets += weighed.T @ components

    def solution(self) -> Tensor:
        """(K, D), the weights of the last layer."""
        width = len(self._products)
        matrix = self._products.double() + self.ridge * torch.eye(width, dtype=torch.float64, device=self.hidden.device)
        factor = torch.linalg.cholesky(matrix)
        return torch.cholesky_solve(self._targets.double(), factor).T.to(self.hidden)


def weights_of(uncertainty: CellUncertainty | None, features: Tensor) -> Tensor | float:
    """How much the cells of some views count: (V * h * w), of mean one, or 1 without a learned uncertainty."""
    if uncertainty is None:
        return 1.0
    precision = uncertainty.scale(features).flatten().square().reciprocal()
    return precision / precision.mean()


def compressed(last: nn.Linear, components: Components, hidden: Tensor, count: int) -> tuple[nn.Linear, Components]:
    """A last layer for fewer components that give nearly the same features.

    Args:
        last: (K, D), without bias.
        components: that it predicts.
        hidden: (H, W, D), at points that cover the image.
        count: components to keep; 0 for all.

    Returns:
        The layer for the directions in which the network's own features, over these points, are largest, and the directions.
        A fitted field needs fewer of them than the features of views do, which it explains but for their noise.
    """
    outputs, width = last.weight.shape
    if not 0 < count < outputs:
        return last, components
    points = hidden.flatten(0, 1)
    covariance = last.weight @ (points.T @ points) @ last.weight.T
    _, directions = torch.linalg.eigh(covariance.double())
    kept = directions.flip(1)[:, :count].to(last.weight)
    layer = nn.Linear(width, count, bias=False, device=last.weight.device)
    layer.weight = nn.Parameter(kept.T @ last.weight, requires_grad=False)
    return layer, Components(components.basis @ kept, components.mean, components.scale)
