"""Classes: scores of an image, and the weights that turn features into class activation maps.

A class map is the map that the head reads, weighted by the derivative of the class's score. How a model gets there is found once,
by runs on random numbers (``class_route``):

* The head is linear on the average of its map (EfficientNet, ResNet, Swin). Its rows are the weights (CAM; Zhou et al. 2016):
  averaged over positions, the map is the score without the bias. Both are tested.
* Everything else: Grad-CAM (Selvaraju et al. 2017). The weights are the gradient of the class score with respect to the map,
  averaged over positions. Where the positions of the head's map do not act on the score, as in a transformer with a class
  token, the last layer whose positions do is used; for most transformers that is the normalised input of the last attention,
  offered as the layer "attention input". At other blocks, features are shown after the final norm: there, the gradient is
  computed with each position's mean and deviation held fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.layers import ClassifierHead

from featup_app.backbones.catalogue import CLASSIFIER
from featup_app.backbones.layers import ATTENTION_INPUT, HEAD
from featup_app.backbones.probing import Layout, Source, distance, norm_scale, token_norm
from featup_app.base.errors import BackboneError
from featup_app.base.progress import Progress, silent
from featup_app.features import Size

if TYPE_CHECKING:
    from featup_app.backbones.layers import Layer
    from featup_app.backbones.probing import Probe
    from featup_app.images import Image

_LINEAR = 1e-3
"""A head is linear on the average of its map if its scores differ from that by less than this share of their deviation."""


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
    route = backbone.class_route
    wanted = backbone.layer(route.layer if layer is None else layer)
    if wanted.name == route.layer and route.linear:
        rows = _rows(backbone.model)[0]
        chosen = rows[list(classes)].clone()
        if odds:
            scores = logits(backbone, image, size=backbone.input_size(image.size_hw, size), progress=progress)
            chosen -= torch.stack([_others(scores, number) @ rows for number in classes])
        return wanted.name, chosen
    return wanted.name, _class_gradients(backbone, image, classes, size, wanted, odds, progress)


def _others(scores: torch.Tensor, number: int) -> torch.Tensor:
    """(classes,) probabilities of the other classes if the class ``number`` is ruled out; 0 for that class."""
    rest = scores.clone()
    rest[number] = -torch.inf
    return torch.softmax(rest, dim=0)


def _rows(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(classes, C) weights and (classes,) biases of a head that is one linear layer; empty if it is not."""
    classifier = model.get_classifier()
    classifier = classifier.fc if isinstance(classifier, ClassifierHead) else classifier
    pointwise = isinstance(classifier, torch.nn.Conv2d) and classifier.kernel_size == (1, 1) and classifier.groups == 1
    if not (pointwise or isinstance(classifier, torch.nn.Linear)):
        return torch.empty(0, 0), torch.empty(0)
    rows = classifier.weight.detach().float().flatten(1)
    return rows, torch.zeros(len(rows)).to(rows) if classifier.bias is None else classifier.bias.detach().float()


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


def class_route(backbone: Classifier) -> ClassRoute:
    """How class maps of this backbone are made, found by runs on random numbers.

    Raises:
        BackboneError: if it has no head, or its scores cannot be traced to the positions of any layer.
    """
    _need_head(backbone)
    inputs, read = backbone.probe.inputs, _read_layer(backbone)
    if read is not None and _is_linear(backbone):
        return ClassRoute(read.name, True)
    # All scores in random shares: a single class may happen not to depend on the random input.
    shares = torch.randn(len(backbone.class_names), generator=torch.Generator().manual_seed(1)).to(backbone.device)
    numbered = [layer for layer in backbone.layers if layer.numbered]
    attention = [layer for layer in backbone.layers if layer.name == ATTENTION_INPUT]
    candidates = [*filter(None, [read]), *numbered[-1:], *attention, *reversed(numbered[:-1])]
    for layer in dict.fromkeys(candidates):
        found = _gradients(backbone, inputs, layer, lambda scores: [(scores[0] * shares).sum()])
        if found is not None and bool(found.isfinite().all()):
            return ClassRoute(layer.name, False)
    raise BackboneError(
        f"The class scores of {backbone.name} cannot be traced to positions in the picture, so it has no class maps; choose "
        f"another backbone, such as {CLASSIFIER}."
    )


def _read_layer(backbone: Classifier) -> Layer | None:
    """The layer that is the very map that the head reads, if there is one."""
    if backbone.probe.head_layout is None:
        return None
    if backbone.probe.head_is_last:
        return [layer for layer in backbone.layers if layer.numbered][-1]
    return next((layer for layer in backbone.layers if layer.name == HEAD), None)


def _is_linear(backbone: Classifier) -> bool:
    """Whether the scores are the head's rows times the average of its map: for the model's own map, and for random numbers."""
    model, layout, grid_hw = backbone.model, backbone.probe.head_layout, backbone.probe.grids[-1]
    rows, bias = _rows(model)
    if layout is None or rows.shape != (len(backbone.class_names), backbone.probe.head_channels):
        return False
    with torch.no_grad():
        own = model.forward_features(backbone.probe.inputs)
        random = torch.randn(own.shape, generator=torch.Generator().manual_seed(0)).to(own)
        for values, scores in ((random, model.forward_head(random.clone())), (own, model(backbone.probe.inputs))):
            average = layout.grid(values, grid_hw).float().mean(dim=(2, 3))
            if distance(scores.float(), average @ rows.T + bias) > _LINEAR:
                return False
    return True


def _class_gradients(
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

    def wanted(scores: torch.Tensor) -> Iterator[torch.Tensor]:
        for done, number in enumerate(classes):
            progress("gradients", done, len(classes))
            score = scores[0, number]
            if odds:  # the gradient of log(p / (1 - p)) is that of the score less the other scores in their shares
                score = score - (_others(scores[0].detach(), number) * scores[0]).sum()
            yield score

    weights = _gradients(backbone, inputs, layer, wanted, progress)
    if weights is None:
        raise BackboneError(
            f'The classes of {backbone.name} do not depend on the patches of "{layer.name}"; choose an earlier layer.'
        )
    return weights


def _gradients(
    backbone: Classifier,
    inputs: torch.Tensor,
    layer: Layer,
    wanted: Callable[[torch.Tensor], Iterable[torch.Tensor]],
    progress: Progress = silent,
) -> torch.Tensor | None:
    """(K, C): gradients of sums of scores with respect to the features of a layer, averaged over positions.

    Args:
        inputs: (1, 3, H, W), normalised.
        layer: where the map is cut out.
        wanted: (1, classes) scores -> K scalars.

    Returns:
        None if the layer's map does not arise in any module of the model, or its positions do not act on the scores.
    """
    grid_hw = backbone.grid_size(layer, (int(inputs.shape[2]), int(inputs.shape[3])))
    cuts = [_scores_from_read] if layer == _read_layer(backbone) else []
    for cut in (*cuts, _scores_from_source):
        with torch.enable_grad(), backbone.reporting(progress), backbone.explained(inputs):
            found = cut(backbone, inputs, layer)
        if found is None or not found.scores.requires_grad:
            continue
        rows = []
        for score in wanted(found.scores):
            (gradient,) = torch.autograd.grad(score, found.leaf, retain_graph=True, materialize_grads=True)
            gradient = gradient if found.scale is None else gradient * found.scale
            rows.append(found.layout.grid(gradient, grid_hw)[0].float().mean(dim=(1, 2)))
        weights = torch.stack(rows)
        if bool(weights.any()):
            return weights
        # The head may see the positions' maps and yet read another token, into which later layers put the positions.
    return None


@dataclass(frozen=True)
class _Cut:
    """A model from one of its maps to its scores.

    Attributes:
        scores: (1, classes), a function of the leaf.
        leaf: the map, as the model holds it.
        layout: how.
        scale: factor from gradients of the leaf to those of the features that are shown, or None.
    """

    scores: torch.Tensor
    leaf: torch.Tensor
    layout: Layout
    scale: torch.Tensor | None = None


def _scores_from_read(backbone: Classifier, inputs: torch.Tensor, layer: Layer) -> _Cut | None:
    """The scores as a function of what the head reads."""
    if backbone.probe.head_layout is None:
        return None
    leaf = backbone.model.forward_features(inputs).detach().requires_grad_()
    return _Cut(backbone.model.forward_head(leaf.clone()), leaf, backbone.probe.head_layout)  # models may work in place


def _scores_from_source(backbone: Classifier, inputs: torch.Tensor, layer: Layer) -> _Cut | None:
    """The scores as a function of what a module of the model puts out."""
    source = backbone.source(layer)
    if source is None:
        return None
    scores, leaf = _scores_from(backbone.model, inputs, source)
    norm = token_norm(backbone.model, layer.channels)
    scale = norm_scale(norm, leaf) if source.normed and norm is not None else None
    return _Cut(scores, leaf, source.layout, scale)


def _scores_from(model: Any, inputs: torch.Tensor, source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    """((1, classes) scores, the output of a module that they are a function of)."""
    leaves: list[torch.Tensor] = []
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
        scores = model(inputs)
    finally:
        handle.remove()
    return scores, leaves[0]
