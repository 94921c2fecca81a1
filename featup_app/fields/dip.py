"""The deep image prior: the row "deep image prior" of the paper's table (FeatUp, ICLR 2024, section 4).

A small untrained convolutional network maps noise to a fine map of features. It is fitted until that map, averaged over the
cells, equals the map of the backbone (Ulyanov, Vedaldi and Lempitsky, "Deep Image Prior", 2018). Between the cells the network's
preference for smooth and self-similar pictures decides; the image is not used. The last layer is linear and folds into
projections, so the field keeps the 64 hidden planes before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.base.errors import UpsamplerError
from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Size
from featup_app.fields.finer import FinerField, FinerGrid, whole_number
from featup_app.images import Image

STEPS = 150
SEED = 0
COMPONENTS = 128
"""The most principal components of the map that are fitted; the others are left out."""

HIDDEN = 64
LEARNING_RATE = 0.01
LARGEST_GRID = 32_768
"""The most cells of the fine map, which limits the doublings of the backbone's grid, and so time and memory."""

_MOST_DOUBLINGS = 4
_NOISE_CHANNELS = 1
_COARSER = 2
"""The input noise is coarser than the backbone's grid by this factor."""

_NOISE = 0.1
_SLOPE = 0.1


@dataclass(frozen=True)
class _Target:
    """The map in the space of its principal components: ``features = basis @ values + mean``.

    Attributes:
        values: (1, N, h, w), together of variance one.
        basis: (C, N).
        mean: (C).
    """

    values: Tensor
    basis: Tensor
    mean: Tensor


class _Network:
    """Noise on every level, and the layers that turn it into hidden planes.

    Two full convolutions on the backbone's grid; then, for each doubling, a convolution within each plane and one between planes.
    All are normalised over the picture. The input noise is coarser than the grid, so that neighbouring cells share it; a
    further plane of noise on every level lets them differ, as the skip connections of the published hourglass do. With separate
    noise for each cell and nearest-neighbour doublings the map was grainy (held-out error of two photos .66 instead of .59).

    Args:
        grid: rows and columns of the backbone's map.
        doublings: levels above it.
        outputs: channels of the last, linear layer.
        generator: of the noise and the initial weights, on the CPU.
        device: of all tensors.
    """

    def __init__(
        self, grid: Size, doublings: int, outputs: int, generator: torch.Generator, device: torch.device
    ) -> None:
        self.parameters: list[Tensor] = []
        self._generator, self._device = generator, device
        coarse = torch.rand(1, HIDDEN, -(-grid[0] // _COARSER), -(-grid[1] // _COARSER), generator=generator)
        noise = [F.interpolate(coarse, grid, mode="bilinear", align_corners=False)]
        for level in range(doublings + 1):
            noise.append(torch.rand(1, _NOISE_CHANNELS, grid[0] << level, grid[1] << level, generator=generator))
        self._noise = [(values * _NOISE).to(device) for values in noise]
        self._layers: list[tuple[Tensor, ...]] = []
        for index in range(len(noise)):
            inputs = HIDDEN + (_NOISE_CHANNELS if index else 0)
            shapes = [(HIDDEN, inputs, 3, 3)] if index < 2 else [(inputs, 1, 3, 3), (HIDDEN, inputs, 1, 1)]
            kernels = [self._weights(*shape) for shape in shapes]
            self._layers.append((*kernels, self._parameter(torch.ones(HIDDEN)), self._parameter(torch.zeros(HIDDEN))))
        self.last_weight = self._weights(outputs, HIDDEN, 1, 1)
        self.last_bias = self._parameter(torch.zeros(outputs))

    def _parameter(self, values: Tensor) -> Tensor:
        self.parameters.append(values.to(self._device).requires_grad_())
        return self.parameters[-1]

    def _weights(self, *shape: int) -> Tensor:
        inputs = math.prod(shape[1:])
        return self._parameter(torch.randn(*shape, generator=self._generator) * math.sqrt(2 / inputs))

    def hidden(self) -> Tensor:
        """(1, HIDDEN, rows, columns) on the finest level."""
        values = self._noise[0]
        for index, (noise, (*kernels, gain, offset)) in enumerate(zip(self._noise, self._layers, strict=True)):
            if index >= 2:
                values = F.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
            if index:
                values = torch.cat([values, noise], dim=1)
            padded = F.pad(values, (1, 1, 1, 1), mode="replicate")
            values = F.conv2d(padded, kernels[0], groups=values.shape[1] if len(kernels) == 2 else 1)
            if len(kernels) == 2:
                values = F.conv2d(values, kernels[1])
            if values[0, 0].numel() > 1:  # a single cell has no variance
                values = F.group_norm(values, HIDDEN, gain, offset)
            values = F.leaky_relu(values, _SLOPE)
        return values


def make_field(
    features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent
) -> FinerField:
    """The field, for :func:`~featup_app.fields.upsample`; the network is fitted here.

    Args:
        features: the map to upsample.
        image: not used.
        options: ``steps`` of the fit, :data:`STEPS` if not given, and ``seed`` of the noise and the initial weights.
        progress: called before each step; may cancel.

    Raises:
        UpsamplerError: if an option is no whole number, or the fit does not stay finite.
    """
    steps = whole_number("dip", "steps", options.get("steps", STEPS), least=1, most=100_000)
    seed = whole_number("dip", "seed", options.get("seed", SEED), least=0, most=2**63 - 1)
    if not bool(features.data.isfinite().all()):
        raise UpsamplerError(
            f'The features of "{features.image.name}" contain values that are infinite or not a number, so nothing can be '
            "fitted to them; extract them again, or choose another layer."
        )
    rows, columns = features.geometry.grid_hw
    doublings = max(1, min(_MOST_DOUBLINGS, int(math.log2(LARGEST_GRID / (rows * columns)) / 2)))
    target = _components(features.data)
    generator = torch.Generator().manual_seed(seed)
    network = _Network((rows, columns), doublings, target.values.shape[1], generator, features.data.device)
    error = _fit(network, target, 1 << doublings, steps, progress)
    with torch.no_grad():
        hidden = network.hidden()[0]
        weight = target.basis @ network.last_weight[:, :, 0, 0]
        bias = target.basis @ network.last_bias + target.mean
    scale = float(1 << doublings)
    settings = {
        "steps": steps,
        "seed": seed,
        "components": int(target.values.shape[1]),
        "hidden": HIDDEN,
        "enlargement": int(scale),
        "fitted_error": error,
    }
    grid = FinerGrid((scale, scale))
    return FinerField(features, hidden, grid, method="dip", settings=settings, weight=weight, bias=bias)


def _components(data: Tensor) -> _Target:
    """A (C, h, w) map in the space of its first principal components."""
    channels, rows, columns = data.shape
    flat = data.flatten(1)
    mean = flat.mean(1)
    basis, spreads, directions = torch.linalg.svd(flat - mean[:, None], full_matrices=False)
    count = min(COMPONENTS, channels, rows * columns)
    values = spreads[:count, None] * directions[:count]
    spread = values.square().mean().sqrt()
    # In a constant map there is nothing to fit: its basis becomes zero.
    values = values / spread if float(spread) > 1e-6 * float(mean.abs().max()) else torch.zeros_like(values)
    return _Target(values.view(1, count, rows, columns), basis[:, :count] * spread, mean)


def _fit(network: _Network, target: _Target, enlargement: int, steps: int, progress: Progress) -> float:
    """Fit the averages over cells to the target, and return the mean squared error of the last step (the target's is one)."""
    optimiser = torch.optim.Adam(network.parameters, lr=LEARNING_RATE)
    error = math.inf
    with torch.enable_grad():
        for step in range(steps):
            progress("fitting the deep image prior", step, steps)
            # The last layer is linear, so it is applied after the averages, where it costs almost nothing.
            averages = F.avg_pool2d(network.hidden(), enlargement)
            loss = F.mse_loss(F.conv2d(averages, network.last_weight, network.last_bias), target.values)
            error = float(loss.detach())
            if not math.isfinite(error):
                raise UpsamplerError(
                    f"The fit of the deep image prior diverged at step {step + 1} of {steps}; "
                    "choose another seed, or another upsampling method."
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    progress("fitting the deep image prior", steps, steps)
    return error
