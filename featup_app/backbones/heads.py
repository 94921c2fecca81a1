"""Classes: scores of an image, and the weights that turn features into class activation maps.

Two cases (``class_weights``):

* The head is linear on the average of the last convolutional map (EfficientNet, ResNet). Its rows are the weights (CAM;
  Zhou et al. 2016): averaged over positions, the map is the score without the bias. Whether a head is linear is tested
  with random numbers.
* Everything else: Grad-CAM (Selvaraju et al. 2017). The weights are the gradient of the class score with respect to the
  layer's features, averaged over positions. For a transformer with a class token the last block's patches no longer act
  on the score, so the usual layer is the normalised input of the last attention, offered as the layer "attention
  input". At other blocks, features are shown after the final norm: there, the gradient is computed with each position's
  mean and deviation held fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset

from featup_app.backbones.catalogue import CLASSIFIER
from featup_app.base.errors import BackboneError
from featup_app.base.progress import Progress, silent
from featup_app.features import Size

if TYPE_CHECKING:
    from featup_app.backbones.layers import Layer
    from featup_app.images import Image


class Classifier(Protocol):
    """The part of :class:`~featup_app.backbones.Backbone` that these functions use, so that neither module imports the other."""

    model: Any
    name: str
    device: torch.device
    layers: tuple[Layer, ...]
    class_names: tuple[str, ...]
    class_size: int
    has_head: bool

    @property
    def is_transformer(self) -> bool: ...

    def layer(self, wanted: str | int | None = None) -> Layer: ...

    def input_size(self, image_hw: Size, size: str | int | Size | None = None) -> Size: ...

    def resized(
        self, image: Image, size: str | int | Size | None = None, *, default: int | None = None
    ) -> torch.Tensor: ...

    def normalised(self, batch: torch.Tensor) -> torch.Tensor: ...

    def as_grid(self, tokens: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor: ...

    def reporting(self, progress: Progress) -> AbstractContextManager[None]: ...

    def explained(self, inputs: torch.Tensor) -> AbstractContextManager[None]: ...


def class_names(model: Any) -> tuple[str, ...]:
    """Names of the classes of a model's head, each once; empty without a head."""
    count = int(getattr(model, "num_classes", 0) or 0)
    if count == 0:
        return ()
    subset = infer_imagenet_subset({"num_classes": count})
    if subset is None:
        return tuple(f"class {i}" for i in range(count))
    info = ImageNetInfo(subset)
    long = [info.index_to_description(i) for i in range(count)]
    names = [text.split(",")[0].strip() for text in long]
    for shorten in (lambda i: ", ".join(long[i].split(", ")[:2]), lambda i: long[i], lambda i: f"{long[i]} ({i})"):
        seen: dict[str, int] = {}
        for name in names:
            seen[name] = seen.get(name, 0) + 1
        names = [shorten(i) if seen[name] > 1 else name for i, name in enumerate(names)]
    return tuple(names)


def logits(
    backbone: Classifier, image: Image, *, size: str | int | Size | None, progress: Progress = silent
) -> torch.Tensor:
    """(classes,) scores of the whole image; see ``Backbone.logits``."""
    _need_head(backbone)
    pixels = backbone.resized(image, size, default=backbone.class_size)
    inputs = backbone.normalised(pixels[None])
    with torch.no_grad(), backbone.reporting(progress), backbone.explained(inputs):
        return backbone.model(inputs)[0].float()  # type: ignore[no-any-return]


def class_weights(
    backbone: Classifier,
    image: Image,
    classes: Sequence[int],
    *,
    size: str | int | Size | None,
    layer: str | int | None,
    odds: bool = False,
    progress: Progress = silent,
) -> tuple[str, torch.Tensor]:
    """(layer name, (K, C) weights) of class activation maps; see ``Backbone.class_weights``."""
    _need_head(backbone)
    count = len(backbone.class_names)
    for number in classes:
        if not 0 <= number < count:
            raise BackboneError(f"{backbone.name} has no class {number}; its classes are numbered 0 to {count - 1}.")
    last = backbone.layers[-1]
    wanted = last if layer is None else backbone.layer(layer)
    if wanted == last and is_linear(backbone):
        rows = backbone.model.get_classifier().weight.detach().float()
        rows = rows.reshape(count, -1)
        chosen = rows[list(classes)].clone()
        if odds:
            scores = logits(backbone, image, size=backbone.input_size(image.size_hw, size), progress=progress)
            chosen -= torch.stack([_others(scores, number) @ rows for number in classes])
        return wanted.name, chosen
    return wanted.name, _gradients(backbone, image, classes, size, wanted, odds, progress)


def _others(scores: torch.Tensor, number: int) -> torch.Tensor:
    """(classes,) probabilities of the other classes if the class ``number`` is ruled out; 0 for that class."""
    rest = scores.clone()
    rest[number] = -torch.inf
    return torch.softmax(rest, dim=0)


def is_linear(backbone: Classifier) -> bool:
    """Whether the scores are linear in the average of the last map, tested with random numbers."""
    classifier = backbone.model.get_classifier()
    last = backbone.layers[-1]
    fits = isinstance(classifier, torch.nn.Linear) and classifier.in_features == last.channels
    if backbone.is_transformer or not fits:
        return False
    random = torch.randn(1, last.channels, 2, 3, generator=torch.Generator().manual_seed(0)).to(backbone.device)
    with torch.no_grad():
        found = backbone.model.forward_head(random)
        expected = classifier(random.mean(dim=(2, 3)))
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def attention_input(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    """(B, tokens, C): the normalised input of the last attention of a transformer."""
    kept: list[torch.Tensor] = []
    norm = model.blocks[-1].norm1
    handle = norm.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        model.forward_features(inputs)
    finally:
        handle.remove()
    return kept[-1]


def _need_head(backbone: Classifier) -> None:
    if not backbone.has_head:
        raise BackboneError(f"The backbone {backbone.name} has no classes; choose {CLASSIFIER}, which has.")


def _module(backbone: Classifier, layer: Layer) -> torch.nn.Module:
    """The module whose output is the layer's map before any final norm."""
    model = backbone.model
    if not layer.numbered:
        return model.blocks[-1].norm1 if backbone.is_transformer else model.bn2  # type: ignore[no-any-return]
    if backbone.is_transformer:
        return model.blocks[layer.index]  # type: ignore[no-any-return]
    return model.get_submodule(backbone.model.feature_info[layer.index]["module"])  # type: ignore[no-any-return]


def _gradients(
    backbone: Classifier,
    image: Image,
    classes: Sequence[int],
    size: str | int | Size | None,
    layer: Layer,
    odds: bool,
    progress: Progress,
) -> torch.Tensor:
    """(K, C): gradient of each class score with respect to the features of a layer, averaged over positions."""
    inputs = backbone.normalised(backbone.resized(image, size)[None])
    leaves: list[torch.Tensor] = []

    def cut(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = _module(backbone, layer).register_forward_hook(cut)
    try:
        with torch.enable_grad(), backbone.reporting(progress), backbone.explained(inputs):
            scores = backbone.model(inputs)[0]
    finally:
        handle.remove()
    leaf = leaves[-1]
    scale = _norm_scale(backbone, leaf) if backbone.is_transformer and layer.numbered else None
    rows = []
    for done, number in enumerate(classes):
        progress("gradients", done, len(classes))
        score = scores[number]
        if odds:  # the gradient of log(p / (1 - p)) is that of the score less the other scores in their shares
            score = score - (_others(scores.detach(), number) * scores).sum()
        (gradient,) = torch.autograd.grad(score, leaf, retain_graph=done + 1 < len(classes))
        if scale is not None:
            gradient = gradient * scale
        grid = backbone.as_grid(gradient, inputs) if backbone.is_transformer else gradient
        rows.append(grid[0].float().mean(dim=(1, 2)))
    weights = torch.stack(rows)
    if not bool(weights.any()):
        raise BackboneError(
            f'The classes of {backbone.name} do not depend on the patches of "{layer.name}"; choose an earlier layer.'
        )
    return weights


def _norm_scale(backbone: Classifier, tokens: torch.Tensor) -> torch.Tensor | None:
    """How much a token changes when its features after the final norm change by 1, statistics held fixed."""
    norm = getattr(backbone.model, "norm", None)
    if not isinstance(norm, torch.nn.LayerNorm):
        return None
    with torch.no_grad():
        deviation = (tokens.var(dim=-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        return deviation if norm.weight is None else deviation / norm.weight
