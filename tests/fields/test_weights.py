"""Which weights a field uses: one test for each branch of the rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from weights_fixtures import bundled_folder

from featup_app.base.errors import UpsamplerError
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import CLASSICAL, JBUStack, Upsampler, save_upsampler, upsample
from featup_app.fields.resize_conv import ResizeConvNetwork
from featup_app.fields.weights import Names, choose, loaded_upsampler, options_for
from featup_app.images import image_from_array

CHANNELS = 6
TINY: Names = ("tiny", "block 1", CHANNELS)
HOME = {"backbone": "tiny", "layer": "block 1"}
NETWORKS = {"jbu": JBUStack, "resize_conv": ResizeConvNetwork}


@pytest.fixture(autouse=True)
def resources(tmp_path, monkeypatch) -> Path:
    """A folder of bundled weights of this test's own, empty."""
    return bundled_folder(tmp_path / "resources", monkeypatch)


def write(path: Path, method: str = "jbu", *, norm: bool = False, **facts: object) -> Path:
    channels = facts.get("channels", CHANNELS)
    network = NETWORKS[method](channels or 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    scales = (torch.ones(CHANNELS), torch.zeros(CHANNELS)) if norm else None
    provenance = {"method": method, "title": path.stem, **facts}
    return save_upsampler(path, network, norm=scales, provenance=provenance)


def title(*args: object, **options: object) -> str | None:
    found = choose(*args, **options)
    return None if found is None else found.title


# -- without given weights -----------------------------------------------------------------------------------------------


def test_bundled_ones_for_backbone_and_layer_then_for_the_backbone_then_universal_ones_then_none(resources):
    assert choose("jbu", TINY) is None
    write(resources / "jbu-universal.safetensors", channels=None)
    assert title("jbu", TINY) == "jbu-universal"
    write(resources / "jbu-tiny.safetensors", backbone="tiny")
    assert title("jbu", TINY) == "jbu-tiny"
    write(resources / "jbu-tiny-block-1.safetensors", **HOME)
    assert title("jbu", TINY) == "jbu-tiny-block-1"
    assert title("jbu", ("tiny", "block 2", CHANNELS)) == "jbu-tiny"
    assert title("jbu", ("tiny", "block 1", 8)) == "jbu-universal"
    assert title("jbu", ("other", "block 1", CHANNELS)) == "jbu-universal"
    assert title("jbu", (None, None, CHANNELS)) == "jbu-universal"
    assert choose("resize_conv", TINY) is None, "the files are for another method"


def test_features_name_their_backbone_and_layer_themselves(resources):
    write(resources / "resize_conv-tiny.safetensors", "resize_conv", **HOME)
    image, geometry = image_from_array(np.zeros((8, 8, 3), np.uint8)), Geometry((8, 8), (8, 8), (2, 2))
    features = FeatureMap(torch.zeros(CHANNELS, 2, 2), geometry, "block 1", image, backbone_name="tiny")
    assert title("resize_conv", features) == "resize_conv-tiny"


def test_methods_without_weights_get_none(resources):
    write(resources / "jbu-universal.safetensors", channels=None)
    assert choose("bilinear", TINY) is None
    assert choose("implicit", TINY) is None


def test_untrained_ones_can_be_asked_for(resources):
    write(resources / "jbu-universal.safetensors", channels=None)
    write(resources / "resize_conv-tiny.safetensors", "resize_conv", **HOME)
    assert choose("jbu", TINY, upsampler=CLASSICAL) is None
    assert choose("jbu", TINY, trained=False) is None
    assert choose("resize_conv", TINY, trained=False) is None


# -- given weights -------------------------------------------------------------------------------------------------------


def test_given_ones_come_before_bundled_ones_loaded_or_as_a_file(resources, tmp_path):
    write(resources / "jbu-tiny.safetensors", **HOME)
    mine = write(tmp_path / "mine.safetensors", **HOME)
    assert title("jbu", TINY, upsampler=mine) == "mine"
    assert title("jbu", TINY, upsampler=str(mine)) == "mine"
    loaded = Upsampler(JBUStack(CHANNELS), CHANNELS)
    assert choose("jbu", TINY, upsampler=loaded) is loaded


def test_given_ones_for_other_features_are_refused_and_not_replaced(resources, tmp_path):
    write(resources / "jbu-universal.safetensors", channels=None)
    mine = write(tmp_path / "mine.safetensors", **HOME)
    for features, words in (
        (("tiny", "block 1", 8), "for 6 channels"),
        (("other", "block 1", CHANNELS), "trained for the backbone tiny"),
        (("tiny", "block 2", CHANNELS), "trained for the layer block 1"),
    ):
        with pytest.raises(UpsamplerError, match=words):
            choose("jbu", features, upsampler=mine)
        with pytest.raises(UpsamplerError, match=words):
            choose("jbu", features, upsampler=mine, any_method=True)


def test_given_ones_for_another_method_are_refused_or_passed_over(resources, tmp_path):
    write(resources / "resize_conv-tiny.safetensors", "resize_conv", **HOME)
    mine = write(tmp_path / "mine.safetensors", **HOME)
    with pytest.raises(UpsamplerError, match="holds weights for FeatUp JBU, not for Resize-conv"):
        choose("resize_conv", TINY, upsampler=mine)
    assert title("resize_conv", TINY, upsampler=mine, any_method=True) == "resize_conv-tiny"
    assert title("resize_conv", TINY, upsampler=CLASSICAL, any_method=True) == "resize_conv-tiny"
    assert title("jbu", TINY, upsampler=mine, any_method=True) == "mine"


def test_a_file_that_cannot_be_read_is_an_error(resources, tmp_path):
    write(resources / "jbu-universal.safetensors", channels=None)
    with pytest.raises(UpsamplerError, match="There is no file"):
        choose("jbu", TINY, upsampler=tmp_path / "absent.safetensors", any_method=True)


# -- for a classifier's head ---------------------------------------------------------------------------------------------


def test_a_head_gets_weights_that_fit_and_do_not_normalise_as_they_are(resources, tmp_path):
    for mine in (write(tmp_path / "own.safetensors", **HOME), write(tmp_path / "all.safetensors", channels=None)):
        assert title("jbu", TINY, upsampler=mine, for_head=True) == mine.stem
    mine = write(tmp_path / "conv.safetensors", "resize_conv", **HOME)
    assert title("resize_conv", TINY, upsampler=mine, for_head=True) == "conv"


@pytest.mark.parametrize("features", [TINY, ("other", "block 1", CHANNELS), ("tiny", "block 2", 8)])
def test_of_others_a_head_gets_the_stages_alone_or_none(resources, tmp_path, features):
    norm = features == TINY
    mine = write(tmp_path / "mine.safetensors", norm=norm, **HOME)
    found = choose("jbu", features, upsampler=mine, for_head=True)
    assert found is not None
    assert found.universal
    assert found.norm is None
    assert found.title == "mine (stages alone)"
    mine = write(tmp_path / "conv.safetensors", "resize_conv", norm=norm, **HOME)
    assert choose("resize_conv", features, upsampler=mine, for_head=True) is None


def test_a_head_gets_bundled_ones_by_the_same_rule(resources):
    write(resources / "jbu-tiny.safetensors", norm=True, **HOME)
    write(resources / "resize_conv-tiny.safetensors", "resize_conv", norm=True, **HOME)
    assert title("jbu", TINY, for_head=True) == "jbu-tiny (stages alone)"
    assert choose("resize_conv", TINY, for_head=True) is None
    assert choose("jbu", TINY, upsampler=CLASSICAL, for_head=True) is None


# -- files and options ---------------------------------------------------------------------------------------------------


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path):
    mine = write(tmp_path / "mine.safetensors", **HOME)
    first = loaded_upsampler(mine)
    assert loaded_upsampler(str(mine)) is first
    write(mine, **HOME, created="later")
    assert loaded_upsampler(mine).provenance["created"] == "later"
    mine.unlink()
    with pytest.raises(UpsamplerError, match="There is no file"):
        loaded_upsampler(mine)


def test_options_make_the_field_of_what_was_chosen(resources):
    image, geometry = image_from_array(np.zeros((8, 8, 3), np.uint8)), Geometry((8, 8), (8, 8), (2, 2))
    features = FeatureMap(torch.zeros(CHANNELS, 2, 2), geometry, "block 1", image)
    write(resources / "jbu-universal.safetensors", channels=None)
    for method in ("lowres", "resize_conv", "jbu"):
        for chosen in (None, choose(method, features)):
            settings = upsample(features, method=method, **options_for(method, chosen)).settings()
            assert ("upsampler" in settings) == (chosen is not None)
