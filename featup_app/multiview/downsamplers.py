"""Learned downsamplers: how a coarse map came to be from the fine one that is looked for (FeatUp section 3.2).

Both average each patch of the fine map with weights that all channels share, so they commute with projections of the channels:
a caller may downsample K projected channels instead of C.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.features import Size
from featup_app.multiview.jitter import Jitter
from featup_app.multiview.look_up import sampled_views
from featup_app.multiview.patches import patch_sum, patches
from featup_app.multiview.view_patches import weighted_views

BLUR_RADIUS = 2
BLUR_SIGMA = 1.0
CHANNEL_DROPOUT = 0.2
PATCH_DROPOUT = 0.2


class BlurDownsampler(nn.Module):
    """One learned, non-negative kernel for every patch and channel (the paper's simple downsampler).

    The parameter has its published name, so that state dicts load unchanged.

    Args:
        kernel_size: k, side of a patch in pixels of the fine map.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.kernel_params = nn.Parameter(torch.ones(kernel_size, kernel_size))

    def kernel(self) -> Tensor:
        """The weights of a patch: (k, k), none negative, their sum 1."""
        positive = self.kernel_params.abs()
        return positive / positive.sum()

    def of_views(self, features: Tensor, jitters: Sequence[Jitter], view_hw: Size, grid_hw: Size) -> Tensor:
        """What the patches of some views average of a map, equal to :meth:`forward` of the views, without drawing them.

        Args:
            features: (C, H, W), a map over the whole picture.
            jitters: V views.
            view_hw: pixels of a view.
            grid_hw: (n_h, n_w) patches of each.

        Returns:
            (V, C, n_h, n_w).
        """
        weights = self.kernel().expand(len(jitters), *grid_hw, -1, -1)
        return weighted_views(features, jitters, weights, view_hw)

    def forward(self, features: Tensor, grid_hw: Size) -> Tensor:
        """(C, H, W) or (B, C, H, W) -> the same with (n_h, n_w) for (H, W).

        Raises:
            ValueError: if the patches are larger than the map.
        """
        batch = _batched(features)
        weights = self.kernel().expand(len(batch), *grid_hw, -1, -1)
        return patch_sum(batch, weights).view(*features.shape[:-2], *grid_hw)


class AttentionDownsampler(nn.Module):
    """Weights that depend on the features: a softmax over each patch of a learned saliency (the paper's attention form).

    The published form blurs all features and cuts them into patches. The blur is folded into the weights instead, which is the
    same sum, and nothing is cut out. In training mode, and only there, a fifth of the channels is dropped from the saliency,
    the same for all pixels of a call, and a random fifth of the patches falls back to the weights that know no saliency; the
    randomness comes from the generator given to the call, or else from torch's global one, which the caller seeds.

    Parameters have their published names, so that state dicts load unchanged: ``w`` and ``b`` scale and shift the saliency at
    each tap, ``attention_net.1`` is the linear saliency.

    Args:
        channels: C of the features.
        kernel_size: k, side of a patch in pixels of the fine map.
        generator: draws the small deviations that the taps start from; torch's global one if absent.
    """

    def __init__(self, channels: int, kernel_size: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_size = kernel_size
        self.attention_net = nn.Sequential(nn.Dropout(CHANNEL_DROPOUT), nn.Linear(channels, 1))
        taps = kernel_size, kernel_size
        self.w = nn.Parameter(1 + 0.01 * torch.randn(taps, generator=generator))
        self.b = nn.Parameter(0.01 * torch.randn(taps, generator=generator))
        if generator is not None:
            bound = channels**-0.5
            for parameter in self._linear.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    @property
    def _linear(self) -> nn.Linear:
        linear = self.attention_net[1]
        assert isinstance(linear, nn.Linear)
        return linear

    def saliency_direction(self, generator: torch.Generator | None = None) -> Tensor:
        """(C), the functional of the features that is their saliency but for a constant, which :meth:`weights` adds.

        A caller that upsamples K projected channels appends this row to the projection and gives the resulting channel to
        :meth:`forward`. In training mode each call drops a random fifth of the channels.
        """
        weight = self._linear.weight[0]
        if not self.training:
            return weight
        kept = _chance((self.channels,), generator, weight.device) >= CHANNEL_DROPOUT
        return weight * (kept / (1 - CHANNEL_DROPOUT))

    def saliency(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(C, H, W) or (B, C, H, W) of all channels -> the same with one channel: their :meth:`saliency_direction`.

        Raises:
            ValueError: if the features do not have C channels.
        """
        if features.shape[-3] != self.channels:
            raise ValueError(
                f"the saliency reads {self.channels} channels and the features have {features.shape[-3]}; "
                "give the saliency of projected features"
            )
        return torch.einsum("c,...chw->...hw", self.saliency_direction(generator), features).unsqueeze(-3)

    def weights(self, saliency: Tensor, grid_hw: Size, *, generator: torch.Generator | None = None) -> Tensor:
        """The attention that each patch of the blurred features gets.

        Args:
            saliency: (1, H, W) or (B, 1, H, W) as :meth:`saliency` gives it, not blurred.
            grid_hw: (n_h, n_w) patches.

        Returns:
            (n_h, n_w, k, k) or (B, n_h, n_w, k, k); each patch sums to 1.

        Raises:
            ValueError: if the patches are larger than the map.
        """
        planes = _with_border(_batched(saliency))[:, 0]
        blur = _blur_matrix(self.kernel_size, planes)
        salient = blur.T @ patches(planes, len(blur), grid_hw) @ blur + self._linear.bias
        if self.training:
            kept = _chance((len(planes), *grid_hw), generator, planes.device) >= PATCH_DROPOUT
            salient = salient * kept[..., None, None]
        logits = salient * self.w + self.b
        weights = logits.flatten(-2).softmax(-1).view_as(logits)
        return weights if saliency.dim() == 4 else weights[0]

    def forward(
        self,
        features: Tensor,
        grid_hw: Size,
        saliency: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Downsample features, or any projection of them.

        Args:
            features: (K, H, W) or (B, K, H, W); K is C if no saliency is given.
            grid_hw: (n_h, n_w) of the result.
            saliency: (1, H, W) or (B, 1, H, W), not blurred; computed from the features if absent.
            generator: for training mode.

        Returns:
            (K, n_h, n_w) or (B, K, n_h, n_w).

        Raises:
            ValueError: if the patches are larger than the map, or the saliency cannot be computed from K channels.
        """
        if saliency is None:
            saliency = self.saliency(features, generator)
        batch = _batched(features)
        spread = self._spread(self.weights(_batched(saliency), grid_hw, generator=generator).to(batch))
        return patch_sum(_with_border(batch), spread).view(*features.shape[:-2], *grid_hw)

    def of_views(
        self,
        features: Tensor,
        jitters: Sequence[Jitter],
        view_hw: Size,
        grid_hw: Size,
        *,
        channels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What the patches of some views average of a map, equal to :meth:`forward` of the views, without drawing them.

        In training mode each view drops channels and patches of its own.

        Args:
            features: (C, H, W), a map over the whole picture, which the saliency is read from.
            jitters: V views.
            view_hw: pixels of a view.
            grid_hw: (n_h, n_w) patches of each.
            channels: (K, H, W), what is downsampled; the features, if not given.
            generator: for training mode.

        Returns:
            (V, K, n_h, n_w).
        """
        directions = torch.stack([self.saliency_direction(generator) for _ in jitters])
        planes = (directions @ features.flatten(1)).view(len(jitters), 1, *features.shape[1:])
        seen = [sampled_views(plane, [jitter], view_hw)[0] for plane, jitter in zip(planes, jitters, strict=True)]
        spread = self._spread(self.weights(torch.stack(seen), grid_hw, generator=generator))
        shown = features if channels is None else channels
        return weighted_views(shown, jitters, spread, view_hw, border=BLUR_RADIUS)

    def _spread(self, weights: Tensor) -> Tensor:
        """Averaging blurred pixels is averaging pixels with blurred weights, which are one channel: (..., k, k) -> k + 4."""
        blur = _blur_matrix(self.kernel_size, weights)
        return blur @ weights @ blur.T


def gaussian_blur(planes: Tensor) -> Tensor:
    """(B, C, H, W) blurred by the Gaussian of the attention downsampler, the edges mirrored.

    Raises:
        ValueError: if the map is too small to be mirrored.
    """
    blurred = _with_border(planes)
    profile = _blur_matrix(1, planes)[:, 0].tolist()
    for side in (-2, -1):
        length = planes.shape[side]
        parts = [weight * blurred.narrow(side, tap, length) for tap, weight in enumerate(profile)]
        blurred = torch.stack(parts).sum(0)
    return blurred


def _batched(features: Tensor) -> Tensor:
    return features if features.dim() == 4 else features[None]


def _with_border(planes: Tensor) -> Tensor:
    """Mirror the pixels beyond the edges that the blur reads: (B, C, H, W) -> (B, C, H + 4, W + 4)."""
    if min(planes.shape[-2:]) <= BLUR_RADIUS:
        raise ValueError(f"a map of {tuple(planes.shape[-2:])} is too small to be blurred")
    return F.pad(planes, [BLUR_RADIUS] * 4, mode="reflect")


def _blur_matrix(size: int, like: Tensor) -> Tensor:
    """The Gaussian blur along one side of a patch, (k + 4, k), of the type and device of ``like``.

    From the left it spreads the weights of k pixels over the k + 4 that their blurred values are made of; transposed, it
    blurs k + 4 pixels to k.
    """
    pixels = torch.arange(size + 2 * BLUR_RADIUS, dtype=torch.float64)
    places = pixels[:, None] - pixels[:size] - BLUR_RADIUS
    profile = torch.exp(-0.5 * (places / BLUR_SIGMA).square()) * (places.abs() <= BLUR_RADIUS)
    return (profile / profile.sum(dim=0)).to(like)


def _chance(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Uniform numbers in 0 .. 1, drawn where the generator lives."""
    drawn_on = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=drawn_on).to(device)
