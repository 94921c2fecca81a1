"""Which upsampler weights the session uses, for each view; and what exports say about them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from weights_fixtures import bundled_folder

from featup_app.base.errors import UpsamplerError
from featup_app.base.resources import resource
from featup_app.engine.exporting import ExportOptions, export_image
from featup_app.engine.session import CLASSIFIER, Session
from featup_app.engine.settings import ViewSettings, upsampler_facts
from featup_app.export import load_export
from featup_app.fields import JBUStack, load_upsampler, save_upsampler, upsample
from featup_app.fields.carafe import CarafeNetwork
from featup_app.fields.network import untrained
from featup_app.fields.resize_conv import ResizeConvNetwork
from featup_app.images import Image, image_from_array, load_image
from featup_app.lenses import CAMRequest, PCARequest

pytestmark = pytest.mark.usefixtures("one_thread")

DINO = ViewSettings(method="jbu", input_size="56", output_size="40x56")
LITE = ViewSettings(method="jbu", backbone=CLASSIFIER, input_size="96", output_size="40x56")


@pytest.fixture(scope="module")
def photo() -> Image:
    return image_from_array(load_image(resource("images", "coffee.jpg")).pixels[60:340:2, 120:530:2])


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(device="cpu")


@pytest.fixture(autouse=True)
def resources(tmp_path, monkeypatch) -> Path:
    """A folder of bundled upsamplers of this test's own, empty."""
    return bundled_folder(tmp_path / "resources", monkeypatch)


def write(path: Path, channels: int | None = 384, *, norm: bool = False, seed: int = 0, **provenance: object) -> str:
    """A file with drawn weights; ``channels`` None for a universal one."""
    generator = torch.Generator().manual_seed(seed)
    stack = JBUStack(channels or 1)
    with torch.no_grad():
        for key, parameter in stack.named_parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator) + float("sigma" in key))
            if channels is None and key.startswith("fixup_proj"):
                parameter.zero_()
    scales = (1 + torch.rand(channels or 1, generator=generator), torch.rand(channels or 1, generator=generator))
    save_upsampler(path, stack, norm=scales if norm else None, provenance={"channels": channels, **provenance})
    return str(path)


def test_the_chosen_the_bundled_or_the_classical_weights(session, photo, tmp_path, resources):
    def used(settings: ViewSettings) -> tuple[str, str]:
        facts = session.view(photo, settings, PCARequest()).facts.upsampler
        return facts.kind, facts.title

    assert used(DINO) == ("classical", "classical")
    write(resources / "jbu-universal.safetensors", None, title="All")
    assert used(DINO) == ("universal", "All")
    write(resources / f"jbu-{DINO.backbone}.safetensors", title="Own", backbone=DINO.backbone, layer="block 10")
    assert used(DINO) == ("bundled", "Own")
    assert used(DINO.with_(layer="block 5")) == ("universal", "All")
    path = write(tmp_path / "mine.safetensors", title="Mine")
    assert used(DINO.with_(upsampler=path)) == ("file", "Mine")
    assert used(DINO.with_(upsampler="classical")) == ("classical", "classical")
    assert session.view(photo, DINO.with_(method="bilinear", upsampler=path), PCARequest()).facts.upsampler is None


def test_views_are_those_of_the_field_with_these_weights(session, photo, tmp_path):
    path = write(tmp_path / "mine.safetensors")
    settings = DINO.with_(upsampler=path)
    view = session.view(photo, settings, PCARequest(fit="field"))
    field = upsample(session.features(photo, DINO), photo, "jbu", upsampler=path)
    torch.testing.assert_close(
        session.field(photo, settings).features(size=(40, 56)), field.features(size=(40, 56)), rtol=0, atol=0
    )
    classical = session.view(photo, DINO.with_(upsampler="classical"), PCARequest(fit="field"))
    assert not np.allclose(view.values, classical.values, atol=1e-2)


def test_a_file_that_has_changed_is_read_again_and_an_unchanged_one_is_not(session, photo, tmp_path):
    path = tmp_path / "mine.safetensors"
    settings = DINO.with_(upsampler=write(path, title="First"))
    first = session.field(photo, settings)
    assert session.field(photo, settings) is first
    write(path, title="Second", seed=1)
    os.utime(path, ns=(1, 1))
    assert session.view(photo, settings, PCARequest()).facts.upsampler.title == "Second"
    path.unlink()
    with pytest.raises(UpsamplerError, match="There is no file"):
        session.field(photo, settings)


def test_classes_of_another_backbone_use_its_own_weights_unless_these_serve_every_backbone(session, photo, tmp_path):
    own = session.view(photo, DINO.with_(upsampler=write(tmp_path / "mine.safetensors", title="Mine")), CAMRequest())
    assert own.facts.upsampler.kind == "classical"
    assert "has no classes" in own.note
    every = session.view(
        photo, DINO.with_(upsampler=write(tmp_path / "all.safetensors", None, title="All")), CAMRequest()
    )
    assert every.facts.upsampler.title == "All"
    assert not np.allclose(own.values, every.values)
    assert session.view(photo, DINO.with_(upsampler="classical"), CAMRequest()).facts.upsampler.kind == "classical"


def test_classes_are_read_from_features_that_the_head_knows(session, photo, tmp_path):
    """The head reads the backbone's own features of its own layer, so of weights for others only the stages count."""
    channels = session.features(photo, LITE).channels
    path = write(tmp_path / "lite.safetensors", channels, norm=True, title="Lite", backbone=CLASSIFIER)
    view = session.view(photo, LITE.with_(upsampler=path), CAMRequest())
    assert view.facts.upsampler.title == "Lite (stages alone)"
    stages = load_upsampler(path).stages_alone()
    features = session.features(photo, LITE.with_(layer=view.facts.layer))
    field = upsample(features, photo, "jbu", upsampler=stages)
    _, weights = session.backbone(LITE).class_weights(photo, [view.chosen.index], size=LITE.input_size)
    np.testing.assert_allclose(view.values, field.project(weights, size=(40, 56))[0], atol=1e-4, rtol=1e-4)


def test_components_are_fitted_on_features_that_are_normalised_alike(session, photo, tmp_path):
    normed = DINO.with_(upsampler=write(tmp_path / "norm.safetensors", norm=True))
    plain = DINO.with_(upsampler=write(tmp_path / "plain.safetensors"))

    def mean(settings: ViewSettings, fit: str, method: str = "jbu") -> torch.Tensor:
        return session.view(photo, settings.with_(method=method), PCARequest(fit=fit)).basis.mean

    own = session.features(photo, DINO).data.mean((1, 2))
    source = session.field(photo, normed).coarse.data.mean((1, 2))
    assert not torch.allclose(own, source, atol=1e-2)
    torch.testing.assert_close(mean(plain, "grid"), own, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mean(normed, "grid"), source, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mean(normed, "grid", "bilinear"), own, atol=1e-4, rtol=1e-4)
    assert torch.equal(mean(plain, "joint"), mean(plain, "joint", "bilinear"))
    assert not torch.allclose(mean(normed, "joint"), mean(normed, "joint", "bilinear"), atol=1e-2)


def test_whether_a_file_fits_is_known_before_anything_is_computed(session, tmp_path):
    path = write(
        tmp_path / "mine.safetensors", title="Mine", data={"photos": 3}, created="2026-01-02", layer="block 10"
    )
    facts = session.check_upsampler(DINO.with_(upsampler=path))
    assert (facts.kind, facts.title, facts.universal) == ("file", "Mine", False)
    assert dict(facts.details) == {
        "File": path,
        "Layer": "block 10",
        "Channels": "384",
        "Trained on": "photos 3",
        "Made": "2026-01-02",
    }
    with pytest.raises(UpsamplerError, match="for 384 channels, but the features of tf_efficientnet_lite0, stage"):
        session.check_upsampler(LITE.with_(upsampler=path))
    with pytest.raises(UpsamplerError, match="trained for the layer block 10, but the features come from block 5"):
        session.check_upsampler(DINO.with_(upsampler=path, layer="block 5"))
    assert upsampler_facts(DINO, None).kind == "classical"


def test_exports_say_which_weights_made_them(session, photo, tmp_path):
    path = write(tmp_path / "mine.safetensors", norm=True, title="Mine", data="photos")
    options = ExportOptions(views=(PCARequest(), CAMRequest()))
    folder = tmp_path / "out"
    files = export_image(session, photo, DINO.with_(upsampler=path), options, folder, stem="a")
    facts = load_export(files[0]).provenance["upsampler"]["settings"]
    assert facts["kernel"] == "learned"
    known = load_upsampler(path)
    assert facts["upsampler"]["sha256"] == known.sha256
    assert facts["upsampler"]["file"] == "mine.safetensors"
    assert facts["upsampler"]["title"] == "Mine"
    assert facts["upsampler"]["trained"]["data"] == "photos"
    assert facts["upsampler"]["channel_norm"].startswith("layer norm")
    assert len(files) == 3


def write_carafe(path: Path, channels: int = 384, **facts: object) -> str:
    network = untrained(CarafeNetwork, channels)
    network.encoders[0].bias.add_(torch.randn(100, generator=torch.Generator().manual_seed(0)))
    save_upsampler(path, network, provenance={"method": "carafe", "title": path.stem, **facts})
    return str(path)


def test_a_chosen_file_serves_the_method_that_it_is_for_and_the_others_use_theirs(session, photo, tmp_path, resources):
    write(resources / "jbu-universal.safetensors", None, title="All")
    chosen = DINO.with_(method="carafe", upsampler=write_carafe(tmp_path / "mine.safetensors"))
    carafe = session.view(photo, chosen, PCARequest()).facts.upsampler
    assert (carafe.kind, carafe.title, carafe.method) == ("file", "mine", "carafe")
    assert ("Method", "carafe") in carafe.details
    joint = session.view(photo, chosen.with_(method="jbu"), PCARequest()).facts.upsampler
    assert (joint.kind, joint.title, joint.method) == ("universal", "All", "jbu")
    assert session.view(photo, chosen.with_(method="bilinear"), PCARequest()).facts.upsampler is None


def test_a_method_without_weights_for_the_features_is_untrained_and_says_so(session, photo, resources):
    settings = DINO.with_(method="carafe")
    assert session.view(photo, settings, PCARequest()).facts.upsampler.kind == "untrained"
    write_carafe(resources / "carafe-dinov2-s14-imgfocus.safetensors", backbone=DINO.backbone, layer="block 10")
    other = DINO.with_(method="carafe", upsampler="classical")  # which concerns joint bilateral upsampling
    facts = session.view(photo, other.with_(output_size="41x56"), PCARequest()).facts.upsampler
    assert facts.kind == "bundled"
    assert "untrained" in str(session.field(photo, settings.with_(layer="block 5")).settings()["weights"])


def test_a_file_for_another_method_is_refused_unless_any_will_do(session, tmp_path):
    path = write_carafe(tmp_path / "mine.safetensors")
    with pytest.raises(UpsamplerError, match="choose the method CARAFE"):
        session.check_upsampler(DINO.with_(upsampler=path))
    assert session.check_upsampler(DINO.with_(upsampler=path), any_method=True).method == "carafe"


def test_classes_are_read_from_untrained_features_where_weights_do_not_fit_the_head(session, photo, tmp_path):
    path = write_carafe(tmp_path / "lite.safetensors", 320, backbone=CLASSIFIER, layer="stage 4")
    view = session.view(photo, LITE.with_(method="carafe", upsampler=path), CAMRequest())
    assert view.facts.upsampler.kind == "untrained"


def test_components_follow_a_network_that_normalises_its_features(session, photo, tmp_path):
    """Resize-convolution is not linear in the features, but reads them behind a norm all the same."""
    path, ones = tmp_path / "normed.safetensors", torch.ones(384)
    network = untrained(ResizeConvNetwork, 384)
    save_upsampler(path, network, norm=(2 * ones, 0 * ones), provenance={"method": "resize_conv"})
    settings = DINO.with_(method="resize_conv", upsampler=str(path))
    basis = session.view(photo, settings, PCARequest(fit="grid")).basis
    assert not torch.allclose(basis.mean, session.features(photo, DINO).data.mean((1, 2)), atol=1e-2)
    torch.testing.assert_close(
        basis.mean, session.field(photo, settings).coarse.data.mean((1, 2)), atol=1e-4, rtol=1e-4
    )
