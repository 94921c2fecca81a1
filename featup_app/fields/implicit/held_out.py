"""The held-out views of a fit, in the components that the network predicts: their error is measured after every step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from featup_app.fields.implicit.views import Components
from featup_app.multiview import HeldOutViews


@dataclass(frozen=True)
class HeldOutComponents:
    """The backbone's features of the held-out views, in the components of a fit.

    Attributes:
        targets: (V, K, h, w) components.
        outside: (V) squared length of the part outside the components.
        variances: (V) squared deviations from each view's mean feature.
        nothing: held-out reprojection error of zeros.
    """

    targets: Tensor
    outside: Tensor
    variances: Tensor
    nothing: float

    @classmethod
    def of(cls, views: HeldOutViews, components: Components) -> HeldOutComponents:
        """The views' features in a space of components."""
        cells = views.features.double().flatten(2)
        variances = (cells - cells.mean(2, keepdim=True)).square().sum((1, 2)).clamp_min(1e-30)
        nothing = float((cells.square().sum((1, 2)) / variances).mean())
        return cls(components.of(views.features), components.outside(views.features), variances, nothing)

    def error(self, predicted: Tensor) -> float:
        """The held-out reprojection error of (V, K, h, w) predicted components, in all channels."""
        squared = (predicted - self.targets).double().square().sum((1, 2, 3))
        return float(((squared + self.outside) / self.variances).mean())
