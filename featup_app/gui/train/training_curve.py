"""The curve of a training: the error on held-out views over the steps, beside methods that need no training."""

from __future__ import annotations

from featup_app.gui import style
from featup_app.gui.error_curve import ErrorCurve, Level


class TrainingCurve(ErrorCurve):
    """Held-out error of the weights that are trained, and if wanted the loss."""

    def __init__(self) -> None:
        super().__init__(
            "Curve of the training",
            "Reprojection error on held-out views: what the upsampled features explain of views that took no part in the "
            "training. 1 is no better than the mean; lower is better.",
        )

    def show_baselines(self, bilinear: float, classical: float) -> None:
        """Horizontal lines for what needs no training; they stay the same during a training."""
        if not self.levels:
            self.show_levels(
                [
                    Level("bilinear", "bilinear", bilinear, style.CURVE_BILINEAR),
                    Level("classical", "classical filter", classical, style.CURVE_CLASSICAL),
                ]
            )
