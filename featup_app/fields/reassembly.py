"""Upsampling by reassembly: each fine cell is a weighted mean of the 5x5 coarse cells around it, four doublings in a row.

The common part of CARAFE and SAPA, which differ in how they compute the weights. All four children of a coarse cell read the same
window, so the sums run on the coarse grid, one for each of the four positions within a cell (*phases*), and no window is ever
unfolded.

The weights of a doubling depend on its coarse features. Those have all C channels only at the beginning: a 1x1 layer
compresses them once, and the 64 compressed channels are upsampled together with the requested channels. Weights that sum to one
commute with that layer, so this is the same as compressing the upsampled features before each doubling.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.base.progress import Progress
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.doublings import Landing, Span, level_size, levels_for, padded
from featup_app.fields.field import LinearField, check_channels
from featup_app.fields.guidance import Guidance
from featup_app.fields.network import UpsamplerNetwork
from featup_app.fields.registry import STAGES
from featup_app.images import Image
from featup_app.ops import window_sum
from featup_app.ops.layout import empty_map, in_layout
from featup_app.ops.rounding import ROUNDED, ROUNDED_BYTES, round_weights

WINDOW = 5
RADIUS = WINDOW // 2
TAPS = WINDOW**2
PHASES = 4
"""Fine cells in a coarse one: top left, top right, bottom left, bottom right."""

CARRIED = 64
"""Compressed channels that the weights are made of; the number is that of CARAFE."""

WEIGHTS_BUDGET = 2**29
"""Bytes of weights that a field keeps for the next lens; finer doublings are computed anew each time, block by block."""

_BLOCK_BYTES = 2**27
_ROWS_BYTES = 2**25
_FLOOR = 1e-3


def bilinear_logits() -> Tensor:
    """(4, 25): logarithms of the weights of a bilinear doubling, zeros raised to a thousandth.

    Training starts from a softmax of them: bilinear except for a fiftieth of the weight, which the far cells get so that all
    of them can be learned.
    """
    nearer, farther = 0.75, 0.25
    weights = torch.full((2, 2, WINDOW, WINDOW), _FLOOR)
    for row in range(2):
        for column in range(2):
            for down, down_share in ((0, nearer), (2 * row - 1, farther)):
                for right, right_share in ((0, nearer), (2 * column - 1, farther)):
                    weights[row, column, RADIUS + down, RADIUS + right] = down_share * right_share
    return weights.log().view(PHASES, TAPS)


def reassemble(source: Tensor, weights: Tensor) -> Tensor:
    """One doubling.

    Args:
        source: (B, K, h + 4, w + 4) coarse map, padded.
        weights: (B, 4, 25, h, w), for each phase one weight for each tap of the window, row by row.

    Returns:
        (B, K, 2 h, 2 w). Differentiable with respect to both.
    """
    if torch.is_grad_enabled() and (source.requires_grad or weights.requires_grad):
        phases = [window_sum(source, weights[:, phase]) for phase in range(PHASES)]
        return F.pixel_shuffle(torch.stack(phases, dim=2).flatten(1, 2), 2)
    source = in_layout(source)
    result = empty_map(source, 2 * weights.shape[-2], 2 * weights.shape[-1])
    for phase in range(PHASES):
        result[:, :, phase // 2 :: 2, phase % 2 :: 2] = window_sum(source, weights[:, phase])
    return result


class ReassemblyNetwork(UpsamplerNetwork):
    """The learned part of a reassembling upsampler.

    Args:
        feat_dim: C, channels of the features.
    """

    guided: ClassVar[bool]
    """Whether it uses the image."""

    def __init__(self, feat_dim: int) -> None:
        super().__init__(feat_dim)
        self.compressor = nn.Conv2d(feat_dim, CARRIED, 1)

    @abstractmethod
    def logits(self, stage: int, carried: Tensor, guidance: Tensor | None) -> Tensor:
        """The logits of the softmax over the window.

        Args:
            stage: of the doubling, 0 .. 3.
            carried: (B, 64, h + 4, w + 4) compressed coarse features, padded.
            guidance: (B, 3, 2 h, 2 w) image at the finer level, normalised with the ImageNet mean and deviation; may be None
                for a network that is not :attr:`guided`.

        Returns:
            (B, 4, 25, h, w).
        """

    def rescale(self, scale: float) -> None:
        with torch.no_grad():
            self.compressor.weight.div_(scale)

    def window_weights(self, stage: int, carried: Tensor, guidance: Tensor | None) -> Tensor:
        """As :meth:`logits`, positive and summing to one over the taps. Stages beyond the last reuse it."""
        return torch.softmax(self.logits(min(stage, STAGES - 1), carried, guidance), dim=2)

    def upsample(self, directions: Tensor, features: Tensor, levels: Sequence[Tensor]) -> Tensor:
        count = directions.shape[0]
        values = torch.einsum("kc,bchw->bkhw", directions, features)
        source = torch.cat([values, self.compressor(features)], dim=1)
        for stage, guidance in enumerate(levels):
            wide = F.pad(source, (RADIUS,) * 4, mode="replicate")
            weights = self.window_weights(stage, wide[:, count:], guidance)
            source = reassemble(wide if stage + 1 < len(levels) else wide[:, :count], weights)
        return source


class ReassemblyField(LinearField):
    """Features upsampled by a chain of reassemblies, as many as the output needs, and one bilinear resize at the end.

    The weights of a level are made of the features (and the image) the first time that the level is read, and kept in half
    precision as far as :data:`WEIGHTS_BUDGET` goes. A projection then costs its own K channels. Beyond the budget the
    compressed features travel along with the K channels, block by block.

    Args:
        features: the map to upsample.
        image: the picture that guides.
        network: in evaluation mode, on the device of the features.
        settings: the method's parameters, for exports.

    Raises:
        ValueError: if the network was made for another number of channels.
    """

    def __init__(
        self, features: FeatureMap, image: Image, network: ReassemblyNetwork, settings: dict[str, object]
    ) -> None:
        super().__init__(features)
        check_channels(network.feat_dim, features)
        self.method = network.method
        self._network = network
        self._settings = settings
        self._guidance = Guidance(image, features.geometry, features.data.device, normalise=True)
        self._weights: dict[int, Tensor] = {}
        self._compressed: Tensor | None = None

    def settings(self) -> dict[str, object]:
        return dict(self._settings)

    def bytes_per_pixel(self, channels: int) -> float:
        # The finest level, one phase of it, the coarser levels with their padding, and the resized result.
        return 4.0 * channels * 3.0

    def fixed_bytes(self, size: Size) -> int:
        cells = [cells_of(level_size(self.geometry.grid_hw, level)) for level in range(self._levels(size) + 1)]
        kept = sum(cells[:-1][: self._kept_levels()]) * PHASES * TAPS * ROUNDED_BYTES
        # All levels of the image, and two copies of the finest while it is normalised.
        guidance = (sum(cells[1:]) + 2 * cells[-1]) * 3 * 4 if self._network.guided else 0
        return kept + guidance + size[0] * size[1] * 4

    # -- the chain -------------------------------------------------------------------------------------------------

    def _levels(self, size: Size) -> int:
        return levels_for(size, self.geometry.grid_hw)

    def _size_of(self, level: int) -> Size:
        return level_size(self.geometry.grid_hw, level)

    def _kept_levels(self) -> int:
        """How many doublings fit into the budget with their weights, from the coarsest on."""
        level, used = 0, 0
        while True:
            used += cells_of(self._size_of(level)) * PHASES * TAPS * ROUNDED_BYTES
            if used > WEIGHTS_BUDGET:
                return level
            level += 1

    def _upsample(self, source: Tensor, size: Size, region: Region, progress: Progress) -> Tensor:
        level, count = self._levels(size), source.shape[0]
        landing = Landing(size, region, self.geometry, level)
        kept = min(level, self._kept_levels())
        self._keep(kept, level, progress)
        if kept == level:
            values = self._at(source[None], level, landing.span)[0]
            return landing.read(values if level else values.clone())
        together = torch.cat([source, self._compress()[0]])[None]
        values = empty_map(source[None], *landing.span.shape)[0]
        side = max(16, int((_BLOCK_BYTES / (4 * together.shape[1])) ** 0.5))
        blocks = list(landing.span.blocks(side))
        for number, block in enumerate(blocks):
            progress("upsampling block by block", number, len(blocks))
            block.of(values, landing.span).copy_(self._at(together, level, block)[0, :count])
        return landing.read(values)

    def _at(self, source: Tensor, level: int, span: Span) -> Tensor:
        """A span of a level: (1, K, h, w) -> (1, K, rows, columns). Without kept weights the last 64 of K are the compressed."""
        if level == 0:
            return span.of(source, Span.whole(self._size_of(0)))
        coarse, size = span.parents(), self._size_of(level - 1)
        below = coarse.widened(RADIUS, size)
        wide = padded(self._at(source, level - 1, below), below, coarse, RADIUS, size)
        if level in self._weights:
            weights = coarse.of(self._weights[level], Span.whole(size))
        else:
            weights = self._make_weights(level, wide[:, -CARRIED:], coarse)
        return span.of(reassemble(wide, weights[None]), coarse.children())

    # -- weights ---------------------------------------------------------------------------------------------------

    def _compress(self) -> Tensor:
        """(1, 64, h, w)."""
        if self._compressed is None:
            self._compressed = self._network.compressor(self.coarse.data[None])
        return self._compressed

    def _keep(self, levels: int, total: int, progress: Progress) -> None:
        """Make the weights of the first levels that are not there yet."""
        for level in range(len(self._weights) + 1, levels + 1):
            size = self._size_of(level - 1)
            shape = (PHASES, TAPS, *size)
            made = torch.empty(shape, dtype=ROUNDED, device=self.coarse.data.device)
            whole = Span.whole(size)
            rows = max(1, _ROWS_BYTES // (4 * PHASES * TAPS * size[1]))
            for top in range(0, size[0], rows):
                progress(f"looking where to read, stage {level} of {total}", top, size[0])
                strip = Span(top, min(top + rows, size[0]), 0, size[1])
                inside = strip.widened(RADIUS, size)
                wide = padded(self._at(self._compress(), level - 1, inside), inside, strip, RADIUS, size)
                strip.of(made, whole).copy_(self._make_weights(level, wide, strip))
            self._weights[level] = made

    def _make_weights(self, level: int, carried: Tensor, coarse: Span) -> Tensor:
        """(4, 25, rows, columns) in half precision for a span of the coarser level; ``carried`` is padded."""
        guidance = None
        if self._network.guided:
            size = self._size_of(level)
            guidance = coarse.children().of(self._guidance.at(size), Span.whole(size))[None]
        return round_weights(self._network.window_weights(level - 1, carried, guidance)[0])


def cells_of(size: Size) -> int:
    """Number of cells of a level of this size."""
    return size[0] * size[1]
