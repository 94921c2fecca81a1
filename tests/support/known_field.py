"""A field of given fine features, for scores whose values are known for it."""

from __future__ import annotations

import torch

from featup_app.features import FeatureMap
from featup_app.fields.field import LinearField


class KnownField(LinearField):
    """A field of fine features (C, H, W), at their own size alone."""

    method = "known"

    def __init__(self, features: FeatureMap, fine: torch.Tensor) -> None:
        super().__init__(features)
        self._fine = fine

    def project(self, matrix, bias=None, *, size, region=None, progress=None):
        assert size == tuple(self._fine.shape[1:])
        return torch.einsum("kc,chw->khw", matrix, self._fine) + bias[:, None, None]

    def _upsample(self, source, size, region, progress):
        raise NotImplementedError

    def bytes_per_pixel(self, channels):
        return 4.0

    def settings(self):
        return {}
