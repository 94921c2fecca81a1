"""Multi-view consistency: views of one image, the way from fine features back to coarse ones, and the losses (FeatUp section
3). Importing this room imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.lazily import lazy_names

if TYPE_CHECKING:
    from featup_app.multiview.jitter import Jitter, identity_jitter, random_jitter

__all__ = ["Jitter", "identity_jitter", "random_jitter"]

__getattr__ = lazy_names(
    __name__,
    {
        "Jitter": "jitter",
        "identity_jitter": "jitter",
        "random_jitter": "jitter",
    },
)
