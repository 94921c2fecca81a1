"""The networks that represent the features of one image: from a position and its colour to features (FeatUp section 3.3).

A network is a *hidden* part, from places to numbers, and one linear *last* layer, which therefore folds into any projection of
the features. Places are fractions (x, y) of the image's width and height, with the edges at 0 and 1; colours are RGB, normalised
with ImageNet's mean and deviation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.features import Region, Size
from featup_app.fields.implicit.recipe import FitRecipe

LOWEST_LOG_FREQUENCY = -2.0
HIGHEST_LOG_FREQUENCY = 10.0
"""Published range of the perceptron's frequencies: natural logarithms of radians per half image."""

FEWEST_WAVES = 512
MOST_WAVES = 1024
WAVES_PER_CELL = 2


class ImplicitNetwork(nn.Module, ABC):
    """A network from places and colours to principal components of the features.

    Attributes:
        width: D, outputs of the hidden part for each position.
        last: the linear layer from those to the components.
    """

    width: int
    last: nn.Linear

    @abstractmethod
    def hidden(self, positions: Tensor, colours: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(N, 2) places and (N, 3) colours -> (N, width). The generator draws the dropout of training mode."""

    def forward(self, positions: Tensor, colours: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(N, 2) places and (N, 3) colours -> (N, K) components."""
        components: Tensor = self.last(self.hidden(positions, colours, generator))
        return components


class FourierNetwork(ImplicitNetwork):
    """Waves of position and colour together, and a linear layer.

    Each wave runs in a random direction of the five-dimensional space of places and colours, so that features may change
    with a colour here and otherwise there. Linear regression on many such waves is regression with a Gaussian kernel over
    position and colour (Rahimi and Recht, NIPS 2007): a joint bilateral filter with as many taps as the image has pixels.

    Args:
        recipe: widths and switches.
        outputs: K.
        grid_hw: (h, w) of the feature grid, which the frequencies are tied to.
        generator: draws directions and phases.
    """

    def __init__(self, recipe: FitRecipe, outputs: int, grid_hw: Size, generator: torch.Generator) -> None:
        super().__init__()
        widths = torch.tensor([recipe.position_width] * 2 + [recipe.colour_width if recipe.colour else 0.0] * 3)
        cells = torch.tensor([grid_hw[1], grid_hw[0], 1.0, 1.0, 1.0])
        self.width = self.width_for(recipe, grid_hw)
        waves = self.width // 2
        self.frequencies = nn.Buffer(torch.randn(waves, 5, generator=generator) * widths * cells)
        self.phases = nn.Parameter(2 * math.pi * torch.rand(waves, generator=generator))
        self.last = _linear(self.width, outputs, generator, bias=False)
        with torch.no_grad():
            self.last.weight.zero_()

    @staticmethod
    def width_for(recipe: FitRecipe, grid_hw: Size) -> int:
        """Hidden numbers of a network for a feature grid: a sine and a cosine for each wave."""
        return 2 * (recipe.waves or min(max(WAVES_PER_CELL * grid_hw[0] * grid_hw[1], FEWEST_WAVES), MOST_WAVES))

    def hidden(self, positions: Tensor, colours: Tensor, generator: torch.Generator | None = None) -> Tensor:
        angles = F.linear(torch.cat([positions, colours], dim=1), self.frequencies, self.phases)
        # Of length one at every place, whatever their number: the ridge means the same for all.
        return torch.cat([angles.sin(), angles.cos()], dim=1) / math.sqrt(self.width / 2)


class PerceptronNetwork(ImplicitNetwork):
    """The published network: sines and cosines of each coordinate and colour with learned phases, and three layers.

    Coordinates run from -1 to 1 over the image and colours from -1/2 to 1/2 over the range that they have in it.

    Args:
        recipe: widths and switches.
        outputs: K.
        fit_hw: (H, W) points that the network is fitted at; with tied frequencies the highest is the finest wave that they hold.
        colours: (N, 3) colours of the image, whose range is looked up.
        generator: draws phases and weights.
    """

    def __init__(
        self, recipe: FitRecipe, outputs: int, fit_hw: Size, colours: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        highest = HIGHEST_LOG_FREQUENCY
        if recipe.tied_frequencies:
            highest = math.log(math.pi * min(fit_hw) / 2)
        count, self.colour, self.dropout = recipe.frequencies, recipe.colour, recipe.dropout
        inputs = 5 if recipe.colour else 2
        low, high = colours.amin(0), colours.amax(0)
        self.frequencies = nn.Buffer(torch.linspace(LOWEST_LOG_FREQUENCY, highest, count).exp())
        self.middle = nn.Buffer((low + high) / 2)
        self.range = nn.Buffer((high - low).clamp_min(1e-3))
        self.sine_phases = nn.Parameter(2 * math.pi * torch.rand(inputs, count, generator=generator))
        self.cosine_phases = nn.Parameter(2 * math.pi * torch.rand(inputs, count, generator=generator))
        encoded = 2 * inputs * count + (3 if recipe.colour else 0)
        self.width = recipe.hidden
        self.first_norm = nn.LayerNorm(encoded)
        self.first = _linear(encoded, self.width, generator)
        self.second_norm = nn.LayerNorm(self.width)
        self.second = _linear(self.width, self.width, generator)
        self.last = _linear(self.width, outputs, generator)

    def hidden(self, positions: Tensor, colours: Tensor, generator: torch.Generator | None = None) -> Tensor:
        inputs = 2 * positions - 1
        if self.colour:
            colours = (colours - self.middle) / self.range
            inputs = torch.cat([inputs, colours], dim=1)
        angles = inputs[:, :, None] * self.frequencies
        waves = [(angles + self.sine_phases).sin().flatten(1), (angles + self.cosine_phases).cos().flatten(1)]
        encoded = self.first_norm(torch.cat([*waves, colours] if self.colour else waves, dim=1))
        first = F.relu(self.first(self._dropped(encoded, generator)))
        return F.relu(self.second(self.second_norm(self._dropped(first, generator))))

    def _dropped(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        """Whole channels set to zero in training mode, the same for all places, as the published 2D dropout does."""
        if not self.training or not self.dropout:
            return values
        chance = torch.rand(values.shape[1], generator=generator, device=generator.device if generator else None)
        return values * ((chance >= self.dropout) / (1 - self.dropout)).to(values)


def pixel_places(size: Size, region: Region, device: torch.device) -> Tensor:
    """Centres of a region's pixels of a picture of ``size``: (region.height * region.width, 2) fractions (x, y), row by row."""
    down = (torch.arange(region.top, region.bottom, device=device, dtype=torch.float64) + 0.5) / size[0]
    right = (torch.arange(region.left, region.right, device=device, dtype=torch.float64) + 0.5) / size[1]
    shape = region.height, region.width
    places = torch.stack([right.expand(shape), down[:, None].expand(shape)], dim=-1)
    return places.flatten(0, 1).float()


def _linear(inputs: int, outputs: int, generator: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """Torch's default initial weights, drawn from a given random generator."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer
