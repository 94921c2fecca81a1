"""The upsampler of each method behind one small interface for the trainer."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from featup_app.base.errors import UpsamplerError
from featup_app.fields.jbu_stack import FIXUP_WEIGHT, JBUStack
from featup_app.fields.network import UpsamplerNetwork
from featup_app.fields.registry import find_method
from featup_app.fields.restoration import Restoration
from featup_app.fields.upsampler_files import network_class
from featup_app.ops.doubling import RADIUS
from featup_app.training.chain import learned_weights, upsample
from featup_app.training.classical_start import start_classical
from featup_app.training.recipes import Recipe

Group = tuple[str, float, list[nn.Parameter]]
"""Name, learning rate and parameters of a part."""


class Learner(ABC):
    """An upsampler under training.

    Attributes:
        stack: the network whose parameters are learned and saved.
        universal: whether the network serves any backbone.
        restores: whether a restoration of the coarse map is to be solved for.
        restoration: applied to the coarse map first, in units of the training; None until it has been solved for.
    """

    stack: nn.Module
    universal: bool
    restores: bool = False
    restoration: Restoration | None = None

    @abstractmethod
    def groups(self) -> list[Group]:
        """The parts of the network, for the optimizer."""

    @abstractmethod
    def upsample(self, directions: Tensor, features: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Linear functionals of the upsampled features, differentiable.

        Args:
            directions: (K, C), the functionals.
            features: (B, C, h, w) in units of the training.
            levels: the image, as ``chain.pyramid`` makes it.

        Returns:
            (B, K, 16 h, 16 w).
        """

    @abstractmethod
    def finished(self, state: dict[str, Tensor], scale: float) -> nn.Module:
        """A network with the parameters ``state``, for features that were not divided by ``scale``; in evaluation mode."""


class StackLearner(Learner):
    """The joint bilateral stack. Several backbones share one, which then has no last correction.

    Args:
        channels: C of each backbone.
        recipe: all switches.
        generator: draws the initial weights.
    """

    def __init__(self, channels: Sequence[int], recipe: Recipe, generator: torch.Generator) -> None:
        self._recipe = recipe
        self.corrects = recipe.learn_feature_correction and len(channels) == 1
        self.restores = recipe.restoration != 0 and len(channels) == 1
        self.universal = not self.corrects and not self.restores
        self.stack = self._stack = JBUStack(1 if self.universal else channels[0])
        _draw(self.stack, generator)
        if recipe.initial == "classical":
            start_classical(self.stack, sigma_spatial=recipe.widths)
        if not self.corrects:
            _fix_at_zero(self.stack.fixup_proj)
        if not recipe.learn_kernel_correction:
            for kernel in self.stack.kernels:
                _fix_at_zero(kernel.fixup_proj)

    def groups(self) -> list[Group]:
        rates, kernels = self._recipe.rates, self._stack.kernels
        corrections = [p for kernel in kernels for p in kernel.fixup_proj.parameters()]
        return [
            ("keys", rates.keys, [p for kernel in kernels for p in kernel.range_proj.parameters()]),
            ("temperature", rates.temperature, [kernel.range_temp for kernel in kernels]),
            ("width", rates.width, [kernel.sigma_spatial for kernel in kernels]),
            ("kernel correction", rates.kernel_correction, corrections),
            ("feature correction", rates.feature_correction, list(self._stack.fixup_proj.parameters())),
        ]

    def upsample(self, directions: Tensor, features: Tensor, levels: Sequence[Tensor]) -> Tensor:
        matrix, bias = self._functional(directions)
        if self.restoration is not None:
            features = self.restoration(features)
        source = torch.einsum("kc,bchw->bkhw", matrix, features)
        weigh = learned_weights(
            self._stack.kernels,
            correction=self._recipe.learn_kernel_correction,
            reference_gradient=self._recipe.reference_gradient and torch.is_grad_enabled(),
        )
        upsampled = upsample(source, levels, weigh)
        return upsampled if bias is None else upsampled + bias[:, None, None]

    def _functional(self, directions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Directions (K, C) of the output as functionals of the input: (K, C), and what is added at the end, (K)."""
        if not self.corrects:
            return directions, None
        conv = cast(nn.Conv2d, self._stack.fixup_proj[1])
        weight = conv.weight[:, :, 0, 0]
        if self._stack.fixup_proj.training:
            dropout = self._stack.fixup_proj[0]
            weight = weight * dropout(weight.new_ones(1, weight.shape[1], 1, 1))[0, :, 0, 0]
        assert conv.bias is not None
        return directions + FIXUP_WEIGHT * (directions @ weight), FIXUP_WEIGHT * (directions @ conv.bias)

    def finished(self, state: dict[str, Tensor], scale: float) -> JBUStack:
        stack = JBUStack(self._stack.feat_dim)
        stack.load_state_dict(state)
        bias = stack.fixup_proj[1].bias
        assert isinstance(bias, Tensor)
        with torch.no_grad():
            bias.mul_(scale)
        return stack.eval().requires_grad_(False)


class NetworkLearner(Learner):
    """A network that reads the features of one backbone: CARAFE, SAPA, resize-convolution.

    Args:
        channels: C of the one backbone.
        recipe: all switches; those of the joint bilateral stack's parts do nothing.
        generator: draws the initial weights.

    Raises:
        UpsamplerError: if there are several backbones.
    """

    universal = False

    def __init__(self, channels: Sequence[int], recipe: Recipe, generator: torch.Generator) -> None:
        check_backbones(recipe, len(channels))
        network = network_class(recipe.method)(channels[0])
        assert isinstance(network, UpsamplerNetwork)
        self.stack = self._network = network
        self._rate = recipe.rates.network * network.rate_factor
        _draw(network, generator)
        if recipe.initial == "classical":
            network.start_bilinear()

    def groups(self) -> list[Group]:
        return [("network", self._rate, list(self._network.parameters()))]

    def upsample(self, directions: Tensor, features: Tensor, levels: Sequence[Tensor]) -> Tensor:
        images = [level[..., RADIUS:-RADIUS, RADIUS:-RADIUS] for level in levels]
        return self._network.upsample(directions, features, images)

    def finished(self, state: dict[str, Tensor], scale: float) -> UpsamplerNetwork:
        network = copy.deepcopy(self._network)
        network.load_state_dict(state)
        network.rescale(scale)
        return network.eval().requires_grad_(False)


_LEARNERS: dict[str, Callable[[Sequence[int], Recipe, torch.Generator], Learner]] = {"jbu": StackLearner}
"""Methods that are no :class:`UpsamplerNetwork`."""


def check_backbones(recipe: Recipe, count: int) -> None:
    """Whether one upsampler of the recipe's method can serve so many backbones.

    Raises:
        UpsamplerError: if it reads the features themselves, which differ between backbones.
    """
    if count > 1 and recipe.method not in _LEARNERS:
        title = find_method(recipe.method).title
        raise UpsamplerError(
            f"{title} reads the features themselves, so it is trained for one backbone; name a single one, or train the "
            "method jbu for several."
        )


def make_learner(channels: Sequence[int], recipe: Recipe, generator: torch.Generator) -> Learner:
    """The learner of the recipe's method.

    Args:
        channels: C of each backbone that is trained for.
        recipe: all switches.
        generator: draws the initial weights.

    Raises:
        UpsamplerError: if the method cannot be trained for so many backbones.
    """
    return _LEARNERS.get(recipe.method, NetworkLearner)(channels, recipe, generator)


def _draw(module: nn.Module, generator: torch.Generator) -> None:
    """Torch's default initial weights of all convolutions, drawn from a given random generator."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                bound = layer.weight[0].numel() ** -0.5
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)


def _fix_at_zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
        parameter.requires_grad_(False)
