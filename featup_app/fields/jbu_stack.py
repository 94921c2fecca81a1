"""The published learned upsampler as a torch module, for training and for loading its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.fields.window_kernels import LearnedKernel, strips
from featup_app.ops.doubling import RADIUS, Place, guided_double
from featup_app.ops.layout import empty_map

FIXUP_WEIGHT = 0.1


class JBUStack(nn.Module):
    """Four learned joint bilateral doublings and a 1x1 correction: (B, C, h, w) -> (B, C, 16 h, 16 w).

    Source: FeatUp (Fu, Hamilton et al., ICLR 2024), the "JBU" variant. Parameter names are the published ones (``up1`` ..
    ``up4``, ``fixup_proj.1``), so that state dicts load unchanged. Neither keys nor features are ever unfolded.

    Args:
        feat_dim: C, channels of the features; only the last 1x1 correction depends on it.
    """

    def __init__(self, feat_dim: int) -> None:
        super().__init__()
        self.feat_dim = feat_dim
        self.up1 = LearnedKernel()
        self.up2 = LearnedKernel()
        self.up3 = LearnedKernel()
        self.up4 = LearnedKernel()
        self.fixup_proj = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(feat_dim, feat_dim, 1))

    @property
    def kernels(self) -> Sequence[LearnedKernel]:
        """The stages in order."""
        return self.up1, self.up2, self.up3, self.up4

    def upsample(self, source: Tensor, guidance: Tensor, kernel: LearnedKernel) -> Tensor:
        """One doubling: (B, C, h, w) and an image (B, 3, H, W) of any size -> (B, C, 2 h, 2 w)."""
        size = (2 * source.shape[-2], 2 * source.shape[-1])
        small = F.adaptive_avg_pool2d(guidance, size)
        padded = F.pad(small, (RADIUS, RADIUS, RADIUS, RADIUS), mode="reflect")
        if torch.is_grad_enabled():
            return guided_double(source, kernel.window_weights(padded))
        result = empty_map(source, *size)
        for top, bottom in strips(0, size[0], size[1] * source.shape[0]):
            weights = kernel.window_weights(padded[:, :, top : bottom + 2 * RADIUS])
            place = Place((source.shape[-2], source.shape[-1]), (0, 0), (top, 0))
            guided_double(source, weights, place=place, out=result[:, :, top:bottom])
        return result

    def forward(self, source: Tensor, guidance: Tensor) -> Tensor:
        """Upsample features sixteen times.

        Without gradients the window weights exist for a strip of rows at a time, and neither doubled nor padded features do.

        Args:
            source: (B, C, h, w) features, both sides at least 2.
            guidance: (B, 3, H, W) image, normalised with the ImageNet mean and standard deviation.

        Returns:
            (B, C, 16 h, 16 w).
        """
        # The 1x1 correction of the finest features commutes with the doublings, but for its bias: 256 times less work here.
        dropout, conv = self.fixup_proj
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        source = source + FIXUP_WEIGHT * F.conv2d(dropout(source), conv.weight)
        for kernel in self.kernels:
            source = self.upsample(source, guidance, kernel)
        bias = FIXUP_WEIGHT * conv.bias[:, None, None]
        return source + bias if torch.is_grad_enabled() else source.add_(bias)
