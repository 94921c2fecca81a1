"""Upsampler files: what is read, written, refused; and which weights the method uses."""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from weights_fixtures import bundled_folder

import featup_app
from featup_app.base.errors import UpsamplerError
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import JBUStack, Upsampler, default_upsampler, load_upsampler, save_upsampler, upsample
from featup_app.images import image_from_array

pytestmark = pytest.mark.usefixtures("one_thread")

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
CHANNELS = 6
OBJECTS = {
    "crop": {"size": 224},
    "arguments": argparse.Namespace(seed=1),
    "counts": defaultdict(list, {"a": [1]}),
    "types": {int, float},
}
"""Settings as training programs keep them beside the weights."""


def make_stack(channels: int = CHANNELS, *, seed: int = 0, corrected: bool = True) -> JBUStack:
    """A stack with drawn weights, whatever torch's initialisation draws."""
    generator = torch.Generator().manual_seed(seed)
    stack = JBUStack(channels)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + float("sigma" in name))
            if name.startswith("fixup_proj") and not corrected:
                parameter.zero_()
    return stack.eval()


def make_norm(channels: int = CHANNELS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return 1 + 0.1 * torch.randn(channels, generator=generator), 0.1 * torch.randn(channels, generator=generator)


def make_features(channels: int = CHANNELS, *, backbone: str | None = None, layer: str = "block 1") -> FeatureMap:
    rng = np.random.default_rng(3)
    image = image_from_array(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    data = torch.randn(channels, 3, 4, generator=torch.Generator().manual_seed(1))
    return FeatureMap(data, Geometry((48, 64), (48, 64), (3, 4)), layer, image, backbone_name=backbone)


def published(stack: JBUStack, *, norm: bool = True) -> dict[str, object]:
    """A checkpoint laid out as the published ones are."""
    state = {f"upsampler.{key}": value for key, value in stack.state_dict().items()}
    state |= {"downsampler.w": torch.ones(4, 4), "scale_net.net.weight": torch.ones(1, CHANNELS, 1, 1)}
    state |= {"model.0.model.cls_token": torch.zeros(1, 1, CHANNELS)}
    if norm:
        weight, bias = make_norm()
        state |= {"model.1.norm.weight": weight, "model.1.norm.bias": bias}
    return {
        "epoch": 0,
        "global_step": 2000,
        "pytorch-lightning_version": "2.2.1",
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "dirpath": "out"}},
        "hyper_parameters": {"model_type": "dino16", "lr": 1e-3, "folder": Path("out"), **OBJECTS},
        "state_dict": state,
    }


def assert_same_weights(one: JBUStack, two: JBUStack) -> None:
    first, second = one.state_dict(), two.state_dict()
    assert list(first) == list(second)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


# -- reading -------------------------------------------------------------------------------------------------------------


def test_the_reference_checkpoint_of_the_published_layout():
    path = SHARED / "lightning_jbu.ckpt"
    if not path.is_file():
        pytest.skip("needs lightning_jbu.ckpt of the reference tensors in ../shared/golden, which is not there")
    found = featup_app.load_upsampler(path)
    assert found.channels == 12
    assert found.norm is not None
    assert not found.stack.training
    with np.load(SHARED / "jbu_stack_square.npz", allow_pickle=False) as known:
        for key, value in found.stack.state_dict().items():
            np.testing.assert_array_equal(value, known[f"state/upsampler.{key}"])


@pytest.mark.parametrize("norm", [True, False])
def test_a_published_checkpoint(tmp_path, norm):
    stack, path = make_stack(), tmp_path / "dino16_jbu.ckpt"
    torch.save(published(stack, norm=norm), path)
    found = load_upsampler(path)
    assert_same_weights(found.stack, stack)
    assert (found.channels, found.title, found.path) == (CHANNELS, "dino16_jbu", path)
    assert (found.norm is not None) == norm
    if norm:
        assert all(torch.equal(one, two) for one, two in zip(found.norm, make_norm(), strict=True))
    assert found.provenance["hyper_parameters"] == {"model_type": "dino16", "lr": 1e-3}
    assert found.provenance["steps"] == 2000


@pytest.mark.parametrize("prefix", ["", "upsampler."])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
def test_plain_state_dicts(tmp_path, prefix, suffix):
    stack, path = make_stack(), tmp_path / f"weights{suffix}"
    state = {prefix + key: value for key, value in stack.state_dict().items()}
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    found = load_upsampler(str(path))
    assert_same_weights(found.stack, stack)
    assert (found.channels, found.norm) == (CHANNELS, None)


def test_without_a_last_correction_any_number_of_channels_is_served(tmp_path):
    stack, path = make_stack(), tmp_path / "stages.pt"
    torch.save({k: v for k, v in stack.state_dict().items() if not k.startswith("fixup_proj")}, path)
    found = load_upsampler(path)
    assert found.universal
    for channels in (1, 5):
        field = upsample(make_features(channels), method="jbu", upsampler=found)
        assert field.features(size=(12, 16)).shape == (channels, 12, 16)


def test_reading_draws_no_random_numbers(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(make_stack().state_dict(), path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_upsampler(path)
    assert torch.equal(torch.rand(3), expected)


# -- writing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [True, False])
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path, norm):
    stack, path = make_stack(), tmp_path / "new folder" / "mine.safetensors"
    facts = {"title": "Mine", "backbone": "tiny", "layer": "block 1", "data": {"photos": 12}, "created": "2026-01-02"}
    save_upsampler(path, stack, norm=make_norm() if norm else None, provenance=facts)
    found = load_upsampler(path)
    assert_same_weights(found.stack, stack)
    assert (found.norm is not None) == norm
    if norm:
        assert all(torch.equal(one, two) for one, two in zip(found.norm, make_norm(), strict=True))
    assert facts.items() <= dict(found.provenance).items()
    assert (found.title, found.channels) == ("Mine", CHANNELS)
    first = path.read_bytes()
    save_upsampler(path, found.stack, norm=found.norm, provenance=found.provenance)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["mine.safetensors"]


def test_a_universal_upsampler_is_written_without_a_correction(tmp_path):
    path = tmp_path / "all.safetensors"
    stack = make_stack(corrected=False)
    save_upsampler(path, stack, provenance={"channels": None, "backbone": ["a", "b"]})
    assert not any("upsampler.fixup_proj" in key for key in load_file(path))
    found = load_upsampler(path)
    assert found.universal
    found.check_fits("anything", "block 3", 17)
    with pytest.raises(UpsamplerError, match="neither a last correction nor a restoration nor a channel norm"):
        save_upsampler(path, make_stack(), provenance={"channels": None})
    with pytest.raises(UpsamplerError, match="neither a last correction nor a restoration nor a channel norm"):
        save_upsampler(path, stack, norm=make_norm(), provenance={"channels": None})
    assert load_upsampler(path).universal, "a refused file leaves the old one as it was"


def test_a_zero_correction_with_open_channels_is_universal_too(tmp_path):
    path = tmp_path / "all.safetensors"
    state = {f"upsampler.{key}": value for key, value in make_stack(corrected=False).state_dict().items()}
    save_file(state, path, metadata={"provenance": json.dumps({"channels": None})})
    assert load_upsampler(path).universal
    save_file(state, path, metadata={"provenance": json.dumps({"channels": CHANNELS})})
    assert load_upsampler(path).channels == CHANNELS


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    broken = make_stack()
    with torch.no_grad():
        broken.up2.range_temp.fill_(float("nan"))
    with pytest.raises(UpsamplerError, match=r"tensor upsampler\.up2\.range_temp holds numbers that are not finite"):
        save_upsampler(tmp_path / "a.safetensors", broken, provenance={})
    with pytest.raises(UpsamplerError, match=r"the ending \.safetensors"):
        save_upsampler(tmp_path / "a.pt", make_stack(), provenance={})
    (tmp_path / "b.safetensors").mkdir()
    with pytest.raises(UpsamplerError, match="Cannot write"):
        save_upsampler(tmp_path / "b.safetensors", make_stack(), provenance={})
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.safetensors"]


# -- refused -------------------------------------------------------------------------------------------------------------


class Surprise:
    def __reduce__(self):
        return print, ("code from the file ran",)


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = {f"upsampler.{key}": value.clone() for key, value in make_stack().state_dict().items()}
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": changed(), "hook": Surprise()}, "would run code from the file, so it is refused"),
        (
            changed(upsampler__up3__range_proj__0__weight=None),
            r"lacks the tensor upsampler\.up3\.range_proj\.0\.weight;",
        ),
        (changed(upsampler__fixup_proj__1__bias=None), r"lacks the tensor upsampler\.fixup_proj\.1\.bias"),
        (changed(upsampler__up5__range_temp=torch.ones(())), r"holds the tensor upsampler\.up5\.range_temp, which"),
        (
            changed(upsampler__up1__fixup_proj__0__weight=torch.ones(49, 50, 1, 1)),
            r"upsampler\.up1\.fixup_proj\.0\.weight has the shape 49x50x1x1 instead of 49x52x1x1",
        ),
        (changed(upsampler__up1__range_temp=torch.ones(2)), r"range_temp has the shape 2 instead of a single number"),
        (changed(upsampler__fixup_proj__1__weight=torch.ones(6, 4, 1, 1)), "shape 6x4x1x1 instead of 6x6x1x1"),
        (changed(upsampler__fixup_proj__1__weight=torch.ones(90_000, 1)), "shape 90000x1 instead of 90000x90000x1x1"),
        (changed(upsampler__up4__sigma_spatial=torch.tensor(float("inf"))), r"up4\.sigma_spatial .* not finite"),
        (changed(upsampler__up4__sigma_spatial=torch.tensor(1)), r"up4\.sigma_spatial holds torch.int64"),
        (changed(norm__weight=torch.ones(6)), r"lacks the tensor norm\.bias"),
        (changed(norm__weight=torch.ones(5), norm__bias=torch.ones(6)), r"norm\.weight has the shape 5 instead of 6"),
        (
            {"model.cls_token": torch.ones(1)},
            "holds no joint bilateral upsampler: it has 1 tensors such as model.cls_token",
        ),
        ({"epoch": 3}, "holds no named tensors"),
        (torch.ones(3), "holds no named tensors"),
        ([1, 2], "holds no named tensors"),
    ],
)
def test_unusable_contents_get_one_sentence(tmp_path, capsys, content, words):
    path = tmp_path / "weights.ckpt"
    torch.save(content, path)
    with pytest.raises(UpsamplerError, match=words) as caught:
        load_upsampler(path)
    assert "\n" not in str(caught.value)
    assert "weights.ckpt" in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".safetensors"])
def test_damaged_files_get_one_sentence(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_upsampler(path, make_stack(), provenance={})
    else:
        torch.save(published(make_stack()), path)
    whole = path.read_bytes()
    for content in (b"", whole[:7], whole[: len(whole) // 2], whole[:-9], b"hello, this is a text", b"\xff" * 400):
        path.write_bytes(content)
        with pytest.raises(UpsamplerError, match="copy or download it again") as caught:
            load_upsampler(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_file_of_weights_gets_one_sentence(tmp_path):
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "absent.ckpt", "There is no file"),
        (tmp_path / "photo.jpg", "does not look like weights"),
    ):
        if path.suffix == ".jpg":
            path.write_bytes(b"abc")
        with pytest.raises(UpsamplerError, match=words):
            load_upsampler(path)
    damaged = tmp_path / "a.safetensors"
    for text in ("{", "[1]"):
        save_file(changed(), damaged, metadata={"provenance": text})
        with pytest.raises(UpsamplerError, match=r"description in .* copy or download the file again"):
            load_upsampler(damaged)


# -- used ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def resources(tmp_path, monkeypatch):
    """A folder of bundled weights of this test's own, empty."""
    return bundled_folder(tmp_path / "resources", monkeypatch)


def test_the_field_is_the_published_module_on_normalised_features(tmp_path):
    stack, path = make_stack(), tmp_path / "a.ckpt"
    torch.save(published(stack), path)
    features = make_features()
    field = upsample(features, method="jbu", upsampler=path)
    weight, bias = make_norm()
    data = features.data.permute(1, 2, 0)
    mean, variance = data.mean(2, keepdim=True), data.var(2, keepdim=True, unbiased=False)
    normalised = ((data - mean) / (variance + 1e-5).sqrt() * weight + bias).permute(2, 0, 1)
    torch.testing.assert_close(field.coarse.data, normalised)
    expected = upsample(FeatureMap(normalised, features.geometry, "block 1", features.image), method="jbu", stack=stack)
    torch.testing.assert_close(field.features(size=(48, 64)), expected.features(size=(48, 64)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.data, make_features().data, rtol=0, atol=0)
    facts = field.settings()
    assert facts["kernel"] == "learned"
    assert facts["upsampler"]["file"] == "a.ckpt"
    assert facts["upsampler"]["sha256"] == load_upsampler(path).sha256
    assert "layer norm" in facts["upsampler"]["channel_norm"]
    json.dumps(facts)


def test_the_whole_way_equals_the_reference_module(tmp_path):
    """Field of a published checkpoint = norm, then the published module's own forward pass."""
    stack, path = make_stack(), tmp_path / "a.ckpt"
    torch.save(published(stack), path)
    features = make_features()
    pixels = torch.from_numpy(features.image.pixels.copy()).permute(2, 0, 1)[None] / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    guidance = (pixels - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    weight, bias = make_norm()
    source = F.layer_norm(features.data.permute(1, 2, 0), (CHANNELS,), weight, bias, 1e-5).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = stack(source, guidance)[0]
    found = upsample(features, method="jbu", upsampler=load_upsampler(path)).features(size=(48, 64))
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-3)  # a field rounds its window weights to float16


def test_weights_for_other_features_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_upsampler(path, make_stack(), provenance={"title": "Mine", "backbone": "tiny", "layer": "block 1"})
    mine = load_upsampler(path)
    upsample(make_features(backbone="tiny"), method="jbu", upsampler=mine)
    upsample(make_features(), method="jbu", upsampler=mine)
    for features, words in (
        (make_features(8, backbone="other"), '"Mine" is for 6 channels, but the features of other, block 1, have 8'),
        (make_features(backbone="other"), "was trained for the backbone tiny, but the features come from other"),
        (make_features(backbone="tiny", layer="block 2"), "was trained for the layer block 1, but .* block 2"),
    ):
        with pytest.raises(UpsamplerError, match=words):
            upsample(features, method="jbu", upsampler=mine)
        upsample(features, method="jbu", upsampler=mine.stages_alone())


def test_options_that_exclude_each_other():
    features, stack = make_features(), make_stack()
    for options, words in (
        ({"stack": stack, "kernel": "classical"}, 'options "stack" and "kernel" of jbu exclude each other'),
        ({"stack": stack, "sigma_range": 0.1}, 'leave out the option "sigma_range"'),
        ({"kernel": "learned"}, 'the only one to choose is "classical"'),
        ({"sigma_range": 0}, "must be greater than zero"),
        ({"upsampler": "absent.pt"}, "There is no file"),
    ):
        with pytest.raises(UpsamplerError, match=words):
            upsample(features, method="jbu", **options)


def test_the_default_is_the_bundled_one_for_the_layer_then_the_universal_one_then_classical(resources):
    def chosen(features: FeatureMap, **options: object) -> str:
        facts = upsample(features, method="jbu", **options).settings()
        return facts["upsampler"]["title"] if "upsampler" in facts else str(facts["kernel"])

    tiny = make_features(backbone="tiny")
    assert chosen(tiny) == "classical"
    save_upsampler(
        resources / "jbu-universal.safetensors",
        make_stack(corrected=False),
        provenance={"title": "All", "channels": None},
    )
    assert chosen(tiny) == "All"
    own = {"title": "Tiny", "backbone": "tiny", "layer": "block 1"}
    save_upsampler(resources / "jbu-tiny.safetensors", make_stack(), provenance=own)
    assert chosen(tiny) == "Tiny"
    assert chosen(make_features(backbone="tiny", layer="block 2")) == "All"
    assert chosen(make_features(8, backbone="tiny")) == "All"
    assert chosen(make_features()) == "All"
    assert chosen(make_features(backbone="hub:some/model")) == "All"
    assert chosen(tiny, kernel="classical") == "classical"
    assert chosen(tiny, sigma_range=0.1) == "classical"
    assert chosen(tiny, stack=make_stack()) == "learned"


def test_bundled_files_are_read_once_and_again_when_they_change(resources, monkeypatch):
    reads: list[Path] = []

    def counted(path: Path) -> Upsampler:
        reads.append(path)
        return load_upsampler(path)

    monkeypatch.setattr("featup_app.fields.weights.load_upsampler", counted)
    path = resources / "jbu-universal.safetensors"
    save_upsampler(path, make_stack(corrected=False), provenance={"channels": None})
    first = default_upsampler("tiny", "block 1", 4)
    assert default_upsampler("tiny", "block 9", 5) is first
    assert len(reads) == 1
    save_upsampler(path, make_stack(corrected=False), provenance={"channels": None, "title": "Newer"})
    found = default_upsampler(None, None, 4)
    assert found is not None
    assert found.title == "Newer"
    path.write_bytes(b"damaged")
    with pytest.raises(UpsamplerError, match=re.escape(path.name)):
        default_upsampler("tiny", "block 1", 4)


def test_a_stack_on_another_device_is_a_copy():
    mine = Upsampler(make_stack(), CHANNELS)
    assert mine.on(torch.device("cpu")) is mine.stack
    assert mine.on(torch.device("meta")) is not mine.stack
    assert mine.stack.up1.sigma_spatial.device.type == "cpu"
