"""A start that is as good as the classical upsampler: keys whose products reproduce Gaussians of colour differences.

With keys k of equal length, temperature * <k(a), k(b)> is a constant less temperature / 2 * |k(a) - k(b)|^2. Keys that embed
colours so that this is |a - b|^2 / (2 sigma^2) for colours that are alike, and large for others, make the softmax of the
learned kernel the Gaussian of the classical one. Thirty-two GELU units on three colours can do that: fitted to windows of
made-up colours (:func:`fit_keys`), they leave a divergence of 0.0003 nats on windows of photographs, which they have not
seen. The fitted keys are a resource of 5 kB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from featup_app.base.resources import resource
from featup_app.fields.guidance import IMAGENET_MEAN, IMAGENET_STD
from featup_app.fields.jbu import SIGMA_RANGE, SIGMA_SPATIAL
from featup_app.fields.jbu_stack import JBUStack
from featup_app.fields.window_kernels import KEY_CHANNELS
from featup_app.ops.doubling import KERNEL_SIZE

RESOURCE = ("weights", "classical-keys.safetensors")
_MIXED = 3
FITTED_RANGE = 0.08
"""The width of the Gaussian on colour differences that the keys were fitted to."""
"""Colours that a made-up window mixes."""


def start_classical(
    stack: JBUStack, *, sigma_spatial: float | Sequence[float] = SIGMA_SPATIAL, sigma_range: float = SIGMA_RANGE
) -> None:
    """Give a stack the weights with which it is the classical joint bilateral upsampler, and corrections of zero.

    The hidden layers of the corrections stay as they are, so that they can be learned.

    Args:
        stack: is changed in place.
        sigma_spatial, sigma_range: widths as in ``BilateralKernel``, the first perhaps one for each stage; a stack starts the
            closer to it, the closer ``sigma_range`` is to the 0.08 that the keys were fitted to.
    """
    widths = [sigma_spatial] * len(stack.kernels) if isinstance(sigma_spatial, float) else sigma_spatial
    keys = load_file(resource(*RESOURCE))
    with torch.no_grad():
        for kernel, width in zip(stack.kernels, widths, strict=True):
            kernel.range_proj.load_state_dict({name: keys[name] for name in keys if name != "range_temp"})
            kernel.range_temp.copy_(keys["range_temp"] + 2 * math.log(FITTED_RANGE / sigma_range))
            kernel.sigma_spatial.fill_(width)
            _clear(kernel.fixup_proj[3])
        _clear(stack.fixup_proj[1])


def _clear(layer: nn.Module) -> None:
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    layer.weight.zero_()
    layer.bias.zero_()


def fit_keys(*, steps: int = 5000, seed: int = 0, rate: float = 1e-2) -> dict[str, Tensor]:
    """Fit the keys to classical weights of made-up windows; two minutes on one core make the resource.

    Returns:
        The parameters of ``LearnedKernel.range_proj`` by name, and ``range_temp``.
    """
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(KEY_CHANNELS, 3, generator=generator) * 0.7
    first_bias = torch.randn(KEY_CHANNELS, generator=generator) * 0.7
    second = torch.randn(KEY_CHANNELS, KEY_CHANNELS, generator=generator) * 0.3 / KEY_CHANNELS**0.5
    second_bias = torch.zeros(KEY_CHANNELS)
    temperature = torch.tensor(math.log(8.0))
    parts = [part.requires_grad_() for part in (first, first_bias, second, second_bias, temperature)]
    optimizer = torch.optim.Adam(parts, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        colours = made_up_windows(192, generator)
        wanted = classical_logarithms(colours)
        keys = F.linear(F.gelu(F.linear(_normalised(colours), first, first_bias)), second, second_bias)
        products = (keys * keys[:, KERNEL_SIZE**2 // 2, None]).sum(dim=-1)
        found = torch.log_softmax(temperature.exp() * products, dim=-1)
        divergence = (wanted.exp() * (wanted - found)).sum(dim=-1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(divergence)
        optimizer.step()
        schedule.step()
    return {
        "0.weight": first.detach()[:, :, None, None],
        "0.bias": first_bias.detach(),
        "3.weight": second.detach()[:, :, None, None],
        "3.bias": second_bias.detach(),
        "range_temp": temperature.detach(),
    }


def made_up_windows(count: int, generator: torch.Generator) -> Tensor:
    """(count, 49, 3) colours in 0 .. 1: noisy mixtures of a few, mostly of one hue, with edges soft and hard."""

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    mixed = chance(count, 1, 1) + 0.35 * normal(count, _MIXED, 3) * chance(count, 1, 1)
    mixed = (mixed + chance(count, _MIXED, 1) - 0.5).clamp(0, 1)
    shares = torch.softmax(6 * chance(count, 1, 1) * normal(count, KERNEL_SIZE**2, _MIXED), dim=-1)
    noise = 0.05 * chance(count, 1, 1) * normal(count, KERNEL_SIZE**2, 3)
    return (shares @ mixed + noise).clamp(0, 1)


def classical_logarithms(colours: Tensor, sigma_range: float = FITTED_RANGE) -> Tensor:
    """(N, 49, 3) colours -> (N, 49) logarithms of the classical range weights of the middle pixel."""
    squares = (colours - colours[:, KERNEL_SIZE**2 // 2, None]).square().sum(dim=-1)
    return torch.log_softmax(-squares / (2 * sigma_range**2), dim=-1)


def _normalised(colours: Tensor) -> Tensor:
    return (colours - colours.new_tensor(IMAGENET_MEAN)) / colours.new_tensor(IMAGENET_STD)
