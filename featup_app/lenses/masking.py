"""Pictures masked by a map of a class, and what the classifier makes of them. Imports no torch by itself.

The average drop (Chattopadhay et al. 2018, Grad-CAM++) is the share of a class's probability that is lost when the picture is
multiplied by the class's map: 0 if the map keeps all that the classifier needs. :mod:`featup_app.evaluation.explanations`
averages it over pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featup_app.images import Image, image_from_array

if TYPE_CHECKING:
    from torch import Tensor

    from featup_app.backbones import Backbone

BLACK = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class MaskedProbability:
    """Probability of a class on the whole picture, and on the picture multiplied by the positive part of a map."""

    whole: float
    masked: float

    @property
    def drop(self) -> float:
        """The share that is lost, 0 .. 1."""
        return float(relative_drop(np.array(self.whole), np.array(self.masked)))


def relative_drop(whole: NDArray[np.float64], masked: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of probabilities that is lost by masking, 0 where they rise: max(0, whole - masked) / whole."""
    result: NDArray[np.float64] = np.maximum(0.0, whole - masked) / np.maximum(whole, 1e-12)
    return result


def masked_probability(
    backbone: Backbone, image: Image, index: int, values: Tensor, *, size: str | None = None
) -> MaskedProbability:
    """The probability of a class on a picture with and without a mask, both in 8 bits and at the size of the classifier.

    Args:
        backbone: with a head.
        image: the picture.
        index: of the class.
        values: (H, W) map of any size; :func:`mask_of` makes the mask, and what is masked becomes black.
        size: input size as a person writes it; None for the size at which the head was trained.

    Raises:
        BackboneError: if the backbone has no head.
    """
    import torch.nn.functional as F

    picture = picture_for_classifier(backbone, image, size)
    mask = mask_of(values, hard=False)[None, None]
    mask = F.interpolate(mask, size=picture.size_hw, mode="bilinear", align_corners=False, antialias=True)[0, 0]
    masked = masked_picture(picture, mask.clamp(0, 1), BLACK)
    return MaskedProbability(*(probability(backbone, each, index) for each in (picture, masked)))


def mask_of(values: Tensor, *, hard: bool) -> Tensor:
    """(H, W) class evidence -> (H, W) float32 mask in 0 .. 1; all zeros if no pixel is evidence for the class."""
    positive = values.float().clamp(min=0)
    if hard:
        return (positive > 0).float()
    return positive / positive.max().clamp(min=1e-30)


def masked_picture(picture: Image, mask: Tensor, fill: Sequence[float]) -> Image:
    """The picture times the mask, plus the fill times 1 - mask, in 8 bits.

    Args:
        picture: (H, W).
        mask: (H, W) in 0 .. 1.
        fill: colour of fully masked pixels, three numbers in 0 .. 1.
    """
    kept = mask.cpu().numpy().astype(np.float64)[:, :, None]
    pixels = picture.pixels * kept + 255.0 * np.asarray(fill) * (1.0 - kept)
    return image_from_array(np.rint(pixels).astype(np.uint8), name=picture.name)


def picture_for_classifier(backbone: Backbone, image: Image, size: str | None) -> Image:
    """The whole image at the given input size of the classifier, in 8 bits; at the size it was trained for if None."""
    pixels = backbone.resized(image, size, default=backbone.class_size)
    import torch

    values = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    return image_from_array(values, name=image.name)


def probability(backbone: Backbone, picture: Image, index: int) -> float:
    """Probability of a class on a picture that already has the size of the input.

    Raises:
        BackboneError: if the backbone has no head.
    """
    import torch

    return float(torch.softmax(backbone.logits(picture, size=picture.size_hw).double(), dim=0)[index])
