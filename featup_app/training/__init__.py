"""Training upsamplers, and their files. Importing this room imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.base.lazily import lazy_names

if TYPE_CHECKING:
    from featup_app.training.recipes import DEFAULT, PAPER, Rates, Recipe
    from featup_app.training.report import save_training
    from featup_app.training.state import TrainingResult, TrainingState
    from featup_app.training.train import train_upsampler

__all__ = [
    "DEFAULT",
    "PAPER",
    "Rates",
    "Recipe",
    "TrainingResult",
    "TrainingState",
    "save_training",
    "train_upsampler",
]

__getattr__ = lazy_names(
    __name__,
    {
        "DEFAULT": "recipes",
        "PAPER": "recipes",
        "Rates": "recipes",
        "Recipe": "recipes",
        "save_training": "report",
        "train_upsampler": "train",
        "TrainingResult": "state",
        "TrainingState": "state",
    },
)
