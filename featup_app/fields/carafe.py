"""CARAFE: content-aware reassembly of features, with weights that the features themselves predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap
from featup_app.fields.network import choose_network
from featup_app.fields.reassembly import (
    CARRIED,
    PHASES,
    RADIUS,
    TAPS,
    ReassemblyField,
    ReassemblyNetwork,
    bilinear_logits,
)
from featup_app.fields.registry import STAGES
from featup_app.images import Image

ENCODER = 3
"""Side of the window that the weights are predicted from."""


class CarafeNetwork(ReassemblyNetwork):
    """Four doublings whose weights are predicted by a 3x3 convolution of the compressed coarse features.

    Source: Wang et al., "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019, sections 3.2 and 3.3, with its sizes: 64
    compressed channels, a 3x3 encoder, reassembly over 5x5 cells. The image is not used. Three things differ. The features
    are compressed once and not before each doubling (see :mod:`featup_app.fields.reassembly`). The map is padded
    with its outermost cells instead of zeros, which would darken the border. The start is bilinear interpolation
    instead of the mean over the window.
    """

    method = "carafe"
    guided = False

    def __init__(self, feat_dim: int) -> None:
        super().__init__(feat_dim)
        self.encoders = nn.ModuleList([nn.Conv2d(CARRIED, PHASES * TAPS, ENCODER) for _ in range(STAGES)])

    def logits(self, stage: int, carried: Tensor, guidance: Tensor | None) -> Tensor:
        margin = RADIUS - ENCODER // 2
        window = F.pad(carried, (-margin,) * 4)
        predicted: Tensor = self.encoders[stage](window)
        batch, _, height, width = predicted.shape
        return predicted.view(batch, PHASES, TAPS, height, width)

    def start_bilinear(self) -> None:
        with torch.no_grad():
            for encoder in self.encoders:
                assert isinstance(encoder, nn.Conv2d)
                assert encoder.bias is not None
                encoder.weight.zero_()
                encoder.bias.copy_(bilinear_logits().flatten())


NETWORK = CarafeNetwork
"""The class of the networks that hold trained weights of this method."""


def make_field(
    features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent
) -> ReassemblyField:
    """The field, for :func:`~featup_app.fields.upsample`.

    Args:
        features: the map to upsample.
        image: the picture that the features were made of; its pixels are not read.
        options: as :func:`~featup_app.fields.network.choose_network` takes them.
        progress: not called; the weights are made when a size is requested.

    Raises:
        UpsamplerError: for weights of another method, backbone or number of channels.
    """
    chosen = choose_network(CarafeNetwork, features, options)
    return ReassemblyField(chosen.features, image, chosen.network, chosen.settings)
