"""Principal components of features, and the colours that their values get."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Size
from featup_app.fields.field import FeatureField
from featup_app.lenses.lens import Mask

DEFAULT_COMPONENTS = 9
FIT_PIXELS = 96 * 96
"""A field is sampled at about this many pixels to fit its components: far more than there are independent features."""

PERCENTILES = (1.0, 99.0)
"""Each component's values between these percentiles spread over the whole range of its colour."""

LEAST_POSITIONS = 4
"""Positions that a selection has to hold: fewer have no three components."""

_NOISE = 1e-10
"""Variance, as a share of the mean squared feature length, that is only rounding (of window weights, kept in float16)."""


@dataclass(frozen=True)
class PCABasis:
    """Principal components with the limits of their colours; the same basis on two fields gives comparable colours.

    Attributes:
        mean: (C) float32.
        components: (N, C) float32, orthonormal rows, by falling variance. The sign of each is such that the sum of the
            cubes of its entries is positive, so that colours do not flip from one fit to the next.
        explained: (N) share of the total variance of each component, 0 .. 1.
        low, high: (N) values that become colour 0 and 255 (percentiles of the fitted data); equal where a component has no
            variance but rounding, which is shown as grey.
    """

    mean: Tensor
    components: Tensor
    explained: tuple[float, ...]
    low: Tensor
    high: Tensor

    def values(self, field: FeatureField, numbers: Sequence[int], *, size: Size, progress: Progress = silent) -> Tensor:
        """The chosen components of a field: (len(numbers), H, W).

        Args:
            numbers: which components, counted from 1.

        Raises:
            LensError: if there is no such component.
        """
        device = field.coarse.data.device  # a basis of a file may be on another one
        rows = self.components[self._indices(numbers)].to(device)
        return field.project(rows, -(rows @ self.mean.to(device)), size=size, progress=progress)

    def picture(self, values: Tensor, numbers: Sequence[int]) -> NDArray[np.uint8]:
        """(3, H, W) values of three components -> (H, W, 3) uint8 RGB."""
        indices = self._indices(numbers)
        low, high = self.low[indices, None, None].to(values), self.high[indices, None, None].to(values)
        spread = high - low
        flat = spread <= 1e-12 * high.abs().clamp(min=1e-6)
        scaled = torch.where(flat, 0.5, (values - low) / torch.where(flat, 1.0, spread))
        coloured = (scaled.clamp(0, 1) * 255).round().to(torch.uint8)
        return np.ascontiguousarray(coloured.permute(1, 2, 0).cpu().numpy())

    def varying(self) -> list[int]:
        """Indices of the components along which the features vary; none if they are the same everywhere."""
        return [index for index, share in enumerate(self.explained) if share > 0]

    def _indices(self, numbers: Sequence[int]) -> list[int]:
        count = self.components.shape[0]
        for number in numbers:
            if not 1 <= number <= count:
                raise LensError(f"There is no principal component {number}; choose from 1 to {count}.")
        return [number - 1 for number in numbers]


def fit_pca(
    sources: FeatureField | FeatureMap | Sequence[FeatureField | FeatureMap],
    *,
    components: int = DEFAULT_COMPONENTS,
    masks: Sequence[Mask | None] | None = None,
    progress: Progress = silent,
) -> PCABasis:
    """Principal components of one or several fields or low-resolution maps together.

    A field is evaluated at about :data:`FIT_PIXELS` pixels, its aspect kept; a map is taken as it is. Several sources share
    one basis and one set of colour limits, each weighing as much as the others.

    Args:
        components: how many to keep (fewer if there are fewer channels).
        masks: for each source the part of its image that is fitted, (H, W) bool over the whole image at any size; None for all
            of it. A cell or pixel belongs to the part if at least half of it does.

    Raises:
        ValueError: if the sources differ in their number of channels.
        LensError: if a mask selects fewer than :data:`LEAST_POSITIONS` positions.
    """
    if isinstance(sources, FeatureField | FeatureMap):
        sources = [sources]
    chosen = [_chosen(source, mask) for source, mask in zip(sources, masks or [None] * len(sources), strict=True)]
    channels = sources[0].channels
    if any(source.channels != channels for source in sources):
        raise ValueError(
            f"all sources of one PCA need the same channels, got {[source.channels for source in sources]}"
        )
    count = min(components, channels)
    mean = torch.zeros(channels, dtype=torch.float64)
    moment = torch.zeros(channels, channels, dtype=torch.float64)
    for source, positions in zip(sources, chosen, strict=True):
        source_mean, source_moment = _moments(source, positions, progress)
        mean += source_mean / len(sources)
        moment += source_moment / len(sources)
    covariance = moment - torch.outer(mean, mean)
    progress("finding principal components", 0, 1)
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    rows = eigenvectors.T.flip(0)[:count]
    signs = torch.where((rows**3).sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    rows = rows * signs
    eigenvalues = torch.where(eigenvalues > _NOISE * moment.trace(), eigenvalues, 0.0)
    variance = eigenvalues.flip(0)[:count]
    total = float(eigenvalues.sum())
    explained = tuple(float(value) / total if total > 0 else 0.0 for value in variance)
    device = sources[0].data.device if isinstance(sources[0], FeatureMap) else None
    basis = PCABasis(mean.float().to(device), rows.float().to(device), explained, torch.zeros(count), torch.ones(count))
    low, high = _limits(sources, chosen, basis)
    flat = variance == 0
    low, high = low.masked_fill(flat, 0.0), high.masked_fill(flat, 0.0)
    progress("finding principal components", 1, 1)
    return PCABasis(basis.mean, basis.components, explained, low, high)


def _fit_size(field: FeatureField) -> Size:
    height, width = field.geometry.image_hw
    scale = math.sqrt(FIT_PIXELS / (height * width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _chosen(source: FeatureField | FeatureMap, mask: Mask | None) -> Tensor | None:
    """The positions of a source that a mask selects, (N) bool; None for all. Raises LensError if they are too few."""
    if mask is None:
        return None
    size = source.geometry.grid_hw if isinstance(source, FeatureMap) else _fit_size(source)
    shares = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    chosen = torch.from_numpy(shares >= 0.5).flatten()
    count = int(chosen.sum())
    if count < LEAST_POSITIONS:
        what = "cells of the feature grid" if isinstance(source, FeatureMap) else "pixels of the features"
        raise LensError(
            f"The selection holds {count} {what} of {size[0]}x{size[1]}, and principal components need {LEAST_POSITIONS}; "
            "select more, or let the backbone see the image at a larger size."
        )
    return chosen


def _moments(source: FeatureField | FeatureMap, chosen: Tensor | None, progress: Progress) -> tuple[Tensor, Tensor]:
    """Mean (C) and mean outer product (C, C) over the chosen positions of a source, float64."""
    if isinstance(source, FeatureMap):
        rows = _only(source.data.flatten(1), chosen).double().cpu()
        return rows.mean(dim=1), rows @ rows.T / rows.shape[1]
    size = _fit_size(source)
    inside = None if chosen is None else chosen.view(size)
    total = torch.zeros(source.channels, dtype=torch.float64)
    moment = torch.zeros(source.channels, source.channels, dtype=torch.float64)
    for region, tile in source.tiles(size=size, progress=progress):
        rows = tile.flatten(1)
        if inside is not None:
            rows = _only(rows, inside[region.rows, region.columns].flatten())
        rows = rows.double().cpu()
        total += rows.sum(dim=1)
        moment += rows @ rows.T
    count = size[0] * size[1] if chosen is None else int(chosen.sum())
    return total / count, moment / count


def _limits(
    sources: Sequence[FeatureField | FeatureMap], chosen: Sequence[Tensor | None], basis: PCABasis
) -> tuple[Tensor, Tensor]:
    """Percentiles of each component over the chosen positions of all sources: two (N) tensors."""
    parts = []
    for source, positions in zip(sources, chosen, strict=True):
        if isinstance(source, FeatureMap):
            part = basis.components @ (_only(source.data.flatten(1), positions) - basis.mean[:, None])
        else:
            numbers = range(1, basis.components.shape[0] + 1)
            part = _only(basis.values(source, numbers, size=_fit_size(source)).flatten(1), positions)
        parts.append(part)
    quantiles = torch.tensor([percentile / 100 for percentile in PERCENTILES])
    low, high = torch.quantile(torch.cat([part.cpu().float() for part in parts], dim=1), quantiles, dim=1)
    return low, high


def _only(columns: Tensor, chosen: Tensor | None) -> Tensor:
    """(C, N) -> (C, M): the chosen columns, or all."""
    return columns if chosen is None else columns[:, chosen.to(columns.device)]
