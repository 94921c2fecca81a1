"""End-to-end segmentation: a small segmentation head, trained together with the upsampler inside it.

Source: FeatUp (Fu, Hamilton et al., ICLR 2024) replaces the bilinear resize in the decoder of SegFormer (Xie et al., NeurIPS
2021) by its joint bilateral upsampler. Here the backbone is frozen, so that its features can be computed once. The decoder is
SegFormer's: each layer is projected to a few channels; a 1x1 convolution joins the layers; the result is upsampled sixteen times;
after a nonlinearity, another 1x1 convolution gives class scores. Head and upsampler are trained on the labels alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.base.progress import Progress, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import UNLABELLED, Item
from featup_app.evaluation.drop_ins import FACTOR
from featup_app.evaluation.statistics import Counts
from featup_app.features import Size
from featup_app.fields.guidance import IMAGENET_MEAN, IMAGENET_STD
from featup_app.images import resized

if TYPE_CHECKING:
    from featup_app.backbones import Backbone

WIDTH = 64
"""Channels between the layers and the classes."""

LAYERS = 4
STEPS = 300
BATCH = 4
CROP = 8
"""Cells along each side of the crops of a step."""

RATE = 2e-3
UPSAMPLER_RATE = 5e-4
"""Rate of the upsampler, lower because it starts as bilinear interpolation or as the classical filter, not at random."""

_DECAY = 1e-2
_GROUPS = 8
_SMALLEST_STRIDE = 14


@dataclass(frozen=True, eq=False)
class Scene:
    """A labelled picture, with all that the head needs of it.

    Attributes:
        name: name of the picture.
        layers: for each layer (V, C, h, w) float16 features of the picture and, for training (V = 2), of its mirror image.
        guidance: (3, 16 h, 16 w) uint8, the picture averaged over the cells of the output.
        coarse_labels: (16 h, 16 w) int16, the label at the centre of each output cell.
        labels: (H, W) int16, at the picture's own size.
    """

    name: str
    layers: tuple[Tensor, ...]
    guidance: Tensor
    coarse_labels: Tensor
    labels: Tensor

    @property
    def grid_hw(self) -> Size:
        return int(self.layers[0].shape[-2]), int(self.layers[0].shape[-1])


def chosen_layers(backbone: Backbone) -> tuple[str, ...]:
    """The layers that the head uses: of a transformer four, evenly spaced up to the default layer; of a pyramid those with a
    stride of at least 14."""
    numbered = [layer for layer in backbone.layers if layer.numbered]
    last = backbone.layer(None).index
    if backbone.is_transformer:
        count = min(LAYERS, last + 1)
        return tuple(numbered[(last + 1) * (part + 1) // count - 1].name for part in range(count))
    return tuple(layer.name for layer in numbered if layer.stride >= _SMALLEST_STRIDE)


def load_scene(
    item: Item, backbone: Backbone, layers: Sequence[str], *, size: str | Size | None, mirrored: bool
) -> Scene:
    """Decode a picture and its labels and run the backbone; maps with larger strides are interpolated to the finest grid.

    Args:
        item: a picture with labels.
        layers: names of layers, from :func:`chosen_layers`.
        size: size of the backbone's input.
        mirrored: whether to add the features of the mirror image.

    Raises:
        FeatUpError: if a file is missing or damaged, or labels and picture differ in size.
    """
    image, labels = item.image(), torch.from_numpy(item.labels())
    item.check_size("labels", tuple(labels.shape), image.size_hw)
    pixels = backbone.resized(image, size)
    batch = torch.stack([pixels, pixels.flip(-1)] if mirrored else [pixels])
    maps = backbone.features_of_layers(batch, layers)
    grid = max(tuple(values.shape[-2:]) for values in maps)
    maps = [
        values if values.shape[-2:] == grid else F.interpolate(values, grid, mode="bilinear", align_corners=False)
        for values in maps
    ]
    fine = grid[0] * FACTOR, grid[1] * FACTOR
    guidance = torch.from_numpy(np.array(resized(image.pixels, fine))).permute(2, 0, 1).contiguous()
    rows, columns = (
        ((torch.arange(count) + 0.5) * length / count).long() for count, length in zip(fine, labels.shape, strict=True)
    )
    coarse = labels[rows][:, columns].contiguous()
    return Scene(item.name, tuple(values.half() for values in maps), guidance, coarse, labels)


class SegmentationHead(nn.Module):
    """SegFormer's decoder around an upsampler.

    Args:
        channels: number of channels of each layer.
        classes: number K of classes.
        upsampling: a drop-in for :data:`WIDTH` channels.
    """

    def __init__(self, channels: Sequence[int], classes: int, upsampling: nn.Module) -> None:
        super().__init__()
        for index, count in enumerate(channels):
            self.register_buffer(f"mean{index}", torch.zeros(count, 1, 1))
            self.register_buffer(f"deviation{index}", torch.ones(count, 1, 1))
        self.projections = nn.ModuleList(nn.Conv2d(count, WIDTH, 1) for count in channels)
        self.fusion = nn.Conv2d(WIDTH * len(channels), WIDTH, 1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, WIDTH)
        self.upsampling = upsampling
        self.classifier = nn.Conv2d(WIDTH, classes, 1)

    def standardise(self, scenes: Sequence[Scene]) -> None:
        """Set mean and deviation of each channel from the training pictures: the channels of a backbone differ by orders of
        magnitude."""
        for index in range(len(self.projections)):
            values = torch.cat([scene.layers[index][0].flatten(1).float() for scene in scenes], dim=1)
            self.get_buffer(f"mean{index}").copy_(values.mean(1)[:, None, None])
            self.get_buffer(f"deviation{index}").copy_(values.std(1).clamp(min=1e-6)[:, None, None])

    def forward(self, layers: Sequence[Tensor], guidance: Tensor) -> Tensor:
        """Class scores.

        Args:
            layers: (B, C_l, h, w) each.
            guidance: (B, 3, 16 h, 16 w) uint8, on any device.

        Returns:
            (B, K, 16 h, 16 w).
        """
        projected = [
            projection((values.float() - self.get_buffer(f"mean{index}")) / self.get_buffer(f"deviation{index}"))
            for index, (projection, values) in enumerate(zip(self.projections, layers, strict=True))
        ]
        coarse = self.norm(self.fusion(torch.cat(projected, dim=1)))
        mean, deviation = (coarse.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        fine = self.upsampling(coarse, (guidance.to(coarse) / 255 - mean) / deviation)
        scores: Tensor = self.classifier(F.relu(fine))
        return scores


def train_head(
    network: SegmentationHead,
    scenes: Sequence[Scene],
    *,
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress = silent,
) -> None:
    """Train head and upsampler on crops and mirror images: AdamW, cosine schedule, cross-entropy.

    The crops depend on the seed, but not on the upsampler. The global random generator is left unchanged.

    Args:
        network: trained in place, and left in evaluation mode.
        scenes: the training pictures, with mirrored features.
        steps: number of steps, of :data:`BATCH` crops each.
        seed: seed of crops and dropout.
        progress: called for each step; may cancel.
    """
    generator = torch.Generator().manual_seed(seed)
    inner = [parameter for parameter in network.upsampling.parameters() if parameter.requires_grad]
    outer = [p for p in network.parameters() if p.requires_grad and all(p is not other for other in inner)]
    groups = [{"params": outer, "lr": RATE}, {"params": inner, "lr": UPSAMPLER_RATE, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups if inner else groups[:1], lr=RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(steps):
            progress("training the head", step, steps)
            layers, guidance, labels = _crops(scenes, generator)
            if not bool((labels >= 0).any()):
                continue
            scores = network(layers, guidance)
            loss = F.cross_entropy(scores, labels.to(scores.device, torch.long), ignore_index=UNLABELLED)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    network.eval()


def frame_confusion(network: SegmentationHead, scene: Scene, classes: int) -> Counts:
    """(K, K) number of pixels by label and by prediction, at the picture's own size; scores are interpolated bilinearly."""
    with torch.no_grad():
        scores = predicted_scores(network, scene)
        full = F.interpolate(scores, tuple(scene.labels.shape), mode="bilinear", align_corners=False)
        return statistics.confusion_matrix(full[0].argmax(0).cpu().numpy(), scene.labels.numpy(), classes)


def predicted_scores(network: SegmentationHead, scene: Scene) -> Tensor:
    """(1, K, 16 h, 16 w) class scores of a whole picture."""
    scores: Tensor = network([values[:1] for values in scene.layers], scene.guidance[None])
    return scores


def _crops(scenes: Sequence[Scene], generator: torch.Generator) -> tuple[list[Tensor], Tensor, Tensor]:
    """A batch of crops: layers (B, C_l, n, n), guidance (B, 3, 16 n, 16 n) uint8, labels (B, 16 n, 16 n)."""
    rows, columns = (min(CROP, *(scene.grid_hw[axis] for scene in scenes)) for axis in (0, 1))
    layers: list[list[Tensor]] = [[] for _ in scenes[0].layers]
    guidance, labels = [], []
    for _ in range(BATCH):
        scene = scenes[_below(len(scenes), generator)]
        mirror = _below(len(scene.layers[0]), generator)
        top = _below(scene.grid_hw[0] - rows + 1, generator)
        left = _below(scene.grid_hw[1] - columns + 1, generator)
        for kept, values in zip(layers, scene.layers, strict=True):
            kept.append(values[mirror, :, top : top + rows, left : left + columns])
        picture, classes = scene.guidance, scene.coarse_labels
        if mirror:
            picture, classes = picture.flip(-1), classes.flip(-1)
        down, across = (
            slice(FACTOR * start, FACTOR * (start + count)) for start, count in ((top, rows), (left, columns))
        )
        guidance.append(picture[:, down, across])
        labels.append(classes[down, across])
    return [torch.stack(kept) for kept in layers], torch.stack(guidance), torch.stack(labels)


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))
