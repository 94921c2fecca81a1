"""Fits as files: the same numbers to the last bit, for the image they were made for, and a sentence for everything else."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from training_fixtures import PatchBackbone, features_of, picture

from featup_app.backbones import load_backbone
from featup_app.base.errors import UpsamplerError
from featup_app.base.files import PROVENANCE
from featup_app.base.resources import resource
from featup_app.features import FeatureMap
from featup_app.fields import upsample
from featup_app.fields.implicit import FitRecipe, ImplicitFit, load_fit, save_fit, start
from featup_app.fields.implicit.files import read_fit_facts
from featup_app.images import image_from_array, load_image

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (24, 32)
SOLVED = FitRecipe(name="tiny", waves=24, views=4, views_per_step=4)
RECIPES = {
    "bilinear": replace(SOLVED, start="bilinear"),
    "joint bilateral": replace(SOLVED, start="jbu"),
    "fourier": SOLVED,
    "all components": replace(SOLVED, components=0, uncertainty=False),
    "no colour": replace(SOLVED, colour=False),
    "perceptron": replace(SOLVED, network="perceptron", hidden=12, frequencies=4, solve=False, gradient_steps=3),
    "positions": replace(
        SOLVED, network="perceptron", hidden=12, frequencies=4, solve=False, gradient_steps=3, colour=False, dropout=0.1
    ),
}


def fitted(features: FeatureMap, recipe: FitRecipe = SOLVED):
    fit = ImplicitFit(features, recipe=recipe)
    fit.run()
    return fit.field()


@pytest.fixture(scope="module")
def field(features):
    return fitted(features)


@pytest.mark.parametrize("name", RECIPES)
def test_a_fit_comes_back_to_the_last_bit(tmp_path, features, name):
    field = fitted(features, RECIPES[name])
    path = tmp_path / "new folder" / "cat.safetensors"
    save_fit(field, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["cat.safetensors"]
    again = load_fit(path, features)
    for size in ((24, 32), (37, 53)):
        assert torch.equal(again.features(size=size), field.features(size=size))
    assert again.settings() == json.loads(json.dumps(field.settings()))
    assert (again.uncertainty is None) == (field.uncertainty is None)
    if field.uncertainty is not None:
        assert torch.equal(again.uncertainty.scale, field.uncertainty.scale)
    save_fit(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_file_holds_the_weights_that_its_fit_started_from(tmp_path, monkeypatch):
    photo = image_from_array(load_image(resource("images", "coffee.jpg")).pixels[::4, ::4])
    features = load_backbone("tf_efficientnet_lite0").extract(photo, size="96")
    field = fitted(features, replace(SOLVED, waves=8, start="jbu"))
    weights = field.start.weights
    assert weights.home("backbone") == "tf_efficientnet_lite0"
    assert bool(weights.restoration.positional.any())
    path = tmp_path / "fit.safetensors"
    save_fit(field, path)
    monkeypatch.setattr(start, "choose", lambda *names: pytest.fail("the file has them"))
    again = load_fit(path, features)
    assert torch.equal(again.features(size=SIZE), field.features(size=SIZE))
    assert again.start.weights.facts() == {**weights.facts(), "file": path.name}


def test_a_file_holds_the_settings_of_the_attention_that_its_fit_started_from(tmp_path, features, field, monkeypatch):
    path = tmp_path / "fit.safetensors"
    save_fit(field, path)
    monkeypatch.setattr("featup_app.fields.attention.COLOUR", 0.5)
    assert torch.equal(load_fit(path, features).features(size=SIZE), field.features(size=SIZE))


def test_weights_that_a_file_lacks_are_named(tmp_path, features):
    path = tmp_path / "fit.safetensors"
    save_fit(fitted(features, replace(SOLVED, start="jbu")), path)
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    del tensors["start.upsampler.up2.sigma_spatial"]
    save_file(tensors, path, metadata)
    with pytest.raises(UpsamplerError, match=r"fit\.safetensors lacks the tensor upsampler\.up2\.sigma_spatial"):
        load_fit(path, features)


def test_a_fit_serves_the_method_by_name(tmp_path, features, field):
    path = tmp_path / "fit.safetensors"
    save_fit(field, path)
    found = upsample(features, method="implicit", fit=path)
    assert torch.equal(found.features(size=SIZE), field.features(size=SIZE))
    with pytest.raises(UpsamplerError, match='A finished fit takes no "steps"'):
        upsample(features, method="implicit", fit=path, steps=3)
    without = dataclasses.replace(features, backbone=None)
    assert torch.equal(load_fit(path, without).features(size=SIZE), field.features(size=SIZE))


def test_the_method_by_name_fits_what_it_is_told_to(features):
    field = upsample(features, method="implicit", recipe=SOLVED, seed=2, steps=1)
    assert field.settings()["steps"] == 1
    assert field.settings()["seed"] == 2
    for options, words in (
        ({"recipe": "fast"}, "Choose one of: default, paper"),
        ({"steps": 0}, "given 0 steps; give more than 0"),
        ({"seconds": -1.0}, "given -1.0 seconds"),
        ({"radius": 3}, 'has no option "radius"'),
    ):
        with pytest.raises(UpsamplerError, match=words):
            upsample(features, method="implicit", **options)


def test_a_file_tells_what_it_was_fitted_to(tmp_path, features, field):
    path = tmp_path / "fit.safetensors"
    save_fit(field, path)
    facts = read_fit_facts(path)
    assert facts["image"] == {"name": "picture 3", "sha256": features.image.sha256, "size_hw": [48, 64]}
    assert (facts["backbone"], facts["layer"], facts["input_hw"]) == ("patches", "block 0", [24, 32])
    assert facts["fit"]["recipe"] == SOLVED.facts()
    for name in ("steps", "views", "seed", "heldout_error", "bilinear_heldout_error", "jbu_heldout_error", "seconds"):
        assert isinstance(facts["fit"][name], int | float)


def test_a_file_of_something_else_is_refused_in_a_sentence(tmp_path, features, field):
    path = tmp_path / "fit.safetensors"
    save_fit(field, path)
    other_image = image_from_array(255 - picture(3).pixels, name="negative")
    other_weights = dataclasses.replace(
        features, provenance=MappingProxyType({"backbone": "patches", "weights_sha256": "1"})
    )
    for others, words in (
        (features_of(other_image, SIZE), r'made for the image "picture 3", and not for "negative"'),
        (features_of(picture(3), SIZE, PatchBackbone("stripes")), r"another backbone \(patches instead of stripes\)"),
        (other_weights, r"another weights of the backbone|other weights"),
        (dataclasses.replace(features, layer="block 1"), r"another layer \(block 0 instead of block 1\)"),
        (features_of(picture(3), (48, 64)), r"another input size"),
    ):
        with pytest.raises(UpsamplerError, match=words):
            load_fit(path, others)


def test_missing_damaged_and_foreign_files_are_refused_in_a_sentence(tmp_path, features, field):
    path = tmp_path / "fit.safetensors"
    save_fit(field, path)
    whole = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    facts = json.loads(metadata[PROVENANCE])

    def written(tensors: dict[str, torch.Tensor], facts: object) -> bytes:
        save_file(tensors, tmp_path / "changed.safetensors", {PROVENANCE: json.dumps(facts)})
        return (tmp_path / "changed.safetensors").read_bytes()

    lacking = {name: value for name, value in tensors.items() if name != "basis"}
    cases = {
        "empty": (b"", "damaged or incomplete"),
        "cut": (whole[:-100], "damaged or incomplete"),
        "text": (b"hello, this is no fit at all", "damaged or incomplete"),
        "no basis": (written(lacking, facts), "damaged or incomplete"),
        "wrong basis": (written(tensors | {"basis": torch.zeros(2, 2)}, facts), "damaged or incomplete"),
        "wrong network": (written(tensors | {"network.phases": torch.zeros(3)}, facts), "damaged or incomplete"),
        "no last layer": (
            written({name: value for name, value in tensors.items() if name != "network.last.weight"}, facts),
            "damaged or incomplete",
        ),
        "no recipe": (written(tensors, {**facts, "fit": {}}), "damaged or incomplete"),
        "no settings": (written(tensors, {**facts, "fit": None}), "damaged or incomplete"),
        "another schema": (written(tensors, {**facts, "schema": "weights"}), "holds no implicit fit"),
        "no facts": (written(tensors, None), "holds no implicit fit"),
        "another version": (written(tensors, {**facts, "version": 99}), "another version of this program"),
        "no image": (written(tensors, {**facts, "image": None}), "made for another image"),
    }
    for name, (content, words) in cases.items():
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(content)
        with pytest.raises(UpsamplerError, match=words):
            load_fit(file, features)
    with pytest.raises(UpsamplerError, match="There is no file"):
        load_fit(tmp_path / "absent.safetensors", features)
    with pytest.raises(UpsamplerError, match="There is no file"):
        load_fit(tmp_path, features)


def test_a_file_that_cannot_be_written_leaves_the_older_one(tmp_path, field, monkeypatch):
    path = tmp_path / "fit.safetensors"
    path.write_bytes(b"older")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("featup_app.base.files.os.replace", full)
    with pytest.raises(UpsamplerError, match="no space left on device; choose another name or folder"):
        save_fit(field, path)
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit.safetensors"]
