"""Multi-view consistency: views of one image, the way from fine features back to coarse ones, and the losses (FeatUp section
3). Importing this room imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.base.lazily import lazy_names

if TYPE_CHECKING:
    from featup_app.multiview.downsamplers import AttentionDownsampler, BlurDownsampler
    from featup_app.multiview.jitter import Jitter, identity_jitter, random_jitter
    from featup_app.multiview.look_up import box_view_cells, box_views, sampled_views, view_matrices
    from featup_app.multiview.losses import (
        UncertaintyHead,
        blur_distance,
        conditional_random_field_loss,
        magnitude_loss,
        random_projection,
        reconstruction_loss,
        total_variation,
    )
    from featup_app.multiview.patches import box_average, patch_starts
    from featup_app.multiview.reprojection import HeldOutViews, Reprojection, held_out_views, reprojection_error

__all__ = [
    "AttentionDownsampler",
    "BlurDownsampler",
    "HeldOutViews",
    "Jitter",
    "Reprojection",
    "UncertaintyHead",
    "blur_distance",
    "box_average",
    "box_view_cells",
    "box_views",
    "conditional_random_field_loss",
    "held_out_views",
    "identity_jitter",
    "magnitude_loss",
    "patch_starts",
    "random_jitter",
    "random_projection",
    "reconstruction_loss",
    "reprojection_error",
    "sampled_views",
    "total_variation",
    "view_matrices",
]

__getattr__ = lazy_names(
    __name__,
    {
        "AttentionDownsampler": "downsamplers",
        "BlurDownsampler": "downsamplers",
        "Jitter": "jitter",
        "identity_jitter": "jitter",
        "random_jitter": "jitter",
        "box_view_cells": "look_up",
        "box_views": "look_up",
        "sampled_views": "look_up",
        "view_matrices": "look_up",
        "UncertaintyHead": "losses",
        "blur_distance": "losses",
        "conditional_random_field_loss": "losses",
        "magnitude_loss": "losses",
        "random_projection": "losses",
        "reconstruction_loss": "losses",
        "total_variation": "losses",
        "box_average": "patches",
        "patch_starts": "patches",
        "HeldOutViews": "reprojection",
        "Reprojection": "reprojection",
        "held_out_views": "reprojection",
        "reprojection_error": "reprojection",
    },
)
