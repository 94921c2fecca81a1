"""Maps of evidence from gradients and activations: one map for each thing that is explained.

Notation: A is a layer's map, (C, h, w), and G the gradient of what is explained with respect to it.

* Grad-CAM (Selvaraju et al. 2017): sum over channels of A times the mean of G over positions.
* HiResCAM (Draelos and Carin 2020): sum over channels of G times A, position by position. Equal to Grad-CAM, and but for a
  factor to CAM, where a linear layer reads the average of the map, since G is the same at all positions there.
* LayerCAM (Jiang et al. 2021): positive part of the sum over channels of A times the positive part of G.
* EigenCAM (Muhammad and Yeasin 2020): A seen along its first right singular vector, the direction that most of the map's energy
  has; nothing is subtracted before, and no class and no gradient is used. The sign of a singular vector is free: here the mean
  of the map is positive.

Grad-CAM and EigenCAM are one weight for each channel, so they act on the upsampled features. HiResCAM and LayerCAM have other
weights at each cell: they are computed on the grid, and the field brings the finished map to the output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Size
from featup_app.fields.attention import AttentionField
from featup_app.fields.field import FeatureField, LinearField
from featup_app.lenses.asked_views import asked_field


def gradcam_weights(gradients: Sequence[Tensor]) -> Tensor:
    """K gradients (C, h, w) -> (K, C) weights of the channels."""
    return torch.stack([gradient.mean(dim=(1, 2)) for gradient in gradients])


def hirescam(features: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """(C, h, w) map and K gradients of its shape -> (K, h, w)."""
    return torch.stack([(gradient * features).sum(0) for gradient in gradients])


def layercam(features: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """(C, h, w) map and K gradients of its shape -> (K, h, w), never negative."""
    return torch.stack([(gradient.clamp(min=0) * features).sum(0).clamp(min=0) for gradient in gradients])


def eigencam_weights(features: Tensor) -> Tensor:
    """(C, h, w) map -> (1, C), of length 1."""
    flat = features.flatten(1).double()
    direction = torch.linalg.eigh(flat @ flat.T)[1][:, -1]
    sign = torch.where(direction @ flat.mean(1) < 0, -1.0, 1.0)
    weights: Tensor = (sign * direction)[None].to(features)
    return weights


def carried(
    field: FeatureField, features: FeatureMap, cells: Tensor, *, size: Size, progress: Progress = silent
) -> Tensor:
    """Maps on the grid at the output size: (K, h, w) -> (K, H, W).

    A field that is no linear function of its coarse map has no weights of its own for that: a fit lends those of its base field,
    and for the others attention brings the map up.
    """
    base = asked_field(field)
    carrier = base if isinstance(base, LinearField) else AttentionField(features, features.image)
    return carrier.carry(cells, size=size, progress=progress)
