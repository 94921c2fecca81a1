"""Local checkpoints as people have them: wrapped, of other grids, with things beside the weights, and damaged."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from featup_app.backbones import load_backbone
from featup_app.backbones.loading import build
from featup_app.backbones.weights import file_sha256
from featup_app.base.errors import BackboneError
from featup_app.base.resources import resource
from featup_app.engine.session import Session
from featup_app.engine.settings import ViewSettings
from featup_app.fields.weights import choose, restoring
from featup_app.images import image_from_array

pytestmark = pytest.mark.usefixtures("one_thread")

State = dict[str, torch.Tensor]


def state_of(name: str, classes: int = 5, **options: object) -> State:
    """The tensors of a network with random numbers that are none of those it starts with."""
    torch.manual_seed(0)
    state: State = build(name, classes=classes, **options).state_dict()
    for values in state.values():
        if values.is_floating_point():
            values += 0.01 * torch.randn(values.shape)
    return state


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "name",
    ["levit_128s", "levit_conv_128s", "efficientvit_m0", "efficientvit_b0", "crossvit_tiny_240", "repvit_m1", "resnetv2_18",
     "inception_next_atto", "shvit_s1", "dla46x_c", "efficientvim_m1", "mobilenetv3_small_050", "test_convnext",
     "deit_tiny_distilled_patch16_224"],
)  # fmt: skip
def test_a_models_own_state_comes_back(name: str, tmp_path: Path) -> None:
    state = state_of(name)
    backbone = load_backbone(name, path=saved(state, tmp_path / "own.pth"), device="cpu")
    found = backbone.model.state_dict()
    assert len(backbone.class_names) == 5
    assert all(torch.equal(found[key], values) for key, values in state.items())


WRAPPINGS: dict[str, Callable[[State], object]] = {
    "teacher.backbone.": lambda state: {
        "model": {f"student.backbone.{k}": v + 1 if v.is_floating_point() else v for k, v in state.items()}
        | {f"teacher.backbone.{k}": v for k, v in state.items()}
        | {"teacher.dino_head.mlp.0.weight": torch.zeros(3, 3)}
    },
    "net.": lambda state: {f"net.{k}": v for k, v in state.items()},
    "vit.": lambda state: {"state_dict": {f"model.vit.{k}": v for k, v in state.items()}},
    "params_ema": lambda state: {"params": {k: v * 0 for k, v in state.items()}, "params_ema": state},
    "an unknown wrapper": lambda state: {"weights of the run": state, "lr": 0.1},
    "chunks": lambda state: {k.replace("blocks.", f"blocks.{'blocks.3' in k or 0:d}."): v for k, v in state.items()},
    "numpy scalars": lambda state: {
        "model": state, "best": np.float64(0.8), "epoch": np.int64(3), "curve": np.arange(3.0), "done": np.bool_(True),
    },
    "decoder": lambda state: state | {"mask_token": torch.zeros(1, 1, 64), "decoder_blocks.0.norm1.weight": torch.ones(32)},
}  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped(wrapping: str, tmp_path: Path) -> None:
    state = state_of("test_vit")
    backbone = load_backbone("test_vit", path=saved(WRAPPINGS[wrapping](state), tmp_path / "a.pth"), device="cpu")
    found = backbone.model.state_dict()
    assert all(torch.equal(found[key], values) for key, values in state.items())
    left = {"decoder": ("left out, as no part of test_vit.r160_in1k: decoder_blocks, mask_token",)}
    assert backbone.notes == left.get(wrapping, backbone.notes)


def test_a_grid_of_positions_that_is_no_square(tmp_path: Path) -> None:
    state = state_of("test_vit", img_size=(96, 160))
    backbone = load_backbone("test_vit", path=saved(state, tmp_path / "wide.pth"), device="cpu")
    assert torch.equal(backbone.model.pos_embed, state["pos_embed"])
    assert backbone.notes == ("its 60 positions are read as 6 rows of 10",)
    assert backbone.provenance["weights_notes"] == list(backbone.notes)
    picture = image_from_array(np.zeros((60, 100, 3), np.uint8))
    assert backbone.extract(picture, size=(96, 160)).geometry.grid_hw == (6, 10)


def test_resampled_patches_are_said(tmp_path: Path) -> None:
    state = state_of("test_vit", patch_size=8)
    backbone = load_backbone("test_vit", path=saved(state, tmp_path / "fine.pth"), device="cpu")
    assert backbone.notes == (
        "its 401 positions were resampled to 101",
        "its patches of 8x8 pixels were resampled to 16x16",
    )


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = state_of("test_vit")

    def refused(content: object, words: str) -> None:
        with pytest.raises(BackboneError, match=words) as caught:
            load_backbone("test_vit", path=saved(content, tmp_path / "bad.pth"), device="cpu")
        assert "tensors fit" not in str(caught.value)
        assert "\n" not in str(caught.value)

    deeper = state | {k.replace("blocks.5", "blocks.6"): v for k, v in state.items() if k.startswith("blocks.5.")}
    refused(deeper, r"bad.pth does not fit test_vit.*: unexpected: blocks.6.norm1.weight, .* and \d+ more. Give")
    refused(state | {"norm.weight": torch.ones(7)}, r"of another shape: norm.weight \(7 instead of 64\)")
    refused({k: v for k, v in state.items() if k != "norm.bias"}, r"missing: norm.bias")
    refused(state_of("test_resnet"), "missing: cls_token")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v * torch.nan, "not a number; its training diverged"),
        (lambda v: v / 0, "infinite or not a number"),
        (lambda v: (100 * v).to(torch.int8), "int8 numbers in blocks.2.mlp.fc1.weight.*quantised"),
        (lambda v: v.to(torch.complex64), "complex64 numbers"),
    ],
)
def test_weights_that_are_no_weights(
    change: Callable[[torch.Tensor], torch.Tensor], words: str, tmp_path: Path
) -> None:
    state = state_of("test_vit")
    state["blocks.2.mlp.fc1.weight"] = change(state["blocks.2.mlp.fc1.weight"])
    with pytest.raises(BackboneError, match=words):
        load_backbone("test_vit", path=saved({"net": state}, tmp_path / "bad.pth"), device="cpu")


def test_nothing_of_torch_or_timm_reaches_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("timm"), "propagate", False)  # pytest's own handlers hide what a person sees
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_backbone(
            "test_vit", path=saved({"net": state_of("test_vit", patch_size=8)}, tmp_path / "a.pth"), device="cpu"
        )
        odd = tmp_path / "odd.pth"
        torch.save(state_of("test_vit"), odd, _use_new_zipfile_serialization=False)
        load_backbone("test_vit", path=odd, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file, picture = tmp_path / "a.pth", image_from_array(np.zeros((64, 64, 3), np.uint8))
    session, settings = (
        Session(device="cpu"),
        ViewSettings(backbone="test_vit", weights_file=str(file), input_size="64"),
    )
    state = state_of("test_vit")
    saved(state, file)
    before = session.features(picture, settings)
    assert session.features(picture, settings) is before
    saved({"model": {k: v * 1.5 if v.is_floating_point() else v for k, v in state.items()}}, file)
    assert not torch.equal(session.features(picture, settings).data, before.data)


def test_own_weights_under_a_bundled_name(tmp_path: Path) -> None:
    name = "tf_efficientnet_lite0"
    bundled = load_backbone(name, device="cpu")
    file = saved(state_of(name, classes=4), tmp_path / "mine.pth")
    backbone = load_backbone(name, path=file, device="cpu")
    assert (backbone.name, backbone.title) == (f"{name}@mine.pth", "mine (EfficientNet-Lite0)")
    assert backbone.provenance["licence"] == "not stated in mine.pth"
    picture = image_from_array(np.zeros((64, 64, 3), np.uint8))
    layer = backbone.layers[-2].name
    assert restoring(backbone.extract(picture, size=64, layer=layer)) is None
    assert restoring(bundled.extract(picture, size=64, layer=layer)) is not None
    for method in ("jbu", "carafe"):
        own = choose(method, backbone.extract(picture, size=64, layer=layer))
        theirs = choose(method, bundled.extract(picture, size=64, layer=layer))
        assert theirs is not None
        assert theirs.channels is not None
        assert own is None or own.channels is None  # universal weights serve every backbone
    same = load_backbone(name, path=resource("weights", f"{name}.safetensors"), device="cpu")
    assert (same.name, same.provenance["licence"]) == (name, bundled.provenance["licence"])
    assert same.provenance["weights_sha256"] == file_sha256(resource("weights", f"{name}.safetensors"))


def test_names_of_other_programs_are_translated(tmp_path: Path) -> None:
    """torchvision's ResNet has timm's names; Swin's first files have the reduction after the stage before."""
    name = "swin_tiny_patch4_window7_224"
    state = state_of(name, classes=3)

    def original(key: str) -> str:
        parts = key.split(".")
        if len(parts) > 2 and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        return ".".join(parts).replace("head.fc.", "head.")

    file = saved({"model": {original(k): v for k, v in state.items()}}, tmp_path / "swin.pth")
    backbone = load_backbone(name, path=file, device="cpu")
    found = backbone.model.state_dict()
    assert all(torch.equal(found[key], values) for key, values in state.items())
    assert len(backbone.class_names) == 3
    assert timm.is_model(name)
