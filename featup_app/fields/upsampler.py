"""Learned upsampler weights: their parts, their origin, and the features that they fit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.base.errors import UpsamplerError
from featup_app.features import FeatureMap
from featup_app.fields.registry import find_method
from featup_app.fields.restoration import Restoration

NORM_EPSILON = 1e-5
"""Of the layer norm over channels that stands between backbone and upsampler in FeatUp's training (section 3.2)."""

Norm = tuple[Tensor, Tensor]
"""Weight and bias, (C) each, of that norm."""


@dataclass(frozen=True, eq=False)
class Upsampler:
    """Trained weights of an upsampling method, and facts about them.

    Attributes:
        stack: the network of the method, in evaluation mode, on the CPU. A universal joint bilateral stack has a last
            correction for one channel, which is not used.
        channels: C that it was trained for; None for a *universal* one, whose stages serve any number of channels.
        norm: how the features are normalised over their channels before they are upsampled; None for not at all.
        restoration: applied to the coarse map before a joint bilateral stack upsamples it; None for none.
        title: its name for people.
        provenance: JSON-able facts of its training, such as ``backbone``, ``layer``, ``data``, ``created``.
        path: the file that it was read from.
        sha256: of that file.
        method: name of the upsampling method that they are for.
    """

    stack: nn.Module
    channels: int | None
    norm: Norm | None = None
    restoration: Restoration | None = None
    title: str = "upsampler"
    provenance: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    path: Path | None = None
    sha256: str = ""
    method: str = "jbu"

    @property
    def universal(self) -> bool:
        """Whether it fits the features of every backbone."""
        return self.channels is None

    def check_method(self, method: str) -> None:
        """Check that these are weights of a method.

        Raises:
            UpsamplerError: if they are those of another.
        """
        if self.method != method:
            own, asked = find_method(self.method).title, find_method(method).title
            raise UpsamplerError(
                f'The upsampler "{self.title}" holds weights for {own}, not for {asked}; choose the method {own}, or weights '
                f"for {asked}."
            )

    def check_fits(self, backbone: str | None, layer: str | None, channels: int) -> None:
        """Check that it may upsample the features of a layer; names that are None are not compared.

        Raises:
            UpsamplerError: if it was trained for another number of channels, another backbone or another layer.
        """
        if self.channels is None:
            return
        there = f"{backbone or 'this backbone'}{f', {layer},' if layer else ''}"
        if self.channels != channels:
            raise UpsamplerError(
                f'The upsampler "{self.title}" is for {self.channels} channels, but the features of {there} have '
                f"{channels}; train or load one for this backbone, or use the built-in one."
            )
        for kind, trained, given in (
            ("backbone", self.home("backbone"), backbone),
            ("layer", self.home("layer"), layer),
        ):
            if trained and given and trained != given:
                raise UpsamplerError(
                    f'The upsampler "{self.title}" was trained for the {kind} {trained}, but the features come from '
                    f"{given}; train or load one for this {kind}, or use the built-in one."
                )

    def home(self, name: str) -> str | None:
        """The one backbone or layer that the provenance names; None if it names none or several."""
        value = self.provenance.get(name)
        return value if isinstance(value, str) and value else None

    def stages_alone(self) -> Upsampler:
        """The window weights without norm, restoration and last correction: they depend on the image alone and fit all
        features."""
        return replace(self, channels=None, norm=None, restoration=None, title=f"{self.title} (stages alone)")

    def on(self, device: torch.device) -> nn.Module:
        """The stack on a device. For another device it is copied and not moved, since fields may use it."""
        here = next(self.stack.parameters()).device
        return self.stack if here == device else copy.deepcopy(self.stack).to(device)

    def normalised(self, features: FeatureMap) -> FeatureMap:
        """The features as the stack expects them: layer norm over the channels of each cell, if it was trained with that."""
        if self.norm is None:
            return features
        weight, bias = (values.to(features.data) for values in self.norm)
        cells = F.layer_norm(features.data.permute(1, 2, 0), weight.shape, weight, bias, NORM_EPSILON)
        return replace(features, data=cells.permute(2, 0, 1).contiguous(), normalised=True)

    def facts(self) -> dict[str, object]:
        """Facts about these weights for exports, JSON-able."""
        return {
            "title": self.title,
            "method": self.method,
            "file": self.path.name if self.path else None,
            "sha256": self.sha256 or None,
            "channels": self.channels,
            "channel_norm": None
            if self.norm is None
            else f"layer norm over the channels of each cell before upsampling, epsilon {NORM_EPSILON:g}",
            **({} if self.restoration is None else {"restoration": self.restoration.in_words()}),
            "fixup": self.method == "jbu" and not self.universal and _corrects(self.stack),
            "trained": dict(self.provenance),
        }


def _corrects(stack: nn.Module) -> bool:
    """Whether a joint bilateral stack has a last correction that is not zero."""
    return any(bool(value.any()) for name, value in stack.state_dict().items() if name.startswith("fixup_proj."))
