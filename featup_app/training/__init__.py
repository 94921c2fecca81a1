"""Training joint bilateral upsamplers, and their files. Importing this room imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.lazily import lazy_names

if TYPE_CHECKING:
    from featup_app.training.checkpoints import Upsampler, default_upsampler, load_upsampler, save_upsampler

__all__ = ["Upsampler", "default_upsampler", "load_upsampler", "save_upsampler"]

__getattr__ = lazy_names(
    __name__,
    {
        "Upsampler": "checkpoints",
        "default_upsampler": "checkpoints",
        "load_upsampler": "checkpoints",
        "save_upsampler": "checkpoints",
    },
)
