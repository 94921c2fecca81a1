"""Losses: of views that are not reproduced, and of roughness (FeatUp section 3.1 and its supplement)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.multiview.downsamplers import gaussian_blur

SCALE_SHIFT = 0.1
SMALLEST_SCALE = 1e-4
CRF_POINTS = 1000
CRF_BILATERAL_WEIGHT = 10.0
CRF_PLACE_WIDTH = 0.2
CRF_COLOUR_WIDTH = 0.3
CRF_NEAR_WEIGHT = 3.0
CRF_NEAR_WIDTH = 0.01


class UncertaintyHead(nn.Module):
    """The scale of the error to expect at each place of a view, from the view's own coarse features.

    Where a backbone's features are unreliable, such as at high-norm tokens of a vision transformer, the scale grows and the
    view counts less. The parameters have their published names, so that state dicts load unchanged.

    Args:
        channels: C of the features, which are not projected.
        generator: draws the first weights; torch's global one if absent.
    """

    def __init__(self, channels: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.net = nn.Conv2d(channels, 1, 1)
        with torch.no_grad():
            for parameter in self.net.parameters():
                if generator is not None:
                    parameter.uniform_(-(channels**-0.5), channels**-0.5, generator=generator)
                parameter.mul_(0.1)

    def forward(self, features: Tensor) -> Tensor:
        """(C, h, w) -> (h, w), or (B, C, h, w) -> (B, 1, h, w): positive scales, in units of the features."""
        scale = torch.exp(self.net(features) + SCALE_SHIFT).clamp_min(SMALLEST_SCALE)
        return scale if features.dim() == 4 else scale[0]


def reconstruction_loss(predicted: Tensor, target: Tensor, scale: Tensor | None = None) -> Tensor:
    """The negative log-likelihood of a view's features, normal around the prediction (paper section 3.1, equation 2).

    Args:
        predicted, target: (..., C, h, w), both projected to the same directions if at all.
        scale: s of :class:`UncertaintyHead`, (h, w) or (B, 1, h, w); 1 if absent.

    Returns:
        A scalar: the mean of (predicted - target)² / (2 s²) + log s.

    Raises:
        ValueError: if prediction and target differ in shape, which would otherwise be broadcast.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"a prediction of {tuple(predicted.shape)} has no target in {tuple(target.shape)}")
    squares = (predicted - target).square()
    if scale is None:
        return squares.mean() / 2
    return (squares / (2 * scale.square()) + scale.log()).mean()


def total_variation(magnitude: Tensor) -> Tensor:
    """Squared differences of neighbours, per pixel: (..., H, W) -> a scalar. For the magnitude of the features."""
    down = (magnitude[..., 1:, :] - magnitude[..., :-1, :]).square().sum()
    right = (magnitude[..., :, 1:] - magnitude[..., :, :-1]).square().sum()
    return (down + right) / magnitude.numel()


def blur_distance(features: Tensor) -> Tensor:
    """The mean squared distance of (K, H, W) from its blurred form (5 x 5 Gaussian, deviation one pixel): a scalar.

    Added to the loss of the implicit network, so that what no view can distinguish from noise stays out (published code).

    Raises:
        ValueError: if the map is too small to be blurred.
    """
    return (gaussian_blur(features[None])[0] - features).square().mean()


def magnitude_loss(magnitude: Tensor, target: Tensor) -> Tensor:
    """The mean squared error of the downsampled magnitude against that of a view's features.

    Args:
        magnitude: (h, w) or (1, h, w), or (B, 1, h, w): ‖F‖ moved to the view and downsampled as a channel of its own, since
            the magnitude of an average is not the average magnitude.
        target: (C, h, w) or (B, C, h, w), the features of the view.
    """
    wanted = torch.linalg.vector_norm(target, dim=-3, keepdim=True)
    return F.mse_loss(magnitude.reshape(wanted.shape), wanted)


def conditional_random_field_loss(
    features: Tensor, guidance: Tensor, generator: torch.Generator, *, points: int = CRF_POINTS
) -> Tensor:
    """Features may differ only where places or colours do: squared differences between random pixels of one picture.

    Each pair counts with 10 exp(-d² / 0.2 - g² / 0.3) + 3 exp(-d² / 0.01), d the distance in units of the longer side and g that
    of the colours. The published code pairs the features of a jittered view with the colours of the picture before the
    jitter; here both must show the same.

    Args:
        features: (K, H, W) or (B, K, H, W), upsampled features of a picture, or a projection of them.
        guidance: (3, H, W) or (B, 3, H, W), ImageNet-normalised colours of the same picture at the same size.
        generator: draws the pixels, which are the same for all of a batch.
        points: how many; the cost grows with its square.

    Returns:
        A scalar, the mean over pairs and pictures.

    Raises:
        ValueError: if features and guidance differ in size.
    """
    height, width = features.shape[-2:]
    if guidance.shape[-2:] != features.shape[-2:] or guidance.dim() != features.dim():
        raise ValueError(f"features of {tuple(features.shape)} and colours of {tuple(guidance.shape)} do not pair up")
    drawn = torch.randint(height * width, (points,), generator=generator, device=generator.device).to(features.device)
    rows = torch.div(drawn, width, rounding_mode="floor")
    places = torch.stack([rows, drawn - rows * width]).to(features) / max(height, width)
    far = _squared_distances(places)
    apart = _squared_distances(guidance.flatten(-2).index_select(-1, drawn).to(features))
    weight = CRF_BILATERAL_WEIGHT * torch.exp(-far / CRF_PLACE_WIDTH - apart / CRF_COLOUR_WIDTH)
    weight = weight + CRF_NEAR_WEIGHT * torch.exp(-far / CRF_NEAR_WIDTH)
    return (weight * _squared_distances(features.flatten(-2).index_select(-1, drawn))).mean()


def random_projection(generator: torch.Generator, channels: int, directions: int) -> Tensor:
    """Random directions to measure an error in, instead of all channels: (directions, channels), rows of length 1."""
    rows = torch.randn(directions, channels, generator=generator, device=generator.device)
    return F.normalize(rows, dim=1)


def _squared_distances(vectors: Tensor) -> Tensor:
    """(..., K, N) -> (..., N, N), through scalar products: K * N² numbers are never in memory at once."""
    # Distances do not depend on the origin, and near the mean the products lose the fewest digits.
    centred = vectors - vectors.mean(dim=-1, keepdim=True)
    lengths = centred.square().sum(dim=-2)
    products = centred.transpose(-1, -2) @ centred
    return (lengths.unsqueeze(-1) + lengths.unsqueeze(-2) - 2 * products).clamp_min(0)
