"""Class activation maps: where in the image a class finds its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.features import Size
from featup_app.fields.field import FeatureField


@dataclass(frozen=True)
class ClassScore:
    """One class of an image: its index in the head, its name, and its probability (softmax over all classes)."""

    index: int
    name: str
    probability: float


def top_classes(logits: Tensor, names: Sequence[str], count: int = 5) -> list[ClassScore]:
    """The most probable classes: (classes) logits -> scores, best first."""
    probabilities = torch.softmax(logits.float(), dim=0)
    best = torch.topk(probabilities, min(count, len(names)))
    return [ClassScore(int(i), names[int(i)], float(p)) for p, i in zip(best.values, best.indices, strict=True)]


def cam(field: FeatureField, weights: Tensor, *, size: Size, progress: Progress = silent) -> Tensor:
    """Class evidence at each output pixel: the class's weights times the upsampled features.

    Sources: CAM (Zhou et al. 2016) when the weights are a linear head's rows; Grad-CAM (Selvaraju et al. 2017) when they are
    mean gradients. Upsampled through the field like everything else; negative evidence is kept and only pictures clip it.

    Args:
        field: of the layer that the weights belong to.
        weights: (K, C), one row for each class, from ``Backbone.class_weights``.
        size: (H, W) of the output.

    Returns:
        (K, H, W) float32.
    """
    return field.project(weights, size=size, progress=progress)
