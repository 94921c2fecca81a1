"""The base class of the trained upsamplers other than the joint bilateral stack, and the network of a field."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.base.errors import UpsamplerError
from featup_app.features import FeatureMap
from featup_app.fields.registry import STAGES
from featup_app.fields.weights import choose


class UpsamplerNetwork(nn.Module, ABC):
    """A network that upsamples the features of one backbone and layer, sixteen times in four doublings.

    Args:
        feat_dim: C, channels of the features.
    """

    method: ClassVar[str]
    """Registered name of the upsampling method."""

    rate_factor: ClassVar[float] = 1.0
    """Factor of the learning rate in the recipe."""

    def __init__(self, feat_dim: int) -> None:
        super().__init__()
        self.feat_dim = feat_dim

    @abstractmethod
    def start_bilinear(self) -> None:
        """Set the parameters to bilinear interpolation, as a start from which it can learn.

        Parameters without influence on the result keep their values.
        """

    @abstractmethod
    def rescale(self, scale: float) -> None:
        """Convert a network for features that were divided by ``scale`` into one for the features themselves."""

    @abstractmethod
    def upsample(self, directions: Tensor, features: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Linear functionals of the upsampled features, differentiable, at a cost that grows with K and not with C.

        Args:
            directions: (K, C), the functionals.
            features: (B, C, h, w).
            levels: the image at the size of each of the four doublings, (B, 3, 2 h, 2 w) to (B, 3, 16 h, 16 w), normalised
                with the ImageNet mean and deviation.

        Returns:
            (B, K, 16 h, 16 w).
        """

    def forward(self, source: Tensor, guidance: Tensor) -> Tensor:
        """Upsample features sixteen times.

        Args:
            source: (B, C, h, w) features.
            guidance: (B, 3, H, W) image of any size, normalised with the ImageNet mean and standard deviation.

        Returns:
            (B, C, 16 h, 16 w).
        """
        height, width = source.shape[-2:]
        levels = [F.adaptive_avg_pool2d(guidance, (height << n, width << n)) for n in range(1, STAGES + 1)]
        return self.upsample(torch.eye(self.feat_dim).to(source), source, levels)


Network = TypeVar("Network", bound=UpsamplerNetwork)


@dataclass(frozen=True)
class Chosen(Generic[Network]):
    """The parts of a field.

    Attributes:
        network: in evaluation mode, on the device of the features.
        features: as the network expects them.
        settings: JSON-able, for exports.
    """

    network: Network
    features: FeatureMap
    settings: dict[str, object]


def choose_network(kind: type[Network], features: FeatureMap, options: Mapping[str, Any]) -> Chosen[Network]:
    """The network of the given weights, of the bundled ones for these features, or the untrained one.

    Args:
        kind: of the method.
        features: to upsample.
        options: ``upsampler`` (a loaded :class:`Upsampler` or the path of its file), or ``trained=False`` for the untrained
            form, which is bilinear interpolation or close to it.

    Raises:
        UpsamplerError: for weights of another method, backbone, layer or number of channels, or if both options are given.
    """
    trained = options.get("trained", True)
    if not isinstance(trained, bool):
        raise UpsamplerError(f'The option "trained" of {kind.method} is "{trained}"; it is True or False.')
    given = options.get("upsampler")
    if given is not None and not trained:
        raise UpsamplerError(
            f'The option "upsampler" of {kind.method} names trained weights; leave it out, or "trained=False".'
        )
    upsampler = choose(kind.method, features, upsampler=given, trained=trained)
    device = features.data.device
    if upsampler is None:
        settings: dict[str, object] = {"weights": "untrained: as bilinear interpolation, from which training starts"}
        return Chosen(untrained(kind, features.channels).to(device), features, settings)
    network = cast(Network, upsampler.on(device))
    return Chosen(network, upsampler.normalised(features), {"upsampler": upsampler.facts()})


def untrained(kind: type[Network], feat_dim: int) -> Network:
    """The network that interpolates bilinearly; draws no random numbers."""
    with torch.device("meta"):
        network = kind(feat_dim)
    network = network.to_empty(device="cpu")
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    network.start_bilinear()
    return network.eval().requires_grad_(False)
