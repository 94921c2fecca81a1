"""How wrong the network is expected to be at each cell of a view, learned from the features of the cell (FeatUp section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from featup_app.multiview import UncertaintyHead

RATE = 1e-2
STEPS_PER_VIEW = 2
VIEWS_KEPT = 48
"""The head learns from the latest views, whose errors are those of the network as it is."""


class CellUncertainty:
    """A head that predicts the scale of a cell's error, and the cells whose error is known.

    Args:
        components: K.
        unit: root mean square of a component; errors and components are learned in this unit.
        generator: draws the head's first weights.
        device: where the components are.
    """

    def __init__(self, components: int, unit: float, generator: torch.Generator, device: torch.device) -> None:
        self.head = UncertaintyHead(components, generator).to(device)
        self._unit = unit
        self._optimizer = torch.optim.NAdam(self.head.parameters(), lr=RATE)
        self._known: list[tuple[Tensor, Tensor]] = []

    def scale(self, components: Tensor) -> Tensor:
        """(V, K, h, w) of a view's own components -> (V, h, w), the expected root mean square error of a component."""
        with torch.no_grad():
            scale: Tensor = self.head(components / self._unit)[:, 0] * self._unit
        return scale

    def learn(self, components: Tensor, squared: Tensor) -> None:
        """Learn from views that the network had not seen when it was asked for them.

        Args:
            components: (V, K, h, w) of the views.
            squared: (V, h, w) mean over the components of the network's squared error.
        """
        self._known += list(zip(components / self._unit, squared / self._unit**2, strict=True))
        del self._known[:-VIEWS_KEPT]
        inputs = torch.stack([known for known, _ in self._known])
        errors = torch.stack([error for _, error in self._known])[:, None]
        with torch.enable_grad():
            for _ in range(STEPS_PER_VIEW * len(components)):
                scale = self.head(inputs)
                loss = (errors / (2 * scale.square()) + scale.log()).mean()
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
