"""Attention to coarse cells as a feature field: each output pixel averages the cells around it that have its colour.

A pixel's weights over the window of coarse cells around its own cell are the softmax of
``-|colour of the pixel - mean colour of the cell|^2 / (2 colour^2) - distance^2 / (2 width^2)``, colours in CIE L*a*b* divided by
100 and distances in cells. The map is doubled until the next doubling would pass the output, and a last step goes to the output
itself, at any factor. Each step reads the cells of the level before: one mean colour describes a small cell better than a large
one. The weights are not trained, so that they serve every backbone. They are those of joint bilateral upsampling (Kopf et al.,
"Joint Bilateral Upsampling", 2007) in CIE L*a*b*; that all pixels of a cell share one window makes them an attention with
queries finer than its keys.

Averages lose contrast. Where bundled weights know the maps of a backbone and layer, their restoration
(:mod:`featup_app.fields.restoration`) makes detail larger before cells are averaged, and subtracts the positional component.
Elsewhere cells are moved by what the mean of the map over them, drawn a few times finer than the grid, lacks of their own
feature: one step of iterated back-projection (Irani and Peleg, "Improving Resolution by Image Registration", 1991), with the
same weights for every channel. Projections commute with both.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.base.errors import UpsamplerError
from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.doublings import Landing, Span, level_size
from featup_app.fields.field import LinearField, output_positions
from featup_app.fields.finer import number_above_zero
from featup_app.fields.guidance import LabGuidance
from featup_app.fields.restoration import Restoration
from featup_app.fields.weights import restoring
from featup_app.images import Image
from featup_app.ops import cell_attention

COLOUR = 0.08
"""Deviation of the Gaussian of differences of colour, in L*a*b* divided by 100."""

WIDTH = 0.8
"""Deviation of the Gaussian of distances, in cells of the level that a step reads."""

WINDOW = 5
"""Cells along a side of the window."""

LARGEST_WINDOW = 15

COARSE_CELL = 32
"""From as many pixels of the backbone's input in a cell on, maps that a lens brings to the output (:meth:`AttentionField.carry`)
are averaged over more cells: that finds regions better there. Features are not: probes of them lose."""

COARSE_WIDTH, COARSE_WINDOW = 1.5, 7

CONSISTENCY = 0.5
"""How much of what a cell's mean lacks is given back to the cell, where no restoration makes detail larger."""

POSITIONAL = 0.35
"""How much of a restoration's positional component is subtracted."""

_CONSISTENT_LEVEL = 2
"""The level whose means are compared with the cells; finer ones give the same."""

_CHANNELS_AT_ONCE = 64


class _Axis(NamedTuple):
    """One side of a step: the cell that each output line lies in, (N) int64, and its logits of distance, (N, window)."""

    cells: Tensor
    logits: Tensor


@dataclass(frozen=True)
class _Step:
    """A step that makes a part of one level or of the output.

    Attributes:
        level: that it reads.
        source: the span of that level.
        size: of the whole level or output that it makes.
        span: the part of it.
        rows, columns: where the lines of that part lie, in continuous cells of the level that is read.
        pixels: the colours at that size.
    """

    level: int
    source: Span
    size: Size
    span: Span
    rows: Tensor
    columns: Tensor
    pixels: LabGuidance


class AttentionField(LinearField):
    """Features of which each pixel averages the cells around it that are near to it in place and colour.

    The weights are positive and sum to one, so that values stay between those of the cells that are averaged, which are the
    given ones after ``restoration`` and ``consistency``. Weights are computed anew for each part of the output and not kept. A
    region equals that part of the whole.

    Args:
        features: the map to upsample.
        image: the picture that guides.
        colour: deviation of the Gaussian of differences of colour, in L*a*b* divided by 100.
        width: deviation of the Gaussian of distances, in cells of the level that a step reads.
        window: cells along a side of the window, odd.
        consistency: how much of what the mean over a cell lacks of the cell's feature is added to the cell before it is
            averaged; 0 for nothing.
        restoration: applied to the coarse map first; None for none.
        positional: how much of its positional component is subtracted, from 0 to 1.
    """

    method = "attention"

    def __init__(
        self,
        features: FeatureMap,
        image: Image,
        *,
        colour: float = COLOUR,
        width: float = WIDTH,
        window: int = WINDOW,
        consistency: float = CONSISTENCY,
        restoration: Restoration | None = None,
        positional: float = POSITIONAL,
    ) -> None:
        super().__init__(features)
        self._colour, self._width, self._window, self._consistency = colour, width, window, consistency
        self.restoration, self._positional = restoration, positional
        self._restored: Tensor | None = None
        self._values: Tensor | None = None
        self._guidance = LabGuidance(image, features.geometry, features.data.device)
        # Output pixels are in the frame of the image; only levels are read in that of the receptive fields.
        on_image = dataclasses.replace(features.geometry, offset_xy=(0.0, 0.0))
        moved = on_image != features.geometry
        self._output_guidance = LabGuidance(image, on_image, features.data.device) if moved else self._guidance

    def settings(self) -> dict[str, object]:
        return {
            "colour": self._colour,
            "width": self._width,
            "window": self._window,
            "consistency": self._consistency,
            **({} if self.restoration is None else self._restoration_facts(self.restoration)),
        }

    def _restoration_facts(self, restoration: Restoration) -> dict[str, object]:
        return {"positional": self._positional, "restoration": restoration.in_words(self._positional)}

    def bytes_per_pixel(self, channels: int) -> float:
        # The output, and the levels below it: the finest has at least a quarter of its pixels and at most as many.
        return 4.0 * channels * 2.4 + 16.0

    def fixed_bytes(self, size: Size) -> int:
        levels = [level_size(self.geometry.grid_hw, level) for level in range(self._doublings(size) + 1)]
        if self._output_guidance is self._guidance:
            return self._guidance.bytes_for([*levels, size])
        return self._guidance.bytes_for(levels) + self._output_guidance.bytes_for([size])

    def _doublings(self, size: Size) -> int:
        """Doublings before the last step, whose factor is then above one and at most two."""
        rows, columns = self.geometry.grid_hw
        factor = max(size[0] / rows, size[1] / columns)
        return max(0, math.ceil(math.log2(factor)) - 1) if factor > 1 else 0

    def carry(self, values: Tensor, *, size: Size, region: Region | None = None, progress: Progress = silent) -> Tensor:
        cells = zip(self.geometry.input_hw, self.geometry.grid_hw, strict=True)
        if max(pixels / count for pixels, count in cells) < COARSE_CELL or self._window >= COARSE_WINDOW:
            return super().carry(values, size=size, region=region, progress=progress)
        wide = copy.copy(self)
        wide._width, wide._window = max(self._width, COARSE_WIDTH), COARSE_WINDOW
        return wide.carry(values, size=size, region=region, progress=progress)

    def _no_finer(self, size: Size) -> bool:
        """Whether an output is no finer than the grid, so that there is nothing to guide."""
        rows, columns = self.geometry.grid_hw
        return size[0] <= rows and size[1] <= columns

    def _upsample(self, source: Tensor, size: Size, region: Region, progress: Progress) -> Tensor:
        if self._no_finer(size):
            landing = Landing(size, region, self.geometry, 0)
            return landing.read(landing.span.of(source, Span.whole(self.geometry.grid_hw))).clone()
        return self._along(
            source, self._plan(size, Span(region.top, region.bottom, region.left, region.right)), progress
        )

    def _along(self, source: Tensor, steps: Sequence[_Step], progress: Progress) -> Tensor:
        """(K, h, w) on the grid -> (K, ...) of the last step's span."""
        values = steps[0].source.of(source, Span.whole(self.geometry.grid_hw))[None]
        for number, step in enumerate(steps):
            progress("upsampling", number, len(steps))
            values = self._attend(values, step)
        progress("upsampling", len(steps), len(steps))
        return values[0]

    def _corrected(self) -> tuple[Tensor, Tensor | None]:
        if self.restoration is None:
            return self.coarse.data, None
        if self._restored is None:
            positional = self._positional * self.restoration.positional
            self._restored = dataclasses.replace(self.restoration, positional=positional)(self.coarse.data)
        return self._restored, None

    def _sharpened(self, low: Tensor, size: Size) -> Tensor:
        if self._consistency == 0 or self._no_finer(size):
            return low
        if low is not self._corrected()[0]:
            return self._consistent(low)
        if self._values is None:  # kept, because all channels are drawn tile by tile
            self._values = self._consistent(low)
        return self._values

    def _consistent(self, cells: Tensor) -> Tensor:
        """(C, h, w) -> the same, moved so that the mean of what is drawn over each cell is nearer to the cell's feature."""
        fine = level_size(self.geometry.grid_hw, _CONSISTENT_LEVEL)
        steps = self._steps_to(_CONSISTENT_LEVEL, Span.whole(fine))
        result = torch.empty_like(cells)
        for first in range(0, len(cells), _CHANNELS_AT_ONCE):
            own = cells[first : first + _CHANNELS_AT_ONCE]
            means = F.avg_pool2d(self._along(own, steps, silent)[None], 1 << _CONSISTENT_LEVEL)[0]
            torch.add(own, own - means, alpha=self._consistency, out=result[first : first + _CHANNELS_AT_ONCE])
        return result

    def _plan(self, size: Size, span: Span) -> list[_Step]:
        """The steps that give a part of an output, coarsest first."""
        level = self._doublings(size)
        scale = float(1 << level)
        positions = output_positions(size, Region(span.top, span.left, *span.shape), self.geometry)
        rows, columns = (lines * scale for lines in positions)
        last = self._step(level, size, span, rows, columns, self._output_guidance)
        return [*self._steps_to(level, last.source), last]

    def _steps_to(self, level: int, span: Span) -> list[_Step]:
        """The doublings that give a part of a level, coarsest first; none for the grid itself."""
        if level == 0:
            return []
        rows, columns = (
            (torch.arange(first, end, dtype=torch.float64) + 0.5) / 2
            for first, end in ((span.top, span.bottom), (span.left, span.right))
        )
        size = level_size(self.geometry.grid_hw, level)
        step = self._step(level - 1, size, span, rows, columns, self._guidance)
        return [*self._steps_to(level - 1, step.source), step]

    def _step(self, level: int, size: Size, span: Span, rows: Tensor, columns: Tensor, pixels: LabGuidance) -> _Step:
        """The step that reads a level at some of its lines, and the span of that level that it needs."""
        grid = level_size(self.geometry.grid_hw, level)
        cells = Span(*_extent(rows, grid[0]), *_extent(columns, grid[1]))
        return _Step(level, cells.widened(self._window // 2, grid), size, span, rows, columns, pixels)

    def _attend(self, values: Tensor, step: _Step) -> Tensor:
        """(1, C, ...) of the step's source -> (1, C, ...) of its span."""
        grid, source = level_size(self.geometry.grid_hw, step.level), step.source
        rows, columns = (
            self._axis(lines, length, first)
            for lines, length, first in zip((step.rows, step.columns), grid, (source.top, source.left), strict=True)
        )
        pixels = step.span.of(step.pixels.at(step.size), Span.whole(step.size))
        keys = self._keys(source.of(self._guidance.at(grid), Span.whole(grid)))[None]
        queries = torch.cat([pixels, torch.ones_like(pixels[:1])])[None]
        return cell_attention(queries, keys, values, rows.logits, columns.logits, rows.cells, columns.cells)

    def _keys(self, colours: Tensor) -> Tensor:
        """(3, rows, columns) mean colours of cells -> (4, ...), whose products with (colour, 1) of a pixel are the logits.

        ``-|q - k|^2 / 2`` is ``<q, k> - |k|^2 / 2`` but for a term that all cells of a pixel share.
        """
        return torch.cat([colours, -colours.square().sum(0, keepdim=True) / 2]) / self._colour**2

    def _axis(self, positions: Tensor, length: int, first: int) -> _Axis:
        """One side of a step: positions in cells of a level with ``length`` cells, of which the source begins at ``first``.

        The Gaussian is multiplied by a parabola that is zero at the far side of the cell beyond the window, so that nothing
        jumps where the window moves on by a cell.
        """
        device = self.coarse.data.device
        cells = _cells(positions, length)
        inside = positions.clamp(0, length)
        reach = self._window // 2
        distance = cells[:, None] + torch.arange(-reach, reach + 1) + 0.5 - inside[:, None]
        share = (1 - (distance / (reach + 0.5)).square()).clamp(min=0)
        logits = -distance.square() / (2 * self._width**2) + share.log()
        return _Axis((cells - first).to(device), logits.to(device=device, dtype=torch.float32))


def _cells(positions: Tensor, length: int) -> Tensor:
    """The cell that holds each position, int64."""
    return positions.floor().long().clamp(0, length - 1)


def _extent(positions: Tensor, length: int) -> tuple[int, int]:
    """The first cell that holds one of the ascending positions, and one past the last."""
    cells = _cells(positions, length)
    return int(cells[0]), int(cells[-1]) + 1


def make_field(
    features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent
) -> AttentionField:
    """The field, for :func:`~featup_app.fields.upsample`.

    Args:
        features: the map to upsample.
        image: the picture that guides.
        options: ``colour``, ``width``, ``window``, ``consistency``, ``restoration`` and ``positional``; see
            :class:`AttentionField`. Without ``restoration``, that of the bundled weights for the backbone and layer is applied
            (:func:`~featup_app.fields.weights.restoring`), and with 0 none. ``consistency`` is 0 if not given where a
            restoration makes detail larger, and :data:`CONSISTENCY` elsewhere.
        progress: not called; the weights are made when a size is requested.

    Raises:
        UpsamplerError: if an option is not a number in its range, or the restoration is none or for other channels.
    """
    numbers = {
        name: number_above_zero("attention", name, options.get(name, default))
        for name, default in (("colour", COLOUR), ("width", WIDTH))
    }
    window = options.get("window", WINDOW)
    if isinstance(window, bool) or window not in range(3, LARGEST_WINDOW + 1, 2):
        raise UpsamplerError(
            f'The option "window" of attention is {window}; it must be an odd number of cells from 3 to {LARGEST_WINDOW}.'
        )
    restoration = _restoration(features, options.get("restoration"))
    sharpened = restoration is not None and restoration.sharpens
    consistency = _share("consistency", options.get("consistency", 0 if sharpened else CONSISTENCY))
    return AttentionField(
        features,
        image,
        window=int(window),
        consistency=consistency,
        restoration=restoration,
        positional=_share("positional", options.get("positional", POSITIONAL)),
        **numbers,
    )


def _restoration(features: FeatureMap, given: object) -> Restoration | None:
    """The restoration that an option gives; the bundled one if it is None, and none if it is 0. Raises UpsamplerError."""
    if given is None:
        weights = restoring(features)
        return None if weights is None else weights.restoration
    if isinstance(given, int | float) and given == 0:
        return None
    if not isinstance(given, Restoration):
        raise UpsamplerError(
            f'The option "restoration" of attention is {given}; give the restoration of an upsampler, or 0 for none.'
        )
    if {*given.detail.shape, len(given.positional)} != {features.channels}:
        raise UpsamplerError(
            f'The option "restoration" of attention is for {len(given.detail)} channels, but the features have '
            f"{features.channels}; give the restoration of an upsampler for this backbone and layer, or 0 for none."
        )
    return given


def _share(name: str, value: object) -> float:
    """The value of an option from 0 to 1. Raises UpsamplerError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UpsamplerError(f'The option "{name}" of attention is {value}; it must be a number from 0 to 1.')
    return float(value)
