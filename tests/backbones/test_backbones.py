from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import featup_app.backbones.loading as loading
from featup_app.backbones import Backbone, find_backbone, load_backbone
from featup_app.backbones.probing import norm_scale
from featup_app.base.errors import BackboneError, Cancelled, SizeError
from featup_app.base.resources import resource
from featup_app.images import Image, image_from_array, load_image

BUNDLED = {
    "dinov2-s14-imgfocus": "b48b1bca51e8d895a4022dd33d451923dcd60fd1c554afc1c7997a604dff61fa",
    "tf_efficientnet_lite0": "d2d9df1536893070c5a75c0c78dbe26f388ec954f9bed14a7e9715556363a16e",
}
RECORDED = np.load(Path(__file__).resolve().parents[1] / "data" / "backbone_features.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def dino() -> Backbone:
    return load_backbone("dinov2-s14-imgfocus", device="cpu")


@pytest.fixture(scope="module")
def lite() -> Backbone:
    return load_backbone("tf_efficientnet_lite0", device="cpu")


@pytest.fixture(scope="module")
def bundled(dino: Backbone, lite: Backbone) -> dict[str, Backbone]:
    return {b.name: b for b in (dino, lite)}


def photo(name: str) -> Image:
    return load_image(resource("images", f"{name}.jpg"))


def noise(height: int, width: int) -> Image:
    return image_from_array(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def random_backbone(architecture: str, classes: int | None = None) -> Backbone:
    torch.manual_seed(0)
    info = dataclasses.replace(find_backbone("resnet50.a1_in1k"), name=architecture, architecture=architecture)
    return Backbone(loading.build(architecture, classes=classes), info)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_file_is_the_one_that_was_converted(name: str) -> None:
    content = resource("weights", f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == BUNDLED[name]


@pytest.mark.parametrize("key", RECORDED.files)
def test_bundled_features_equal_those_of_the_source_in_float32(key: str, bundled: dict[str, Backbone]) -> None:
    name, layer = key.split("/")
    wanted = torch.from_numpy(RECORDED[key])
    if layer == "logits":
        found = bundled[name].logits(photo("cat"), size=224)
        assert (found - wanted).abs().max() < 0.02
        assert found.argmax() == wanted.argmax()
        return
    data = bundled[name].extract(photo("cat"), size=224, layer=layer).data
    found = torch.cat([data.flatten()[:: data.numel() // 64][:64], torch.stack([data.mean(), data.std()])])
    # What rounding the kernels to float16 costs, in deviations: measured at most 0.0013 and 0.039.
    error = (found - wanted).abs() / wanted[65]
    assert error[:64].max() < (0.003 if name.startswith("dino") else 0.06)
    assert error[:64].mean() < 0.003
    assert error[64:].max() < 3e-4


def test_provenance_is_complete_and_json_able(bundled: dict[str, Backbone]) -> None:
    import json

    for name, backbone in bundled.items():
        facts = json.loads(json.dumps(backbone.provenance))
        assert facts["weights_sha256"] == BUNDLED[name]
        assert {"backbone", "architecture", "weights", "licence", "mean", "std", "interpolation", "timm"} <= set(facts)


def test_lite0_names_what_is_in_the_photos(lite: Backbone) -> None:
    def top(name: str) -> list[str]:
        return [lite.class_names[i] for i in lite.logits(photo(name)).topk(3).indices]

    assert {"Egyptian cat", "tiger cat", "tabby"} & set(top("cat"))
    assert top("coffee")[0] == "espresso"


def test_class_names_are_short_and_unique(lite: Backbone) -> None:
    assert len(lite.class_names) == len(set(lite.class_names)) == 1000
    assert lite.class_names[281] == "tabby"
    assert sum("," in name for name in lite.class_names) < 20


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("shape", [(97, 331), (301, 199), (1, 1), (1, 300)])
def test_odd_images_give_features(name: str, shape: tuple[int, int], bundled: dict[str, Backbone]) -> None:
    backbone = bundled[name]
    size = 112 if min(shape) > 1 else None
    features = backbone.extract(noise(*shape), size=size)
    geometry = features.geometry
    assert geometry.image_hw == shape
    assert all(side % backbone.stride == 0 for side in geometry.input_hw)
    assert geometry.grid_hw == tuple(side // backbone.stride for side in geometry.input_hw)
    assert features.data.dtype == torch.float32
    assert bool(features.data.isfinite().all())
    if min(shape) > 1:
        aspect = geometry.input_hw[0] / geometry.input_hw[1]
        assert aspect == pytest.approx(shape[0] / shape[1], rel=0.5)


@pytest.mark.parametrize("name", BUNDLED)
def test_every_layer_by_name_and_number(name: str, bundled: dict[str, Backbone]) -> None:
    backbone, image = bundled[name], noise(60, 90)
    numbered = [layer for layer in backbone.layers if layer.numbered]
    for i, layer in enumerate(backbone.layers):
        features = backbone.extract(image, size="64x96", layer=layer.name)
        height, width = features.geometry.input_hw
        assert layer.index == i
        assert features.layer == layer.name
        assert features.data.shape == (layer.channels, height // layer.stride, width // layer.stride)
        if layer.numbered:
            assert backbone.layer(i - len(numbered)) == backbone.layer(str(i)) == layer
    last = backbone.extract(image, size="64x96", layer=-1)
    assert last.layer == numbered[-1].name


def test_layers_of_the_bundled_ones(dino: Backbone, lite: Backbone) -> None:
    assert (dino.default_layer, len(dino.layers), dino.default_size, dino.has_head) == ("block 10", 12, 448, False)
    assert (lite.default_layer, lite.default_size, lite.class_size) == ("stage 4", 448, 224)
    assert [(la.name, la.channels, la.stride) for la in lite.layers][-2:] == [("stage 4", 320, 32), ("head", 1280, 32)]
    with pytest.raises(BackboneError, match=r'no layer "12".*"block 0" to "block 11", or a number from -12 to 11'):
        dino.extract(noise(8, 8), layer=12)


def test_last_block_is_the_models_own_output(dino: Backbone) -> None:
    image = noise(56, 84)
    inputs = dino.normalised(dino.resized(image, (56, 84))[None])
    with torch.no_grad():
        tokens = dino.model.forward_features(inputs)[:, 1:]
    wanted = tokens[0].T.reshape(384, 4, 6)
    assert torch.allclose(dino.extract(image, size=(56, 84), layer=-1).data, wanted, atol=1e-5)


def test_features_can_be_used_with_autograd(dino: Backbone) -> None:
    data = dino.extract(noise(28, 28), size=28).data
    weight = torch.ones(384, requires_grad=True)
    (data * weight[:, None, None]).sum().backward()
    assert torch.allclose(weight.grad, data.sum((1, 2)))  # type: ignore[arg-type]


def test_a_batch_gives_the_same_as_single_pictures(lite: Backbone) -> None:
    images = [lite.resized(noise(64, 96), (64, 96)), lite.resized(photo("cat"), (64, 96))]
    batch = lite.features(torch.stack(images))
    for one, data in zip(images, batch, strict=True):
        assert torch.allclose(lite.features(one[None])[0], data, atol=1e-4)


def test_resizing_keeps_the_whole_picture(dino: Backbone) -> None:
    pixels = np.zeros((400, 200, 3), np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, 400)[:, None]
    pixels[:, :, 1] = np.linspace(0, 255, 200)[None]
    small = dino.resized(image_from_array(pixels), (28, 14))
    assert small.min() >= 0
    assert small.max() <= 1
    assert torch.allclose(small[0].mean(1), (torch.arange(28) + 0.5) / 28, atol=0.02)
    assert torch.allclose(small[1].mean(0), (torch.arange(14) + 0.5) / 14, atol=0.02)
    same = dino.resized(image_from_array(pixels[:28, :14]), (28, 14))
    assert torch.equal((same * 255).round().to(torch.uint8).permute(1, 2, 0), torch.from_numpy(pixels[:28, :14].copy()))


def test_sizes_that_make_no_sense(dino: Backbone) -> None:
    for size in ("huge", "0", "20000"):
        with pytest.raises(SizeError):
            dino.extract(noise(20, 30), size=size)


@pytest.mark.parametrize("name", BUNDLED)
def test_cancelling_leaves_no_trace(name: str, bundled: dict[str, Backbone]) -> None:
    backbone, seen = bundled[name], []

    def stop(words: str, done: int, total: int, stage=None) -> None:
        seen.append((words, done, total))
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        backbone.extract(noise(56, 56), size=56, progress=stop)
    assert seen[0][:2] == ("features", 0)
    assert not any(module._forward_pre_hooks for module in backbone.model.modules())
    ends: list[tuple[int, int]] = []
    backbone.extract(noise(56, 56), size=56, progress=lambda words, done, total, stage=None: ends.append((done, total)))
    assert ends[-1][0] == ends[-1][1] == max(done for done, _ in ends)


# Classes


def test_class_map_of_lite0_averages_to_the_score(lite: Backbone) -> None:
    image, classes = photo("cat"), [281, 285, 0, 967]
    layer, weights = lite.class_weights(image, classes, size="128x224")
    features = lite.extract(image, size="128x224", layer=layer).data
    scores = (weights @ features.flatten(1)).mean(1) + lite.model.classifier.bias[classes]
    assert layer == "head"
    assert torch.allclose(scores, lite.logits(image, size="128x224")[classes], atol=1e-4)


def test_classes_need_a_head_and_must_exist(dino: Backbone, lite: Backbone) -> None:
    for ask in (lambda: dino.logits(noise(8, 8)), lambda: dino.class_weights(noise(8, 8), [0])):
        with pytest.raises(BackboneError, match="has no classes; choose tf_efficientnet_lite0"):
            ask()
    for number in (-1, 1000):
        with pytest.raises(BackboneError, match=f"no class {number}; its classes are numbered 0 to 999"):
            lite.class_weights(noise(8, 8), [number])


def test_grad_cam_of_a_transformer_is_the_gradient() -> None:
    backbone, image = random_backbone("deit_tiny_patch16_224.fb_in1k"), noise(64, 96)
    torch.nn.init.normal_(backbone.model.head.weight)
    layer, weights = backbone.class_weights(image, [3, 7], size=(64, 96))
    features = backbone.extract(image, size=(64, 96), layer=layer).data
    assert layer == "attention input"
    # Moving all patches' features by a little moves the score by the weights times that, times the number of patches.
    step = torch.randn(192, generator=torch.Generator().manual_seed(1)) * 1e-3
    norm, inputs = backbone.model.blocks[-1].norm1, backbone.normalised(backbone.resized(image, (64, 96))[None])

    def scores(sign: float) -> torch.Tensor:
        def add(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
            patches = output.clone()
            patches[:, 1:] += sign * step
            return patches

        handle = norm.register_forward_hook(add)
        with torch.no_grad():
            result = backbone.model.double()(inputs.double())[0, [3, 7]]
        handle.remove()
        return result

    change = (scores(1) - scores(-1)) / 2
    backbone.model.float()
    assert features.shape == (192, 4, 6)
    assert torch.allclose(weights.double() @ step.double() * 24, change, rtol=1e-2, atol=1e-7)


def test_grad_cam_at_a_block_holds_the_norm_fixed() -> None:
    backbone, image = random_backbone("deit_tiny_patch16_224.fb_in1k"), noise(32, 48)
    model = backbone.model
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.uniform_(model.norm.weight, 0.5, 2)
    _, weights = backbone.class_weights(image, [5], size=(32, 48), layer="block 8")
    inputs = backbone.normalised(backbone.resized(image, (32, 48))[None])
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(inputs))))
    for block in model.blocks[:9]:
        tokens = block(tokens)
    mean, deviation = tokens.mean(-1, keepdim=True), (tokens.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    features = model.norm(tokens).detach().requires_grad_()
    tokens = (features - model.norm.bias) / model.norm.weight * deviation + mean
    for block in model.blocks[9:]:
        tokens = block(tokens)
    model.forward_head(model.norm(tokens))[0, 5].backward()
    wanted = features.grad[0, 1:].mean(0)  # type: ignore[index]
    assert torch.allclose(weights[0], wanted, atol=1e-3 * float(wanted.abs().max()))


def test_the_last_block_of_a_class_token_transformer_is_refused() -> None:
    backbone = random_backbone("deit_tiny_patch16_224.fb_in1k")
    with pytest.raises(BackboneError, match='do not depend on the patches of "block 11"'):
        backbone.class_weights(noise(32, 32), [5], size=32, layer=-1)


def test_cam_and_grad_cam_agree_where_the_head_is_linear() -> None:
    backbone, image = random_backbone("resnet10t"), noise(64, 96)
    layer, weights = backbone.class_weights(image, [1, 2], size=(64, 96))
    features = backbone.extract(image, size=(64, 96), layer=layer).data
    scores = (weights @ features.flatten(1)).mean(1) + backbone.model.fc.bias[[1, 2]]
    assert torch.allclose(scores, backbone.logits(image, size=(64, 96))[[1, 2]], atol=1e-5)
    other, gradients = backbone.class_weights(image, [1], size=(64, 96), layer="stage 3")
    assert (other, gradients.shape) == ("stage 3", (1, 256))


def test_convnext_norms_after_pooling_so_it_gets_gradients() -> None:
    backbone, image = random_backbone("convnext_atto"), noise(64, 64)
    torch.nn.init.normal_(backbone.model.head.fc.weight)
    layer, weights = backbone.class_weights(image, [1], size=64)
    assert (layer, weights.shape) == ("stage 3", (1, 320))
    assert not torch.allclose(weights[0], backbone.model.head.fc.weight[1], rtol=0.1)


def test_gradients_of_classes_average_to_the_weights_of_grad_cam() -> None:
    backbone, image = random_backbone("convnext_atto"), noise(64, 96)
    torch.nn.init.normal_(backbone.model.head.fc.weight)
    layer, weights = backbone.class_weights(image, [1, 4], size=(64, 96))
    other, gradients = backbone.evidence_gradients(image, [1, 4], size=(64, 96))
    assert (layer, [each.shape for each in gradients]) == (other, [(320, 2, 3)] * 2)
    assert torch.equal(weights, torch.stack([each.mean(dim=(1, 2)) for each in gradients]))


@pytest.mark.parametrize("architecture", ["resnet10t", "deit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_the_gradient_of_the_embedding_is_that_of_its_length(architecture: str) -> None:
    """Moving all cells by a little moves the embedding along itself as the gradient says."""
    backbone = random_backbone(architecture)
    size = 4 * backbone.stride, 6 * backbone.stride
    layer, (gradient,) = backbone.evidence_gradients(noise(70, 100), None, size=size)
    assert layer == backbone.picture_layer
    source, inputs = (
        backbone.source(backbone.layer(layer)),
        backbone.normalised(backbone.resized(noise(70, 100), size)[None]),
    )
    assert source is not None
    model = backbone.model.double()
    step = torch.randn(gradient.shape[0], generator=torch.Generator().manual_seed(0)).double() * 1e-5
    kept: list[torch.Tensor] = []

    def embedding(sign: float) -> torch.Tensor:
        def add(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
            moved = step[:, None, None] if source.layout.kind == "NCHW" else step
            if source.normed:
                moved = moved * norm_scale(model.norm, output)
            moved = sign * moved.expand_as(output).clone()
            moved[:, : source.layout.prefix] *= 0 if source.layout.kind == "NLC" else 1
            return output + moved

        handle = source.module.register_forward_hook(add)
        with torch.no_grad():
            kept.append(model.forward_head(model.forward_features(inputs.double()), pre_logits=True)[0])
        handle.remove()
        return kept[-1]

    middle = embedding(0)
    change = (embedding(1) - embedding(-1)) @ middle / middle.norm() / 2
    predicted = float((gradient.double().sum(dim=(1, 2)) * step).sum())
    assert predicted == pytest.approx(float(change), rel=2e-2, abs=1e-3 * float(gradient.abs().sum()) * 1e-5)


def test_a_model_without_an_embedding_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = random_backbone("resnet10t")
    monkeypatch.setattr(backbone.model, "forward_head", lambda read: read.mean(dim=(2, 3)))
    with pytest.raises(BackboneError, match="does not pool its features into one embedding"):
        backbone.evidence_gradients(noise(32, 32), None, size=64)


# Other families, with random weights


@pytest.mark.parametrize(
    ("architecture", "channels", "stride", "head"),
    [
        ("vit_small_patch16_dinov3.lvd1689m", 384, 16, False),
        ("convnext_atto.d2_in1k", 320, 32, True),
        ("resnet10t.c3_in1k", 512, 32, True),
        ("vit_base_patch32_clip_224.openai", 768, 32, False),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 384, 14, False),
        ("vit_small_patch8_224.dino", 384, 8, False),
        ("deit_tiny_distilled_patch16_224.fb_in1k", 192, 16, True),
        ("vit_tiny_patch16_224.augreg_in21k", 192, 16, True),
        ("mobilenetv3_small_050.lamb_in1k", 288, 32, True),
    ],
)
def test_other_families(architecture: str, channels: int, stride: int, head: bool) -> None:
    backbone = random_backbone(architecture)
    features = backbone.extract(noise(70, 100), size=(4 * stride, 6 * stride))
    assert features.data.shape == (channels, 4, 6)
    assert features.geometry.grid_hw == (4, 6)
    assert features.layer == [layer for layer in backbone.layers if layer.numbered][-1].name
    assert (backbone.stride, backbone.has_head) == (stride, head)
    assert backbone.default_size == (224 if stride == 8 else 448)
    if head:
        layer, weights = backbone.class_weights(noise(70, 100), [1], size=(4 * stride, 6 * stride))
        assert backbone.extract(noise(70, 100), size=(4 * stride, 6 * stride), layer=layer).channels == weights.shape[1]


def test_a_model_of_fixed_size_says_so() -> None:
    backbone = random_backbone("mixer_s32_224")
    with pytest.raises(BackboneError, match=r"cannot work at 96x96 pixels.*use 224x224"):
        backbone.extract(noise(70, 100), size=(96, 96))
    for size in (None, (224, 224), 224, "224", "224x224"):
        assert backbone.extract(noise(70, 100), size=size).geometry.grid_hw == (7, 7)
    assert (backbone.default_size, backbone.class_size, backbone.fixed_hw) == (224, 224, (224, 224))


# Names, downloads, files


def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(BackboneError, match=r'no backbone "resnet5O".*resnet50'):
        load_backbone("resnet5O")
    with pytest.raises(
        BackboneError, match=r"no backbone \"vit_small_patch16_224.dinosaur\".*vit_small_patch16_224\.dino"
    ):
        load_backbone("vit_small_patch16_224.dinosaur")
    with pytest.raises(BackboneError, match='no device "warp"'):
        load_backbone("tf_efficientnet_lite0", device="warp")


@pytest.mark.parametrize("name", ["vit_small_patch16_224.dino", "resnet18", "vit_small_patch16_dinov3"])
def test_offline_is_one_sentence_and_quick(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    import huggingface_hub.constants

    def fail(*args: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("featup_app.backbones.hub.cached_weights", lambda *a: None)
    monkeypatch.setattr(urllib.request, "urlopen", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    start = time.monotonic()
    with pytest.raises(BackboneError) as caught:
        load_backbone(name)
    assert time.monotonic() - start < 5
    text = str(caught.value)
    assert text.startswith(
        f"The weights of {name} are not on this computer and cannot be downloaded: the hub cannot be"
    )
    assert "path=" in text
    assert "dinov2-s14-imgfocus" in text
    assert "\n" not in text


def test_downloaded_weights_are_read_by_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("resnet10t")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(loading, "fetch_weights", lambda *a: tmp_path / "model.safetensors")
    backbone = load_backbone("resnet10t", device="cpu")
    assert torch.equal(backbone.model.fc.weight, model.fc.weight)
    assert backbone.provenance["architecture"] == "resnet10t.c3_in1k"
    assert backbone.provenance["weights"] == "hub timm/resnet10t.c3_in1k, model.safetensors"
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(BackboneError, match=r"cannot be used.*delete .*model\.safetensors and download it again"):
        load_backbone("resnet10t", device="cpu")


WRAPPINGS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "plain": lambda state: state,
    "state_dict, module.": lambda state: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "teacher, backbone., projection head": lambda state: {
        "student": {},
        "teacher": {f"backbone.{k}": v for k, v in state.items()} | {"head.mlp.0.weight": torch.zeros(3, 3)},
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("architecture", ["test_vit", "resnet10t"])
def test_local_checkpoint(architecture: str, wrapping: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model(architecture, num_classes=0).eval()
    file = tmp_path / "checkpoint.pth"
    torch.save(WRAPPINGS[wrapping](model.state_dict()), file)
    backbone = load_backbone(architecture, path=file, device="cpu")
    inputs = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        wanted = model.forward_features(backbone.normalised(inputs))
        found = backbone.model.forward_features(backbone.normalised(inputs))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not backbone.has_head
    assert backbone.provenance["weights"] == "checkpoint.pth"


def test_local_safetensors_with_a_head_of_its_own(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=7)
    file = tmp_path / "flowers.safetensors"
    save_file(model.state_dict(), file)
    backbone = load_backbone("test_vit", path=file, device="cpu")
    assert backbone.class_names == tuple(f"class {i}" for i in range(7))
    assert torch.equal(backbone.model.head.weight, model.head.weight)
    assert backbone.provenance["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


class Surprise:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code from the file ran",))


def test_unusable_files_get_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def expect(words: str, path: Path, name: str = "test_vit") -> None:
        with pytest.raises(BackboneError, match=words) as caught:
            load_backbone(name, path=path, device="cpu")
        assert "\n" not in str(caught.value)

    state = timm.create_model("test_vit").state_dict()
    whole, other = tmp_path / "whole.pth", tmp_path / "other.pth"
    torch.save(state, whole)
    torch.save(timm.create_model("resnet10t").state_dict(), other)
    expect(r"other.pth does not fit test_vit.*: missing: cls_token", other)
    torch.save({k: v for k, v in state.items() if k != "blocks.3.norm1.weight"}, other)
    expect("missing: blocks.3.norm1.weight. Give", other)
    expect("of another shape: ", whole, "vit_tiny_patch16_224")
    for suffix in (".pth", ".safetensors"):
        cut = tmp_path / f"cut{suffix}"
        if suffix == ".pth":
            cut.write_bytes(whole.read_bytes()[:50_000])
        else:
            save_file(state, cut)
            cut.write_bytes(cut.read_bytes()[:50_000])
        expect("copy or download it again", cut)
        cut.write_bytes(b"")
        expect("copy or download it again", cut)
    torch.save({"state_dict": state, "callback": Surprise()}, other)
    expect("would run code from the file, so it is refused", other)
    assert capsys.readouterr().out == ""
    torch.save({"epoch": 3}, other)
    expect("holds no named tensors", other)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    expect("does not look like weights", text)
    expect("no file", tmp_path / "absent.pth")
    expect("is a folder", tmp_path)
