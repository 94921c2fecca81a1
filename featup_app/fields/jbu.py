"""Joint bilateral upsampling as a feature field: a chain of guided doublings, any region, any output size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from featup_app.base.errors import UpsamplerError
from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.doublings import Landing, Span, level_size, levels_for
from featup_app.fields.field import LinearField, check_channels, times
from featup_app.fields.guidance import Guidance
from featup_app.fields.jbu_stack import FIXUP_WEIGHT, JBUStack
from featup_app.fields.registry import CLASSICAL
from featup_app.fields.restoration import Restoration
from featup_app.fields.weights import choose
from featup_app.fields.window_kernels import BilateralKernel, WindowKernel, strips
from featup_app.images import Image
from featup_app.ops.doubling import KERNEL_SIZE, RADIUS, Place, coarse_span, guided_double
from featup_app.ops.layout import empty_map
from featup_app.ops.resampling import reflect_indices
from featup_app.ops.rounding import ROUNDED, ROUNDED_BYTES, round_weights

SIGMA_SPATIAL = 0.5
SIGMA_RANGE = 0.03
NETWORK = JBUStack
"""The class of the networks that hold trained weights of this method."""

WEIGHTS_BUDGET = 2**30
"""Bytes of window weights that a field keeps for the next lens; finer stages are computed anew each time."""


@dataclass(frozen=True)
class _Step:
    """One doubling: the span of the finer level that it makes, and the span of the coarser level that it reads."""

    level: int
    span: Span
    source: Span


@dataclass(frozen=True)
class _KeptWeights:
    """Window weights of one level, (1, 49, H, W), and which of its rows have been computed, (H)."""

    planes: Tensor
    rows_there: Tensor


class JBUField(LinearField):
    """Features upsampled by joint bilateral doublings, guided by the pixels of the original image.

    Level 0 is the feature grid; level ``n`` has ``2 ** n`` times its rows and columns. The finest level is the first that
    reaches the output size, up to an eighth short of it; one bilinear resize follows. Stages beyond the last kernel reuse
    it. Levels and output cover the image as the grid does, and the guidance of each level is the original image
    averaged over its cells.

    Args:
        features: the map to upsample.
        image: the picture that guides.
        kernels: the window weights of the first, second, ... doubling.
        normalise: whether the guidance is normalised with the ImageNet mean and deviation (learned kernels expect that)
            or left in 0 .. 1.
        fixup: (C, C) weight and (C) bias of a last 1x1 correction, added with a weight of a tenth; it folds into projections.
        restoration: applied to the coarse map first; None for none.
        settings: the method's parameters, for exports.
    """

    method = "jbu"

    def __init__(
        self,
        features: FeatureMap,
        image: Image,
        kernels: Sequence[WindowKernel],
        *,
        normalise: bool,
        fixup: tuple[Tensor, Tensor] | None = None,
        restoration: Restoration | None = None,
        settings: dict[str, object] | None = None,
    ) -> None:
        super().__init__(features)
        self._kernels = tuple(kernels)
        self._fixup = None if fixup is None else (fixup[0].to(features.data), fixup[1].to(features.data))
        self._restoration = restoration
        self._settings = settings or {}
        self._guidance = Guidance(image, features.geometry, features.data.device, normalise=normalise)
        self._weights: dict[int, _KeptWeights] = {}
        self._corrected_source: tuple[Tensor, Tensor | None] | None = None

    @classmethod
    def classical(
        cls,
        features: FeatureMap,
        image: Image,
        *,
        sigma_spatial: float = SIGMA_SPATIAL,
        sigma_range: float = SIGMA_RANGE,
    ) -> JBUField:
        """The untrained form: Gaussian on colour differences (widths as in :class:`BilateralKernel`)."""
        kernel = BilateralKernel(sigma_spatial=sigma_spatial, sigma_range=sigma_range)
        settings: dict[str, object] = {
            "kernel": CLASSICAL,
            "sigma_spatial": sigma_spatial,
            "sigma_range": sigma_range,
        }
        return cls(features, image, [kernel], normalise=False, settings=settings)

    @classmethod
    def learned(
        cls,
        features: FeatureMap,
        image: Image,
        stack: JBUStack,
        *,
        universal: bool = False,
        restoration: Restoration | None = None,
        settings: dict[str, object] | None = None,
    ) -> JBUField:
        """The trained form. The stack is used as it is, in evaluation mode.

        Args:
            universal: use the stages alone, which serve any number of channels, and leave out the last 1x1 correction.
            restoration: as in :class:`JBUField`.
            settings: further facts about the weights, for exports.

        Raises:
            ValueError: if the stack was made for another number of channels, unless it is universal.
        """
        if not universal:
            check_channels(stack.feat_dim, features)
        stack = stack.to(features.data.device).eval()
        conv = stack.fixup_proj[1]
        assert isinstance(conv, torch.nn.Conv2d)
        assert conv.bias is not None
        fixup = None if universal else (conv.weight.detach()[:, :, 0, 0], conv.bias.detach())
        settings = {"kernel": "learned", **(settings or {})}
        return cls(
            features, image, stack.kernels, normalise=True, fixup=fixup, restoration=restoration, settings=settings
        )

    def settings(self) -> dict[str, object]:
        return dict(self._settings)

    def bytes_per_pixel(self, channels: int) -> float:
        # The finest level, the coarser ones (a third, more with their margins), and the resized result.
        return 4.0 * channels * 2.75

    def fixed_bytes(self, size: Size) -> int:
        levels = [self._level_size(level) for level in range(1, self._levels(size) + 1)]
        guidance = sum(height * width for height, width in levels) * 3 * 4
        kept = 0
        for height, width in levels:
            needed = height * width * KERNEL_SIZE**2 * ROUNDED_BYTES
            if kept + needed <= WEIGHTS_BUDGET:
                kept += needed
        return guidance + kept + size[0] * size[1] * 4

    # -- the chain -------------------------------------------------------------------------------------------------

    def _level_size(self, level: int) -> Size:
        return level_size(self.geometry.grid_hw, level)

    def _levels(self, size: Size) -> int:
        return levels_for(size, self.geometry.grid_hw)

    def _upsample(self, source: Tensor, size: Size, region: Region, progress: Progress) -> Tensor:
        level = self._levels(size)
        landing = Landing(size, region, self.geometry, level)
        steps = self._plan(level, landing.span)
        span = steps[0].source if steps else landing.span
        stacked = source[None, :, span.top : span.bottom, span.left : span.right]
        for step in steps:
            stacked = self._double(stacked, step, level, progress)
        return landing.read(stacked[0] if steps else stacked[0].clone())

    def _plan(self, level: int, span: Span) -> list[_Step]:
        """The doublings that give a span of a level, coarsest first."""
        steps: list[_Step] = []
        while level > 0:
            height, width = self._level_size(level)
            source = Span(
                *coarse_span(span.top, span.bottom, height // 2), *coarse_span(span.left, span.right, width // 2)
            )
            steps.insert(0, _Step(level, span, source))
            level, span = level - 1, source
        return steps

    def _double(self, source: Tensor, step: _Step, levels: int, progress: Progress) -> Tensor:
        """One stage (1, C, rows, columns) -> (1, C, rows, columns), in strips of rows: weights, then the guided doubling."""
        span, width = step.span, step.span.right - step.span.left
        height = span.bottom - span.top
        coarse, origin = self._level_size(step.level - 1), (step.source.top, step.source.left)
        result = empty_map(source, height, width)
        for top, bottom in strips(span.top, span.bottom, width):
            progress(f"upsampling, stage {step.level} of {levels}", top - span.top, height)
            part = Span(top, bottom, span.left, span.right)
            weights = self._window_weights(step.level, part)
            place = Place(coarse, origin, (top, span.left))
            guided_double(source, weights, place=place, out=result[:, :, top - span.top : bottom - span.top])
        return result

    # -- weights and guidance ----------------------------------------------------------------------------------------

    def _window_weights(self, level: int, span: Span) -> Tensor:
        """(1, 49, rows, columns) of a span: kept rows, or computed now, and kept if the budget allows the whole level."""
        kept = self._weights.get(level)
        height, width = self._level_size(level)
        whole_rows = span.left == 0 and span.right == width
        if kept is None and whole_rows:
            room = WEIGHTS_BUDGET - sum(other.planes.nbytes for other in self._weights.values())
            if height * width * KERNEL_SIZE**2 * ROUNDED_BYTES <= room:
                shape = (1, KERNEL_SIZE**2, height, width)
                planes = torch.empty(shape, dtype=ROUNDED, device=self.coarse.data.device)
                kept = self._weights[level] = _KeptWeights(planes, torch.zeros(height, dtype=torch.bool))
        if kept is None:
            return self._make_weights(level, span)
        part = kept.planes[:, :, span.top : span.bottom, span.left : span.right]
        there = kept.rows_there[span.top : span.bottom]
        if bool(there.all()):
            return part
        if not whole_rows:
            return self._make_weights(level, span)
        part.copy_(self._make_weights(level, span))
        there.fill_(True)
        return part

    def _make_weights(self, level: int, span: Span) -> Tensor:
        guidance = self._guidance.at(self._level_size(level))
        rows = reflect_indices(span.top - RADIUS, span.bottom + RADIUS, guidance.shape[1])
        columns = reflect_indices(span.left - RADIUS, span.right + RADIUS, guidance.shape[2])
        padded = guidance.index_select(1, rows.to(guidance.device)).index_select(2, columns.to(guidance.device))
        kernel = self._kernels[min(level, len(self._kernels)) - 1]
        return round_weights(kernel.window_weights(padded[None]))

    # -- corrections of the coarse map by the learned stack -----------------------------------------------------------------

    def _corrected(self) -> tuple[Tensor, Tensor | None]:
        if self._corrected_source is None:
            data, bias = self.coarse.data, None
            if self._restoration is not None:
                data = self._restoration(data)
            if self._fixup is not None:
                weight, offset = self._fixup
                data, bias = torch.add(data, times(weight, data), alpha=FIXUP_WEIGHT), FIXUP_WEIGHT * offset
            self._corrected_source = data, bias
        return self._corrected_source


def make_field(features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent) -> JBUField:
    """The field, for :func:`~featup_app.fields.upsample`.

    Args:
        features: the map to upsample.
        image: the picture that guides.
        options: ``upsampler`` (a loaded :class:`Upsampler` or the path of its file), or ``stack`` (a bare :class:`JBUStack`),
            or ``kernel="classical"`` for the untrained form, perhaps with ``sigma_spatial`` and ``sigma_range``. With none
            of them, :func:`~featup_app.fields.weights.choose` decides.
        progress: not called; the weights are made when a size is requested.

    Raises:
        UpsamplerError: for options that exclude each other, or weights for other channels or another backbone.
    """
    widths = {name: options[name] for name in ("sigma_spatial", "sigma_range") if name in options}
    forms = [name for name in ("upsampler", "stack", "kernel") if name in options] or list(widths)[:1]
    if len(forms) > 1:
        raise UpsamplerError(f'The options "{forms[0]}" and "{forms[1]}" of jbu exclude each other; give one of them.')
    if options.get("kernel", CLASSICAL) != CLASSICAL:
        raise UpsamplerError(
            f'The option "kernel" of jbu is "{options["kernel"]}"; the only one to choose is "{CLASSICAL}".'
        )
    if widths and forms[0] in ("upsampler", "stack"):
        raise UpsamplerError(f'Learned weights have widths of their own; leave out the option "{next(iter(widths))}".')
    for name, value in widths.items():
        if not float(value) > 0:
            raise UpsamplerError(f'The option "{name}" of jbu is {value}; it must be greater than zero.')
    if "stack" in options:
        try:
            return JBUField.learned(features, image, options["stack"])
        except ValueError as error:
            raise UpsamplerError(
                f"The upsampler does not fit: {error}. Train or load one for this backbone."
            ) from error
    upsampler = choose("jbu", features, upsampler=options.get("upsampler"), trained=forms in ([], ["upsampler"]))
    if upsampler is None:
        return JBUField.classical(features, image, **widths)
    return JBUField.learned(
        upsampler.normalised(features),
        image,
        cast(JBUStack, upsampler.on(features.data.device)),
        universal=upsampler.universal,
        restoration=upsampler.restoration,
        settings={"upsampler": upsampler.facts()},
    )
