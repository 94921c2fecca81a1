"""Gradients of a model's scores, or of its embedding, with respect to the features of a layer, at each cell.

The embedding is what the model puts out for the whole picture when its last linear layer is left out: the pooled features. It
is explained by its length along its own direction, which is what the picture's similarity to itself grows with; the similarity
itself, a cosine, is 1 there and has no gradient.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from featup_app.backbones.layers import HEAD
from featup_app.backbones.probing import Layout, Source, norm_scale, token_norm
from featup_app.base.errors import BackboneError
from featup_app.base.progress import Progress, silent
from featup_app.features import Size

if TYPE_CHECKING:
    from featup_app.backbones.layers import Layer
    from featup_app.backbones.probing import Probe
    from featup_app.images import Image

Outputs = Callable[[torch.Tensor], Iterable[torch.Tensor]]
"""From what a model puts out, (1, classes) scores or a (1, D) embedding, to K numbers that are explained."""


@dataclass(frozen=True)
class ClassRoute:
    """How class maps of a backbone are made: at which layer, and whether by the rows of its head or by gradients."""

    layer: str
    linear: bool


class Classifier(Protocol):
    """The part of :class:`~featup_app.backbones.Backbone` that these functions use, so that neither module imports the other."""

    model: Any
    name: str
    device: torch.device
    layers: tuple[Layer, ...]
    class_names: tuple[str, ...]
    class_size: int
    has_head: bool
    probe: Probe

    @property
    def class_route(self) -> ClassRoute: ...

    @property
    def picture_layer(self) -> str: ...

    def layer(self, wanted: str | int | None = None) -> Layer: ...

    def input_size(self, image_hw: Size, size: str | int | Size | None = None) -> Size: ...

    def grid_size(self, layer: Layer, input_hw: Size) -> Size: ...

    def resized(
        self, image: Image, size: str | int | Size | None = None, *, default: int | None = None
    ) -> torch.Tensor: ...

    def normalised(self, batch: torch.Tensor) -> torch.Tensor: ...

    def source(self, layer: Layer) -> Source | None: ...

    def reporting(self, progress: Progress) -> AbstractContextManager[None]: ...

    def explained(self, inputs: torch.Tensor) -> AbstractContextManager[None]: ...


def read_layer(backbone: Classifier) -> Layer | None:
    """The layer that is the very map that the head reads, if there is one."""
    if backbone.probe.head_layout is None:
        return None
    if backbone.probe.head_is_last:
        return [layer for layer in backbone.layers if layer.numbered][-1]
    return next((layer for layer in backbone.layers if layer.name == HEAD), None)


def embedding_length(embedding: torch.Tensor) -> Iterable[torch.Tensor]:
    """(1, D) -> one number: the length of an embedding along its own direction."""
    direction = embedding.detach().float()
    yield (embedding.float() * direction / direction.norm().clamp(min=1e-12)).sum()


def gradients(
    backbone: Classifier,
    inputs: torch.Tensor,
    layer: Layer,
    explained: Outputs,
    *,
    embedding: bool = False,
    progress: Progress = silent,
) -> list[torch.Tensor] | None:
    """K gradients of what a model puts out with respect to the features of a layer, each (C, h, w) float32.

    Args:
        inputs: (1, 3, H, W), normalised.
        layer: where the map is cut out.
        explained: from the scores, or the embedding, to K scalars.
        embedding: whether the embedding is explained instead of the scores.

    Returns:
        None if the layer's map does not arise in any module of the model, or its positions do not act on the output.

    Raises:
        BackboneError: if the model has no embedding.
    """
    grid_hw = backbone.grid_size(layer, (int(inputs.shape[2]), int(inputs.shape[3])))
    cuts = [_from_read] if layer == read_layer(backbone) else []
    for cut in (*cuts, _from_source):
        with torch.enable_grad(), backbone.reporting(progress), backbone.explained(inputs):
            found = cut(backbone, inputs, layer, embedding)
        if found is None or not found.output.requires_grad:
            continue
        maps = []
        for number in explained(found.output):
            (gradient,) = torch.autograd.grad(number, found.leaf, retain_graph=True, materialize_grads=True)
            gradient = gradient if found.scale is None else gradient * found.scale
            maps.append(found.layout.grid(gradient, grid_hw)[0].float())
        if any(bool(each.mean(dim=(1, 2)).any()) for each in maps):
            return maps
        # The head may see the positions' maps and yet read another token, into which later layers put the positions.
    return None


@dataclass(frozen=True)
class _Cut:
    """A model from one of its maps to what it puts out.

    Attributes:
        output: (1, classes) scores or (1, D) embedding, a function of the leaf.
        leaf: the map, as the model holds it.
        layout: how.
        scale: factor from gradients of the leaf to those of the features that are shown, or None.
    """

    output: torch.Tensor
    leaf: torch.Tensor
    layout: Layout
    scale: torch.Tensor | None = None


def _from_read(backbone: Classifier, inputs: torch.Tensor, layer: Layer, embedding: bool) -> _Cut | None:
    """The output as a function of what the head reads."""
    if backbone.probe.head_layout is None:
        return None
    leaf = backbone.model.forward_features(inputs).detach().requires_grad_()
    return _Cut(_head(backbone, leaf.clone(), embedding), leaf, backbone.probe.head_layout)  # models may work in place


def _from_source(backbone: Classifier, inputs: torch.Tensor, layer: Layer, embedding: bool) -> _Cut | None:
    """The output as a function of what a module of the model puts out."""
    source = backbone.source(layer)
    if source is None:
        return None
    output, leaf = _from_module(backbone, inputs, source, embedding)
    norm = token_norm(backbone.model, layer.channels)
    scale = norm_scale(norm, leaf) if source.normed and norm is not None else None
    return _Cut(output, leaf, source.layout, scale)


def _head(backbone: Classifier, read: torch.Tensor, embedding: bool) -> torch.Tensor:
    """What the head makes of its map: (1, classes), or the (1, D) embedding that its last layer reads."""
    if not embedding:
        return backbone.model.forward_head(read)  # type: ignore[no-any-return]
    found = None
    if "pre_logits" in inspect.signature(backbone.model.forward_head).parameters:
        found = backbone.model.forward_head(read, pre_logits=True)
    if not isinstance(found, torch.Tensor) or found.dim() != 2:
        raise BackboneError(
            f"{backbone.name} does not pool its features into one embedding of the picture; explain a class, or choose "
            "another backbone."
        )
    return found


def _from_module(
    backbone: Classifier, inputs: torch.Tensor, source: Source, embedding: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(what the model puts out, the output of a module that it is a function of)."""
    model, leaves = backbone.model, list[torch.Tensor]()
    calls = -1

    def cut(module: torch.nn.Module, args: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != source.call:
            return None
        several = isinstance(output, tuple | list)
        leaves.append((output[source.item] if several else output).detach().requires_grad_())
        cloned = leaves[0].clone()  # models may work in place
        return type(output)([*output[: source.item], cloned, *output[source.item + 1 :]]) if several else cloned

    handle = source.module.register_forward_hook(cut)
    try:
        output = _head(backbone, model.forward_features(inputs), True) if embedding else model(inputs)
    finally:
        handle.remove()
    return output, leaves[0]
