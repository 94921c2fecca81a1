"""Resize-convolution: bilinear doublings, each followed by a 3x3 convolution of features and image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.doublings import Landing, Span, level_size, padded
from featup_app.fields.field import FeatureField, check_channels, output_positions, times
from featup_app.fields.guidance import Guidance
from featup_app.fields.network import UpsamplerNetwork, choose_network
from featup_app.fields.registry import STAGES
from featup_app.images import Image
from featup_app.ops.resampling import bilinear

CODE = 64
"""Channels of the bottleneck in which the convolutions run."""

KERNEL = 3
RADIUS = KERNEL // 2
CODE_BUDGET = 2**28
"""Bytes of finest codes that a field keeps for the next lens; larger ones are computed anew each time, block by block."""

_BLOCK = 96
"""Side of the blocks, in finest cells."""


class ResizeConvNetwork(UpsamplerNetwork):
    """Bilinear interpolation of the features plus the output of a guided convolutional network of 64 channels.

    Source: the "resize + conv" baseline of FeatUp (Fu, Hamilton et al., ICLR 2024, section 4), in its layered, guided form: each
    doubling is bilinear, and adds a convolution of the doubled features and the image to them; all but the last end in a ReLU.
    There the convolutions keep all C channels. Here a 1x1 layer compresses the features to 64 channels first, and another one
    maps the result to C. That costs a thirtieth and makes projections cheap, since the last layer is linear.

    Nothing ties the result to the features of the cells. Trained with jittered views that disagree with each other, it shrinks
    the features towards their mean, which lowers the error and loses detail that probes need. The published baseline does the
    same.
    """

    method = "resize_conv"
    rate_factor = 0.3  # at 1 the error of the bundled EfficientNet rises at first, and 400 steps do not bring it back

    def __init__(self, feat_dim: int) -> None:
        super().__init__(feat_dim)
        self.compressor = nn.Conv2d(feat_dim, CODE, 1)
        self.convolutions = nn.ModuleList([nn.Conv2d(CODE + 3, CODE, KERNEL) for _ in range(STAGES)])
        self.decoder = nn.Conv2d(CODE, feat_dim, 1)

    def start_bilinear(self) -> None:
        with torch.no_grad():
            self.decoder.weight.zero_()
            assert self.decoder.bias is not None
            self.decoder.bias.zero_()

    def rescale(self, scale: float) -> None:
        with torch.no_grad():
            self.compressor.weight.div_(scale)
            self.decoder.weight.mul_(scale)
            assert self.decoder.bias is not None
            self.decoder.bias.mul_(scale)

    def convolve(self, stage: int, doubled: Tensor, guidance: Tensor) -> Tensor:
        """The part of one doubling after the interpolation.

        Args:
            stage: 0 .. 3.
            doubled: (B, 64, H + 2, W + 2), padded.
            guidance: (B, 3, H + 2, W + 2), padded.

        Returns:
            (B, 64, H, W).
        """
        change: Tensor = self.convolutions[stage](torch.cat([doubled, guidance], dim=1))
        if stage + 1 < STAGES:
            change = F.relu(change)
        return doubled[..., RADIUS:-RADIUS, RADIUS:-RADIUS] + change

    def decoding(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Functionals (K, C) of the added features, as functionals of the code: (K, 64) and an addend (K)."""
        assert self.decoder.bias is not None
        return directions @ self.decoder.weight[:, :, 0, 0], directions @ self.decoder.bias

    def upsample(self, directions: Tensor, features: Tensor, levels: Sequence[Tensor]) -> Tensor:
        code: Tensor = self.compressor(features)
        for stage, guidance in enumerate(levels):
            doubled = F.interpolate(code, scale_factor=2, mode="bilinear", align_corners=False)
            wide, colours = (F.pad(part, (RADIUS,) * 4, mode="replicate") for part in (doubled, guidance))
            code = self.convolve(stage, wide, colours)
        values = torch.einsum("kc,bchw->bkhw", directions, features)
        base = F.interpolate(values, tuple(code.shape[-2:]), mode="bilinear", align_corners=False)
        matrix, addend = self.decoding(directions)
        return base + torch.einsum("kc,bchw->bkhw", matrix, code) + addend[:, None, None]


NETWORK = ResizeConvNetwork
"""The class of the networks that hold trained weights of this method."""


class ResizeConvField(FeatureField):
    """Features upsampled by a guided convolutional network, as it was trained: four doublings, whatever the output.

    The code of the fourth doubling is computed once. Output pixels read it, and the features, by bilinear interpolation at their
    centres, so an output smaller than sixteen times the grid is sampled from the large one.

    Args:
        features: the map to upsample.
        image: the picture that guides.
        network: in evaluation mode, on the device of the features.
        settings: the method's parameters, for exports.

    Raises:
        ValueError: if the network was made for another number of channels.
    """

    method = "resize_conv"

    def __init__(
        self, features: FeatureMap, image: Image, network: ResizeConvNetwork, settings: dict[str, object]
    ) -> None:
        super().__init__(features)
        check_channels(network.feat_dim, features)
        self._network = network
        self._settings = settings
        self._guidance = Guidance(image, features.geometry, features.data.device, normalise=True)
        self._finest = level_size(features.geometry.grid_hw, STAGES)
        self._kept: Tensor | None = None
        self._compressed: Tensor | None = None

    def settings(self) -> dict[str, object]:
        return dict(self._settings)

    def bytes_per_pixel(self, channels: int) -> float:
        # The interpolated features and the added ones; for many channels, codes are interpolated instead of the latter.
        return 4.0 * (2.0 * channels + (CODE if channels >= CODE else 0))

    def fixed_bytes(self, size: Size) -> int:
        cells = self._finest[0] * self._finest[1]
        side = _BLOCK + 2 * RADIUS
        working = min(cells, side**2) * 4 * 4 * CODE
        return cells * 4 * (3 + (CODE if self._keeps() else 0)) + working + size[0] * size[1] * 4

    def project(
        self,
        matrix: Tensor,
        bias: Tensor | None = None,
        *,
        size: Size,
        region: Region | None = None,
        progress: Progress = silent,
    ) -> Tensor:
        self._check_matrix(matrix)
        region = Region.within(size, region)
        data = self.coarse.data
        matrix = matrix.to(data)
        with torch.no_grad():
            decoding, addend = self._network.decoding(matrix)
            if bias is not None:
                addend = addend + bias.to(data)
            return self._sum(times(matrix, data), decoding, addend, size, region, progress)

    def features(self, *, size: Size, region: Region | None = None, progress: Progress = silent) -> Tensor:
        region = Region.within(size, region)
        with torch.no_grad():
            weight, bias = self._network.decoder.weight, self._network.decoder.bias
            assert bias is not None
            return self._sum(self.coarse.data, weight[:, :, 0, 0], bias, size, region, progress)

    def _sum(
        self, low: Tensor, decoding: Tensor, addend: Tensor, size: Size, region: Region, progress: Progress
    ) -> Tensor:
        """(K, h, w) functionals, (K, 64) and (K) -> (K, region.height, region.width)."""
        result = bilinear(low, *output_positions(size, region, self.geometry))
        landing = Landing(size, region, self.geometry, STAGES)
        # Decoding and interpolation commute: the order with fewer channels to interpolate is used.
        if len(decoding) < CODE:
            added = landing.read(self._decoded(landing.span, decoding, progress))
        else:
            added = times(decoding, landing.read(self._decoded(landing.span, None, progress)))
        return result.add_(added).add_(addend[:, None, None])

    # -- codes -----------------------------------------------------------------------------------------------------

    def _keeps(self) -> bool:
        return self._finest[0] * self._finest[1] * CODE * 4 <= CODE_BUDGET

    def _decoded(self, span: Span, decoding: Tensor | None, progress: Progress) -> Tensor:
        """(K, rows, columns) functionals (K, 64) of the codes of the finest level; the codes themselves without any."""
        whole = Span.whole(self._finest)
        if not self._keeps():
            return self._made(span, decoding, progress)
        if self._kept is None:
            self._kept = self._made(whole, None, progress)
        code = span.of(self._kept, whole)
        return code if decoding is None else times(decoding, code)

    def _made(self, span: Span, decoding: Tensor | None, progress: Progress) -> Tensor:
        """As :meth:`_decoded`, always computed."""
        count = CODE if decoding is None else len(decoding)
        result = self.coarse.data.new_empty((count, *span.shape))
        blocks = list(span.blocks(_BLOCK))
        for number, block in enumerate(blocks):
            progress("upsampling block by block", number, len(blocks))
            code = self._at(STAGES, block)[0]
            block.of(result, span).copy_(code if decoding is None else times(decoding, code))
        return result

    def _at(self, level: int, span: Span) -> Tensor:
        """(1, 64, rows, columns) of a level."""
        if level == 0:
            if self._compressed is None:
                self._compressed = self._network.compressor(self.coarse.data[None])
            return span.of(self._compressed, Span.whole(self.geometry.grid_hw))
        size, coarse_size = (level_size(self.geometry.grid_hw, number) for number in (level, level - 1))
        wide = span.widened(RADIUS, size)
        below = wide.parents().widened(1, coarse_size)
        rows, columns = (
            (torch.arange(begin, end, dtype=torch.float64) + 0.5) / 2 - origin
            for begin, end, origin in ((wide.top, wide.bottom, below.top), (wide.left, wide.right, below.left))
        )
        doubled = bilinear(self._at(level - 1, below)[0], rows, columns)[None]
        guidance = wide.of(self._guidance.at(size), Span.whole(size))[None]
        parts = (padded(part, wide, span, RADIUS, size) for part in (doubled, guidance))
        return self._network.convolve(level - 1, *parts)


def make_field(
    features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent
) -> ResizeConvField:
    """The field, for :func:`~featup_app.fields.upsample`.

    Args:
        features: the map to upsample.
        image: the picture that guides.
        options: as :func:`~featup_app.fields.network.choose_network` takes them.
        progress: not called; the codes are made when a size is requested.

    Raises:
        UpsamplerError: for weights of another method, backbone or number of channels.
    """
    chosen = choose_network(ResizeConvNetwork, features, options)
    return ResizeConvField(chosen.features, image, chosen.network, chosen.settings)
