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

Methods that multiply each cell by its own gradient (HiResCAM, LayerCAM; :mod:`featup_app.lenses.evidence`) get the gradients
before they are averaged, at the same layer (``evidence_gradients``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.layers import ClassifierHead

from featup_app.backbones.catalogue import CLASSIFIER
from featup_app.backbones.gradients import Classifier, ClassRoute, embedding_length, gradients, read_layer
from featup_app.backbones.layers import ATTENTION_INPUT
from featup_app.backbones.probing import distance
from featup_app.base.errors import BackboneError
from featup_app.base.progress import Progress, silent
from featup_app.features import Size

if TYPE_CHECKING:
    from featup_app.backbones.layers import Layer
    from featup_app.images import Image

_LINEAR = 1e-3
"""A head is linear on the average of its map if its scores differ from that by less than this share of their deviation."""


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
    _check_classes(backbone, classes)
    route = backbone.class_route
    wanted = backbone.layer(route.layer if layer is None else layer)
    if wanted.name == route.layer and route.linear:
        rows = _rows(backbone.model)[0]
        chosen = rows[list(classes)].clone()
        if odds:
            scores = logits(backbone, image, size=backbone.input_size(image.size_hw, size), progress=progress)
            chosen -= torch.stack([_others(scores, number) @ rows for number in classes])
        return wanted.name, chosen
    found = _class_gradients(backbone, image, classes, size, wanted, odds, progress)
    return wanted.name, torch.stack([each.mean(dim=(1, 2)) for each in found])


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


def _check_classes(backbone: Classifier, classes: Sequence[int]) -> None:
    _need_head(backbone)
    count = len(backbone.class_names)
    for number in classes:
        if not 0 <= number < count:
            raise BackboneError(f"{backbone.name} has no class {number}; its classes are numbered 0 to {count - 1}.")


def class_route(backbone: Classifier) -> ClassRoute:
    """How class maps of this backbone are made, found by runs on random numbers.

    Raises:
        BackboneError: if it has no head, or its scores cannot be traced to the positions of any layer.
    """
    _need_head(backbone)
    inputs, read = backbone.probe.inputs, read_layer(backbone)
    if read is not None and _is_linear(backbone):
        return ClassRoute(read.name, True)
    # All scores in random shares: a single class may happen not to depend on the random input.
    shares = torch.randn(len(backbone.class_names), generator=torch.Generator().manual_seed(1)).to(backbone.device)
    for layer in _candidates(backbone):
        found = gradients(backbone, inputs, layer, lambda scores: [(scores[0] * shares).sum()])
        if found is not None and all(bool(each.isfinite().all()) for each in found):
            return ClassRoute(layer.name, False)
    raise _not_traced(backbone, "class scores")


def _candidates(backbone: Classifier) -> Iterable[Layer]:
    """Layers at which what a model puts out may be explained, the last ones first."""
    read = read_layer(backbone)
    numbered = [layer for layer in backbone.layers if layer.numbered]
    attention = [layer for layer in backbone.layers if layer.name == ATTENTION_INPUT]
    return dict.fromkeys([*filter(None, [read]), *numbered[-1:], *attention, *reversed(numbered[:-1])])


def _not_traced(backbone: Classifier, what: str) -> BackboneError:
    return BackboneError(
        f"The {what} of {backbone.name} cannot be traced to positions in the picture, so it has no map of them; choose "
        f"another backbone, such as {CLASSIFIER}."
    )


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


def evidence_gradients(
    backbone: Classifier,
    image: Image,
    classes: Sequence[int] | None,
    *,
    size: str | int | Size | None,
    progress: Progress = silent,
) -> tuple[str, list[torch.Tensor]]:
    """(layer name, K gradients (C, h, w)) of classes or of the embedding; see ``Backbone.evidence_gradients``."""
    if classes is not None:
        _check_classes(backbone, classes)
        layer = backbone.layer(backbone.class_route.layer)
        return layer.name, _class_gradients(backbone, image, classes, size, layer, False, progress)
    layer = backbone.layer(backbone.picture_layer)
    inputs = backbone.normalised(backbone.resized(image, size)[None])
    found = gradients(backbone, inputs, layer, embedding_length, embedding=True, progress=progress)
    if found is None:
        raise _not_traced(backbone, "embedding")
    return layer.name, found


def picture_layer(backbone: Classifier) -> str:
    """The last layer whose positions act on the embedding of a picture, found by a run on random numbers.

    Raises:
        BackboneError: if there is none, or the model has no embedding.
    """
    for layer in _candidates(backbone):
        found = gradients(backbone, backbone.probe.inputs, layer, embedding_length, embedding=True)
        if found is not None and all(bool(each.isfinite().all()) for each in found):
            return layer.name
    raise _not_traced(backbone, "embedding")


def _class_gradients(
    backbone: Classifier,
    image: Image,
    classes: Sequence[int],
    size: str | int | Size | None,
    layer: Layer,
    odds: bool,
    progress: Progress,
) -> list[torch.Tensor]:
    """K times (C, h, w): gradient of each class score with respect to the features of a layer."""
    inputs = backbone.normalised(backbone.resized(image, size)[None])

    def wanted(scores: torch.Tensor) -> Iterator[torch.Tensor]:
        for done, number in enumerate(classes):
            progress("gradients", done, len(classes))
            score = scores[0, number]
            if odds:  # the gradient of log(p / (1 - p)) is that of the score less the other scores in their shares
                score = score - (_others(scores[0].detach(), number) * scores[0]).sum()
            yield score

    found = gradients(backbone, inputs, layer, wanted, progress=progress)
    if found is None:
        raise BackboneError(
            f'The classes of {backbone.name} do not depend on the patches of "{layer.name}"; choose an earlier layer.'
        )
    return found
