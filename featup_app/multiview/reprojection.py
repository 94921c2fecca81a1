"""Held-out reprojection error: does a field explain what the backbone sees in views that no one has fitted?

Decision 0032: sixteen seeded views of the image, the field looked up where each view looks, plain box averages over the
patches' footprints, mean squared error divided by the variance of the view's features over positions. All channels count,
so the figure does not depend on a choice of components. Views and their features are made once for an image and shared by
all methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from featup_app.base.errors import EvaluationError
from featup_app.base.progress import Progress, Stage, part_of, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.multiview.held_out import HELD_OUT_PADDING, HELD_OUT_SEED, HELD_OUT_VIEWS, HELD_OUT_ZOOM
from featup_app.multiview.jitter import Jitter, random_jitter
from featup_app.multiview.look_up import box_view_cells

_BLOCK_BYTES = 96 * 2**20


class Projected(Protocol):
    """The part of a field (:class:`~featup_app.fields.FeatureField`) that is used here: fields are above this room."""

    channels: int

    def project(
        self,
        matrix: Tensor,
        bias: Tensor | None = None,
        *,
        size: Size,
        region: Region | None = None,
        progress: Progress = silent,
    ) -> Tensor:
        """(K, C) functionals -> (K, H, W)."""


@dataclass(frozen=True)
class HeldOutViews:
    """Jittered views of one image and the backbone's features of them.

    Attributes:
        jitters: the views, drawn for the backbone's input size.
        features: (V, C, h, w) float32.
        input_hw: the backbone's input size in pixels.
    """

    jitters: tuple[Jitter, ...]
    features: Tensor
    input_hw: Size


@dataclass(frozen=True)
class Reprojection:
    """Held-out reprojection error of a field: of each view, and their mean. 1 is no better than each view's mean feature."""

    per_view: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.per_view) / len(self.per_view)


def held_out_views(
    features: FeatureMap,
    *,
    count: int = HELD_OUT_VIEWS,
    seed: int = HELD_OUT_SEED,
    found: list[Tensor] | None = None,
    progress: Progress = silent,
) -> HeldOutViews:
    """Draw the held-out views of an image and run its backbone on them.

    Args:
        features: the image's own features; they name image, backbone, layer and input size.
        count: number of views; fewer are the first of more.
        found: features of the first views from an earlier call that was cancelled; those of further ones are added.
        seed: of the draw; the same for all methods that are compared.
        progress: called for each view; may cancel.

    Raises:
        EvaluationError: if the map has no backbone that could be run again.
    """
    backbone = features.backbone
    if backbone is None:
        raise EvaluationError(
            f'The features of "{features.image.name}" come from a file, without the backbone that made them; extract them '
            "again to measure how well they are upsampled."
        )
    input_hw = features.geometry.input_hw
    pixels = backbone.resized(features.image, input_hw)
    generator = torch.Generator().manual_seed(seed)
    padding = round(HELD_OUT_PADDING * min(input_hw) / 224)
    jitters = tuple(
        random_jitter(generator, input_hw, max_padding=padding, max_zoom=HELD_OUT_ZOOM) for _ in range(count)
    )
    maps = [] if found is None else found
    for index, jitter in enumerate(jitters[len(maps) :], len(maps)):
        progress("features of held-out views", index, count, Stage.EXTRACTING)
        maps.append(backbone.features(jitter.pixels(pixels)[None], features.layer)[0])
    return HeldOutViews(jitters, torch.stack(maps), input_hw)


def reprojection_error(
    field: Projected, views: HeldOutViews, *, size: Size | None = None, progress: Progress = silent
) -> Reprojection:
    """How far a field's features, seen through each view, are from the backbone's.

    The field is drawn at the backbone's input size or another one, some channels at a time, and looked up bilinearly at one
    point for each input pixel of the view. Look-up and box average are separable and linear, hence two small matrices for
    each view (:func:`~featup_app.multiview.box_view_cells`).

    Args:
        field: of the same image, backbone and layer as the views.
        views: made by :func:`held_out_views`.
        size: (H, W) at which the field is drawn; the backbone's input size if not given.
        progress: called for each block of channels; may cancel.

    Raises:
        ValueError: if the field has other channels than the views.
    """
    channels, grid = views.features.shape[1], (views.features.shape[2], views.features.shape[3])
    if field.channels != channels:
        raise ValueError(f"the field has {field.channels} channels, the views have {channels}")
    size = size or views.input_hw
    block = max(1, _BLOCK_BYTES // (4 * size[0] * size[1]))
    identity = torch.eye(channels, device=views.features.device)
    squared = torch.zeros(len(views.jitters), dtype=torch.float64)
    for start in range(0, channels, block):
        progress("looking through held-out views", start, channels)
        chosen = slice(start, start + block)
        drawn = field.project(
            identity[chosen],
            size=size,
            progress=part_of(progress, start, channels, words="looking through held-out views"),
        )
        seen = box_view_cells(drawn.permute(1, 2, 0), views.jitters, grid).permute(0, 3, 1, 2)
        squared += (seen - views.features[:, chosen]).double().square().sum((1, 2, 3)).cpu()
    progress("looking through held-out views", channels, channels)
    return Reprojection(tuple((squared / _variances(views.features)).tolist()))


def _variances(features: Tensor) -> Tensor:
    """(V, C, h, w) -> (V) float64: squared deviations from each view's mean feature, summed over positions and channels."""
    values = features.double().flatten(2)
    return (values - values.mean(2, keepdim=True)).square().sum((1, 2)).clamp(min=1e-30).cpu()
