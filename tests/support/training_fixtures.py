"""A backbone small enough to train upsamplers for within a test, and pictures for it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from featup_app.backbones.layers import Layer
from featup_app.features import FeatureMap, Geometry
from featup_app.images import Image, image_from_array
from featup_app.sizes import resolve_input_size

STRIDE = 8
CHANNELS = 6


class PatchBackbone:
    """Averages a few functions of red over patches of 8x8 pixels; what happens in blue has to be learned to be ignored."""

    stride = STRIDE

    def __init__(
        self, name: str = "patches", channels: int = CHANNELS, seed: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        self.device = torch.device(device)
        generator = torch.Generator().manual_seed(seed)
        self.name = name
        self.provenance = {"backbone": name, "weights_sha256": str(seed)}
        matrix = torch.randn(channels, 3, generator=generator) * torch.tensor([1.0, 0.0, 0.0])
        self.matrix = matrix.to(self.device)
        self.calls = 0

    def layer(self, wanted=None):
        return Layer("block 0", "block 0", len(self.matrix), STRIDE, 0)

    def input_size(self, image_hw, size=None, *, default=None):
        return resolve_input_size(size, image_hw=image_hw, stride=STRIDE, default=32)

    def resized(self, image, size):
        pixels = torch.from_numpy(image.pixels.copy()).permute(2, 0, 1).float() / 255
        return F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1).to(self.device)

    def features(self, batch, layer=None, progress=None):
        self.calls += 1
        responses = torch.tanh(4 * torch.einsum("kc,bchw->bkhw", self.matrix, batch - 0.5))
        return F.avg_pool2d(responses, STRIDE)


def picture(seed: int, height: int = 48, width: int = 64) -> Image:
    """A few rectangles of plain colours, with noise in blue."""
    random = np.random.default_rng(seed)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = random.integers(0, 255, 3)
    for _ in range(4):
        top, left = random.integers(0, height - 8), random.integers(0, width - 8)
        pixels[top : top + random.integers(8, height), left : left + random.integers(8, width)] = random.integers(
            0, 255, 3
        )
    pixels[..., 2] = random.integers(0, 255, (height, width))
    return image_from_array(pixels, name=f"picture {seed}")


def pictures(count: int) -> list[Image]:
    return [picture(seed) for seed in range(count)]


def features_of(image: Image, size: tuple[int, int] | None = None, backbone: PatchBackbone | None = None) -> FeatureMap:
    """The features of a picture, as a backbone's ``extract`` gives them."""
    backbone = backbone or PatchBackbone()
    pixels = backbone.resized(image, size or backbone.input_size(image.size_hw))
    data = backbone.features(pixels[None])[0]
    geometry = Geometry(image.size_hw, tuple(pixels.shape[1:]), tuple(data.shape[1:]))
    return FeatureMap(data, geometry, "block 0", image, backbone, backbone.provenance)
