"""Faithfulness of a class activation map: the probability of the class on the picture, masked by its map (``lenses/masking.py``).

Notation of the papers: Y is the probability of a class on the picture, O on the picture masked by the class's map.

* Average drop (lower is better): 100 / N times the sum of max(0, Y - O) / Y.
* Average increase (higher): 100 / N times the number of pictures with O > Y (both from Chattopadhay et al. 2018, Grad-CAM++).
* Average gain (higher): 100 / N times the sum of max(0, O - Y) / (1 - Y) (Zhang et al. 2023, Opti-CAM).
* Coherency: (1 + r) / 2 for the correlation r of the map with the map of the masked picture. Complexity: mean of the mask, for a
  hard mask the share of pixels that are kept. ADCC: harmonic mean of coherency, 1 - complexity and 1 - drop (Poppi et al. 2021;
  here computed for each picture and averaged).

A protocol is a name of up to three words. ``hard`` keeps the pixels whose map is greater than zero; ``soft`` multiplies pixels by
the map over its maximum, with negative values set to zero. ``mean``: masked pixels get the colour that the normalisation turns
into zero; without it they are black, because the mask multiplies the picture before the normalisation. ``odds``: the map is
evidence for the class against the others, log(Y / (1 - Y)); without it, for the score of the class alone, as in the paper.

Why ``odds``: if the averaged features are never negative, as in EfficientNet, the map of a score is positive nearly everywhere
(on photos of CID22 a hard mask keeps 97 % of the pixels). A hard mask then hides hardly anything, and differences between methods
are random. Evidence that other classes share cancels in the odds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from featup_app.evaluation.statistics import Floats
from featup_app.lenses.masking import relative_drop


@dataclass(frozen=True)
class Confidence:
    """Confidence of a classifier on N pictures with and without masks.

    Attributes:
        whole: (N) Y, in 0 .. 1.
        masked: (N) O.
        complexity: (N) mean of the mask.
        coherency: (N) in 0 .. 1; None if it was not measured.
    """

    whole: Floats
    masked: Floats
    complexity: Floats
    coherency: Floats | None = None

    @property
    def drops(self) -> Floats:
        """(N) relative loss of confidence, in 0 .. 1; their mean in percent is the average drop."""
        return relative_drop(self.whole, self.masked)

    @property
    def increases(self) -> Floats:
        """(N) 1 where the mask made the classifier more confident, else 0."""
        return (self.masked > self.whole).astype(np.float64)

    @property
    def gains(self) -> Floats:
        """(N) gain of confidence, as a share of the greatest possible gain."""
        result: Floats = np.maximum(0.0, self.masked - self.whole) / np.maximum(1.0 - self.whole, 1e-12)
        return result

    @property
    def adcc(self) -> Floats | None:
        """(N) harmonic mean of coherency, 1 - complexity and 1 - drop, zero if one of them is zero; None without coherency."""
        if self.coherency is None:
            return None
        parts = np.stack([self.coherency, 1.0 - self.complexity, 1.0 - self.drops])
        result: Floats = np.where((parts > 0).all(0), 3.0 / (1.0 / np.maximum(parts, 1e-12)).sum(0), 0.0)
        return result


def coherency(one: Tensor, other: Tensor) -> float:
    """(1 + r) / 2 for the correlation r of the positive parts of two (H, W) maps; 0 if one of them is constant."""
    pair = torch.stack([one.flatten(), other.flatten()]).double().clamp(min=0)
    pair = pair - pair.mean(1, keepdim=True)
    lengths = pair.norm(dim=1)
    if not bool((lengths > 0).all()):
        return 0.0
    return float((1.0 + (pair[0] @ pair[1]) / (lengths[0] * lengths[1])).clamp(0.0, 2.0)) / 2.0
