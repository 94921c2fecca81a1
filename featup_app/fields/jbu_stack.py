"""The published learned upsampler as a torch module, for training and for loading its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.fields.window_kernels import RADIUS, LearnedKernel
from featup_app.ops import window_sum

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
        padding = (RADIUS, RADIUS, RADIUS, RADIUS)
        small = F.adaptive_avg_pool2d(guidance, size)
        weights = kernel.window_weights(F.pad(small, padding, mode="reflect"))
        doubled = F.interpolate(source, size, mode="bicubic", align_corners=False)
        return window_sum(F.pad(doubled, padding, mode="reflect"), weights)

    def forward(self, source: Tensor, guidance: Tensor) -> Tensor:
        """Upsample features sixteen times.

        Args:
            source: (B, C, h, w) features, both sides at least 2.
            guidance: (B, 3, H, W) image, normalised with the ImageNet mean and standard deviation.

        Returns:
            (B, C, 16 h, 16 w).
        """
        for kernel in self.kernels:
            source = self.upsample(source, guidance, kernel)
        corrected: Tensor = source + FIXUP_WEIGHT * self.fixup_proj(source)
        return corrected
