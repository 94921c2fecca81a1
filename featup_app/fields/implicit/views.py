"""The views of one image that a network is fitted to, and the space of principal components in which it is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featup_app.base.errors import UpsamplerError
from featup_app.base.progress import Progress, Stage, silent
from featup_app.features import FeatureMap
from featup_app.fields.implicit.recipe import FitRecipe
from featup_app.images import Image
from featup_app.multiview import Jitter, random_jitter

BATCH_PIXELS = 8 * 224 * 224
"""Pixels of the views that the backbone sees at once; between batches a fit can be cancelled."""

ASKED_VIEWS = 16
"""Views in which a click is asked too: the first ones that are fitted to (decision 0097)."""


@dataclass(frozen=True)
class Views:
    """Some jittered views and the backbone's features of them.

    Attributes:
        jitters: V views, drawn for the backbone's input size.
        features: (V, C, h, w) float32.
    """

    jitters: tuple[Jitter, ...]
    features: Tensor


@dataclass(frozen=True, eq=False)
class AskedViews:
    """Views of the image in which a click is asked too.

    Attributes:
        jitters: V views.
        features: (V, C, h, w) float16, the backbone's features of them, with their positional component.
    """

    jitters: tuple[Jitter, ...]
    features: Tensor

    def with_more(self, views: Views, most: int) -> AskedViews:
        """These views and further ones, at most so many."""
        jitters, features = self.jitters + views.jitters, torch.cat([self.features, views.features.half()])
        return AskedViews(jitters[:most], features[:most])


class ViewSource:
    """Jittered views one after the other, each from a random generator of its own, so that the n-th is the same for a seed.

    Args:
        features: of the image; they name backbone, layer and input size.
        image: the picture.
        recipe: padding and zoom.
        seed: of the views.

    Raises:
        UpsamplerError: if the features have no backbone that could be run again.
    """

    def __init__(self, features: FeatureMap, image: Image, recipe: FitRecipe, seed: int) -> None:
        if features.backbone is None:
            raise UpsamplerError(
                f'The features of "{features.image.name}" come from a file, without the backbone that made them; extract them '
                "again to fit an implicit network to their image."
            )
        self._features, self._recipe, self._seed = features, recipe, seed
        self._pixels = features.backbone.resized(image, features.geometry.input_hw)
        self.drawn = 0
        self._waiting: list[Tensor] = []

    def more(self, count: int, progress: Progress = silent) -> Views:
        """The next ``count`` views. If it is cancelled, none is lost: views that were computed are returned by the next call."""
        input_hw = self._features.geometry.input_hw
        padding = round(self._recipe.max_padding * min(input_hw) / 224)
        jitters = tuple(
            random_jitter(self._source(index), input_hw, max_padding=padding, max_zoom=self._recipe.max_zoom)
            for index in range(self.drawn, self.drawn + count)
        )
        batch = max(1, BATCH_PIXELS // (input_hw[0] * input_hw[1]))
        while (there := sum(len(maps) for maps in self._waiting)) < count:
            progress("features of views", self.drawn + there, self.drawn + count, Stage.EXTRACTING)
            pictures = torch.stack([jitter.pixels(self._pixels) for jitter in jitters[there : there + batch]])
            found = self._features.backbone.features(pictures, self._features.layer, lambda *_: _tell(progress))
            self._waiting.append(found)
        maps = torch.cat(self._waiting)
        self._waiting = [maps[count:]] if len(maps) > count else []
        self.drawn += count
        return Views(jitters, maps[:count])

    def _source(self, index: int) -> torch.Generator:
        return torch.Generator().manual_seed((self._seed + 1) * 1_000_003 + index)


def _tell(progress: Progress) -> None:
    """Called between the blocks of the backbone, where a computation can be cancelled."""
    progress("features of views", 0, 0, Stage.EXTRACTING)


@dataclass(frozen=True)
class Components:
    """The space in which features are fitted: ``features = basis @ components + mean``.

    Attributes:
        basis: (C, K) orthonormal columns, largest variance first.
        mean: (C).
        scale: root mean square of a component over the cells that the basis was found from; the unit of losses.
    """

    basis: Tensor
    mean: Tensor
    scale: float

    def of(self, features: Tensor) -> Tensor:
        """(V, C, h, w) features -> (V, K, h, w) components."""
        return torch.einsum("ck,vchw->vkhw", self.basis, features - self.mean[:, None, None])

    def outside(self, features: Tensor) -> Tensor:
        """(V, C, h, w) -> (V) float64: the squared length, over all cells, of the part outside the basis."""
        centred = (features - self.mean[:, None, None]).double()
        within = torch.einsum("ck,vchw->vkhw", self.basis.double(), centred)
        return (centred.square().sum((1, 2, 3)) - within.square().sum((1, 2, 3))).clamp_min(0)


def find_components(maps: Tensor, count: int) -> Components:
    """Principal components of the cells of some maps.

    Args:
        maps: (V, C, h, w), the image's own first.
        count: K; 0 for all channels, and never more than the maps have.

    Returns:
        The components; their signs are such that the largest entry of each direction is positive.
    """
    cells = maps.movedim(1, -1).flatten(0, 2).double()
    mean = cells.mean(0)
    centred = cells - mean
    channels = cells.shape[1]
    wanted = min(count or channels, channels)
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    basis = directions.flip(1)[:, :wanted]
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = basis * torch.where(largest < 0, -1.0, 1.0)
    scale = (variances.clamp_min(0).flip(0)[:wanted].mean() / len(cells)).sqrt()
    return Components(basis.to(maps.dtype), mean.to(maps.dtype), max(float(scale), 1e-8))
