"""Class maps over one small network of each family of timm that has a head."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models import list_modules

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from timm_families import FAMILIES, HEADLESS, random_backbone, small_network

from featup_app.backbones import Backbone
from featup_app.backbones.layers import Layer
from featup_app.backbones.probing import Layout, norm_scale
from featup_app.images import Image, image_from_array

pytestmark = pytest.mark.usefixtures("one_thread")

LINEAR = frozenset(
    {
        "byoanet", "byobnet", "convmixer", "cspnet", "cspnext", "densenet", "dla", "dpn", "efficientnet", "fastvit", "focalnet",
        "gcvit", "hrnet", "inception_resnet_v2", "inception_v3", "inception_v4", "maxxvit", "mlp_mixer", "mobilevit", "mvitv2",
        "nasnet", "nest", "nextvit", "nfnet", "pnasnet", "pvt_v2", "regnet", "res2net", "resnest", "resnet", "resnetv2",
        "rexnet", "selecsls", "senet", "sequencer", "sknet", "starnet", "swin_transformer", "swin_transformer_v2",
        "swin_transformer_v2_cr", "tresnet", "twins", "vision_transformer_sam", "visformer", "vovnet", "xception",
        "xception_aligned",
    }
)  # fmt: skip
"""Families whose head is one linear layer on the average of a map: there the map's mean is the score without the bias."""

CLASSES = (1, 3)


@pytest.fixture(scope="module")
def image() -> Image:
    return image_from_array(np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8))


def test_the_list_has_all_families() -> None:
    assert set(list_modules()) == {*FAMILIES, *HEADLESS}


@pytest.mark.parametrize("family", FAMILIES)
def test_class_maps_of_a_family(family: str, image: Image) -> None:
    """A map's mean is the score where the head is linear; elsewhere moving the map moves the score as the weights say."""
    backbone = random_backbone(small_network(family), FAMILIES[family][0])
    size = backbone.probe.size_hw
    layer, weights = backbone.class_weights(image, CLASSES, size=size)
    features = backbone.extract(image, size=size, layer=layer).data
    assert weights.shape == (len(CLASSES), len(features))
    assert backbone.class_method() == ("CAM" if family in LINEAR else "Grad-CAM")
    if family in LINEAR:
        scores = backbone.logits(image, size=size)[list(CLASSES)]
        classifier = backbone.model.get_classifier()
        bias = getattr(classifier, "fc", classifier).bias[list(CLASSES)]
        found = (weights @ features.flatten(1)).mean(1)
        assert torch.allclose(found, scores - bias, rtol=1e-4, atol=1e-4 * float(scores.abs().max()))
    else:
        step = torch.randn(len(features), generator=torch.Generator().manual_seed(0)).double()
        inputs = backbone.normalised(backbone.resized(image, size)[None]).double()
        found_layer = backbone.layer(layer)
        assert layer == "head" or backbone.source(found_layer) is not None
        backbone.model.double()
        cells = features.shape[1] * features.shape[2]
        change = _change(backbone, inputs, found_layer, 1e-6 * step, _of_head)
        if change is None or not bool(change.any()):  # the positions of a head's map may not act on its scores
            change = _change(backbone, inputs, found_layer, 1e-6 * step, _of_module)
        assert change is not None
        assert torch.allclose(
            weights.double() @ step * cells * 1e-6, change, rtol=1e-2, atol=1e-3 * float(change.abs().max())
        )


def _change(
    backbone: Backbone, inputs: torch.Tensor, layer: Layer, step: torch.Tensor, way: Callable[..., torch.Tensor | None]
) -> torch.Tensor | None:
    """(K,) by how much the scores change when each cell of a layer's map changes by a step; None if not by this way."""
    with torch.no_grad():
        ahead, back = way(backbone, inputs, layer, step), way(backbone, inputs, layer, -step)
    return None if ahead is None or back is None else (ahead - back)[0, list(CLASSES)] / 2


def _moved(values: torch.Tensor, layout: Layout, step: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    if layout.kind == "NCHW":
        return values + step[:, None, None]
    moved = values + step * scale
    return moved if layout.kind == "NHWC" else torch.cat([values[:, : layout.prefix], moved[:, layout.prefix :]], dim=1)


def _of_head(backbone: Backbone, inputs: torch.Tensor, layer: Layer, step: torch.Tensor) -> torch.Tensor | None:
    """The scores of a head that reads the changed map."""
    last = [found for found in backbone.layers if found.numbered][-1]
    if layer.name != "head" and not (backbone.probe.head_is_last and layer == last):
        return None
    assert backbone.probe.head_layout is not None
    return backbone.model.forward_head(
        _moved(backbone.model.forward_features(inputs), backbone.probe.head_layout, step)
    )


def _of_module(backbone: Backbone, inputs: torch.Tensor, layer: Layer, step: torch.Tensor) -> torch.Tensor | None:
    """The scores of a model in which a module puts out the changed map."""
    source = backbone.source(layer)
    if source is None:
        return None
    count = 0

    def move(module: torch.nn.Module, args: object, output: Any) -> Any:
        nonlocal count
        count += 1
        if count - 1 != source.call:
            return None
        values = output if isinstance(output, torch.Tensor) else output[source.item]
        scale = norm_scale(backbone.model.norm, values) if source.normed else 1.0
        moved = _moved(values, source.layout, step, scale)
        return (
            moved
            if isinstance(output, torch.Tensor)
            else type(output)([*output[: source.item], moved, *output[source.item + 1 :]])
        )

    handle = source.module.register_forward_hook(move)
    try:
        return backbone.model(inputs)
    finally:
        handle.remove()
