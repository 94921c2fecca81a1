"""SAPA: similarity-aware point affiliation, where each fine point reads the coarse features that match its colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap
from featup_app.fields.network import choose_network
from featup_app.fields.reassembly import (
    CARRIED,
    PHASES,
    TAPS,
    WINDOW,
    ReassemblyField,
    ReassemblyNetwork,
    bilinear_logits,
)
from featup_app.fields.registry import STAGES
from featup_app.images import Image
from featup_app.ops import window_dot

EMBEDDING = 32
"""Dimensions of the space in which colours and features are compared."""


class SapaNetwork(ReassemblyNetwork):
    """Four doublings whose weights are inner products of an embedded colour with the embedded features of the 5x5 cells.

    Source: Lu et al., "SAPA: Similarity-Aware Point Affiliation for Feature Upsampling", NeurIPS 2022, section 4 (the form
    with a low-rank bilinear inner product). Guidance is the image, as in FeatUp's comparison, and its colours are embedded by a
    small network of each pixel, since a linear map of three numbers carries little. Two more things differ: the products
    are added to logits for the distance, which start as bilinear interpolation, where the published form begins with the mean
    over the window; and the features are compressed once instead of normalised before each doubling
    (see :mod:`featup_app.fields.reassembly`).
    """

    method = "sapa"
    guided = True

    def __init__(self, feat_dim: int) -> None:
        super().__init__(feat_dim)
        self.queries = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3, EMBEDDING, 1), nn.GELU(), nn.Conv2d(EMBEDDING, EMBEDDING, 1))
                for _ in range(STAGES)
            ]
        )
        self.keys = nn.ModuleList([nn.Conv2d(CARRIED, EMBEDDING, 1) for _ in range(STAGES)])
        self.distance = nn.Parameter(torch.zeros(STAGES, PHASES, TAPS))

    def logits(self, stage: int, carried: Tensor, guidance: Tensor | None) -> Tensor:
        assert guidance is not None
        # Channels last: the window operator reads each embedding from contiguous memory.
        queries = self.queries[stage](guidance).contiguous(memory_format=torch.channels_last)
        keys = self.keys[stage](carried).contiguous(memory_format=torch.channels_last) * EMBEDDING**-0.5
        products = [window_dot(keys, queries[:, :, phase // 2 :: 2, phase % 2 :: 2], WINDOW) for phase in range(PHASES)]
        return torch.stack(products, dim=1) + self.distance[stage][:, :, None, None]

    def start_bilinear(self) -> None:
        with torch.no_grad():
            self.distance.copy_(bilinear_logits().expand(STAGES, -1, -1))
            for query in self.queries:
                assert isinstance(query, nn.Sequential)
                last = query[2]
                assert isinstance(last, nn.Conv2d)
                assert last.bias is not None
                last.weight.zero_()
                last.bias.zero_()


NETWORK = SapaNetwork
"""The class of the networks that hold trained weights of this method."""


def make_field(
    features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent
) -> ReassemblyField:
    """The field, for :func:`~featup_app.fields.upsample`.

    Args:
        features: the map to upsample.
        image: the picture that guides.
        options: as :func:`~featup_app.fields.network.choose_network` takes them.
        progress: not called; the weights are made when a size is requested.

    Raises:
        UpsamplerError: for weights of another method, backbone or number of channels.
    """
    chosen = choose_network(SapaNetwork, features, options)
    return ReassemblyField(chosen.features, image, chosen.network, chosen.settings)
