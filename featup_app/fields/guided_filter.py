"""The guided filter (He, Sun and Tang, "Guided Image Filtering", 2010) as an upsampler: a baseline with no trained weights.

In every window the features are modelled as linear in the colours of the image. The line is fitted by least squares to the
bilinearly interpolated map, and each pixel averages the lines of the windows that contain it (equations 19 to 21 of the paper,
for guidance in colour). All of it is linear in the features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.field import LinearField, output_positions
from featup_app.fields.finer import number_above_zero
from featup_app.fields.guidance import Guidance
from featup_app.images import Image
from featup_app.ops.resampling import bilinear

RADIUS = 1.0
"""Half of the window's side, in cells of the feature grid."""

EPSILON = 1e-4
"""Variance of a colour (of 0 .. 1) below which a window counts as flat and is smoothed instead."""

KEPT_BYTES = 2**28
"""A field keeps the colours' statistics of one output size for the next lens, if they are not larger than this."""

_BLOCK_BYTES = 64 * 2**20
_BYTES_PER_VALUE = 96
"""Working memory for each channel and pixel, all in float64: the map, its mean, three covariances, four lines and sums."""


class _Statistics(NamedTuple):
    """Of the colours in the window around each pixel: means (3, H, W), and the six entries of the inverse of the covariance."""

    means: Tensor
    inverse: Tensor


class GuidedFilterField(LinearField):
    """Bilinear features, filtered with the image as guidance at the size of the output.

    A region is computed from the pixels within two windows' reach around it, so it equals that part of the whole.

    Args:
        features: the map to upsample.
        image: the picture that guides.
        radius: half of the window's side, in cells of the feature grid; a window has at least three pixels per side.
        epsilon: added to the variances of the colours (0 .. 1).
    """

    method = "guided_filter"

    def __init__(self, features: FeatureMap, image: Image, *, radius: float = RADIUS, epsilon: float = EPSILON) -> None:
        super().__init__(features)
        self._radius, self._epsilon = radius, epsilon
        # Output pixels and guidance are in the frame of the image; only the map is read in that of its receptive fields.
        on_image = dataclasses.replace(features.geometry, offset_xy=(0.0, 0.0))
        self._guidance = Guidance(image, on_image, features.data.device, normalise=False)
        self._kept: tuple[Size, _Statistics] | None = None

    def settings(self) -> dict[str, object]:
        return {"radius": self._radius, "epsilon": self._epsilon}

    def bytes_per_pixel(self, channels: int) -> float:
        return 4.0 * channels + _BYTES_PER_VALUE * min(channels, 4)

    def fixed_bytes(self, size: Size) -> int:
        pixels = size[0] * size[1]
        return pixels * (4 + 3 * 4) + (pixels * 9 * 4 if _keeps(size) else 0)

    def _reach(self, size: Size) -> tuple[int, int]:
        """Rows and columns from the middle of a window to its edge, in output pixels."""
        rows, columns = self.geometry.grid_hw
        return max(1, round(self._radius * size[0] / rows)), max(1, round(self._radius * size[1] / columns))

    def _upsample(self, source: Tensor, size: Size, region: Region, progress: Progress) -> Tensor:
        reach = self._reach(size)
        lines = _widened(region, reach, size)
        read = _widened(lines, reach, size)
        colours = self._guidance.at(size)[:, read.rows, read.columns]
        statistics = self._statistics(size, lines)
        positions = output_positions(size, read, self.geometry)
        result = source.new_empty(source.shape[0], region.height, region.width)
        block = max(1, _BLOCK_BYTES // (_BYTES_PER_VALUE * read.height * read.width))
        for start in range(0, source.shape[0], block):
            progress("filtering", start, source.shape[0])
            values = bilinear(source[start : start + block].double(), *positions)
            result[start : start + block] = _filtered(values, colours, statistics, (read, lines, region), reach)
        return result

    def _statistics(self, size: Size, span: Region) -> _Statistics:
        """Of a part of an output; those of a whole one are kept where they may be."""
        if not _keeps(size):
            return self._make_statistics(size, span)
        if self._kept is None or self._kept[0] != size:
            self._kept = size, self._make_statistics(size, Region.whole(size))
        return _Statistics(*(planes[:, span.rows, span.columns] for planes in self._kept[1]))

    def _make_statistics(self, size: Size, span: Region) -> _Statistics:
        reach = self._reach(size)
        read = _widened(span, reach, size)
        colours = self._guidance.at(size)[:, read.rows, read.columns]
        means = box_mean(colours, read, span, reach)
        pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
        products = torch.stack([colours[first] * colours[second] for first, second in pairs])
        covariances = box_mean(products, read, span, reach)
        for plane, (first, second) in zip(covariances, pairs, strict=True):
            plane.sub_(means[first] * means[second])
            if first == second:
                plane.add_(self._epsilon)
        return _Statistics(means.float(), _inverse(covariances).float())


def _keeps(size: Size) -> bool:
    return size[0] * size[1] * 9 * 4 <= KEPT_BYTES


def _widened(region: Region, reach: tuple[int, int], size: Size) -> Region:
    """A region with the rows and columns around it within a reach, clipped to the output."""
    top, left = max(0, region.top - reach[0]), max(0, region.left - reach[1])
    bottom, right = min(size[0], region.bottom + reach[0]), min(size[1], region.right + reach[1])
    return Region(top, left, bottom - top, right - left)


def box_mean(planes: Tensor, read: Region, wanted: Region, reach: tuple[int, int]) -> Tensor:
    """Means over windows, by differences of running sums: the cost does not depend on the reach.

    Args:
        planes: (N, rows, columns) of the region ``read`` of an output, which ends where the output ends or at least a reach
            beyond the wanted pixels.
        wanted: the pixels in the middle of the windows.
        reach: rows and columns on each side of them; pixels outside of the output do not count.

    Returns:
        (N, wanted.height, wanted.width) float64.
    """
    # Sums grow with the side of the output, so they are kept in float64. Torch casts faster before a running sum than within it.
    along_rows = _means_along(planes.double(), 1, (read.top, read.bottom), (wanted.top, wanted.bottom), reach[0])
    return _means_along(along_rows, 2, (read.left, read.right), (wanted.left, wanted.right), reach[1])


def _means_along(planes: Tensor, dim: int, read: tuple[int, int], wanted: tuple[int, int], reach: int) -> Tensor:
    """:func:`box_mean` along one side; ``read`` and ``wanted`` are the first index and one past the last."""
    length, count = read[1] - read[0], wanted[1] - wanted[0]
    before, after = max(0, read[0] - (wanted[0] - reach)), max(0, wanted[1] + reach - read[1])
    shape = list(planes.shape)
    shape[dim] = before + 1 + length + after
    # Running sums continued beyond both ends, where nothing is added: then every window is the difference of two slices.
    sums = planes.new_empty(shape)
    sums.narrow(dim, 0, before + 1).zero_()
    sums.narrow(dim, before + 1, length).copy_(planes.cumsum(dim))
    if after:
        sums.narrow(dim, before + 1 + length, after).copy_(
            sums.narrow(dim, before + length, 1).expand_as(sums.narrow(dim, 0, after))
        )
    start = wanted[0] - reach - read[0] + before
    result = sums.narrow(dim, start + 2 * reach + 1, count) - sums.narrow(dim, start, count)
    middles = torch.arange(wanted[0], wanted[1], device=planes.device)
    held = (middles + reach + 1).clamp(max=read[1]) - (middles - reach).clamp(min=read[0])
    return result.div_(held.to(planes).view([-1, 1] if dim == 1 else [1, -1]))


def _inverse(entries: Tensor) -> Tensor:
    """(6, H, W): xx, xy, xz, yy, yz, zz of symmetric 3x3 matrices -> the same of their inverses."""
    xx, xy, xz, yy, yz, zz = entries
    cofactors = torch.stack(
        [
            yy * zz - yz * yz,
            xz * yz - xy * zz,
            xy * yz - xz * yy,
            xx * zz - xz * xz,
            xy * xz - xx * yz,
            xx * yy - xy * xy,
        ]
    )
    return cofactors.div_(xx * cofactors[0] + xy * cofactors[1] + xz * cofactors[2])


def _filtered(
    values: Tensor,
    colours: Tensor,
    statistics: _Statistics,
    spans: tuple[Region, Region, Region],
    reach: tuple[int, int],
) -> Tensor:
    """(K, ...) values of the first span -> (K, ...) of the last one; the lines are those of the windows of the second span.

    Flat windows divide by variances near epsilon, which makes rounding errors of the values a hundred times larger. So the
    values and whatever is made of them are float64: a projection then is that of the full features.
    """
    read, lines, region = spans
    means = box_mean(values, read, lines, reach)
    shared = []
    for channel in range(3):
        products = box_mean(values * colours[channel], read, lines, reach)
        shared.append(products.addcmul_(means, statistics.means[channel].double(), value=-1))
    xx, xy, xz, yy, yz, zz = statistics.inverse
    slopes = (
        xx * shared[0] + xy * shared[1] + xz * shared[2],
        xy * shared[0] + yy * shared[1] + yz * shared[2],
        xz * shared[0] + yz * shared[1] + zz * shared[2],
    )
    offsets = means
    for channel in range(3):
        offsets.addcmul_(slopes[channel], statistics.means[channel], value=-1)
    result = box_mean(offsets, lines, region, reach)
    top, left = region.top - read.top, region.left - read.left
    own = colours[:, top : top + region.height, left : left + region.width]
    for channel in range(3):
        result.addcmul_(box_mean(slopes[channel], lines, region, reach), own[channel])
    return result


def make_field(
    features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent
) -> GuidedFilterField:
    """The field, for :func:`~featup_app.fields.upsample`.

    Args:
        features: the map to upsample.
        image: the picture that guides.
        options: ``radius`` in cells and ``epsilon``, see :class:`GuidedFilterField`.
        progress: not called; the filter runs when a size is requested.

    Raises:
        UpsamplerError: if an option is no number above zero.
    """
    numbers = {
        name: number_above_zero("guided_filter", name, options.get(name, default))
        for name, default in (("radius", RADIUS), ("epsilon", EPSILON))
    }
    return GuidedFilterField(features, image, **numbers)
