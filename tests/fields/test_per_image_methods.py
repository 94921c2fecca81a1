"""The methods that run the backbone again or are fitted to each image: where their features lie, and what they refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch

from featup_app.backbones import Backbone, load_backbone
from featup_app.backbones.catalogue import BackboneInfo
from featup_app.backbones.finer_stride import finer_features
from featup_app.base.errors import BackboneError, Cancelled, UpsamplerError
from featup_app.base.resources import resource
from featup_app.engine.session import Session
from featup_app.engine.settings import ViewSettings
from featup_app.features import FeatureMap, Geometry, Region
from featup_app.fields import FeatureField, dip, guided_filter, upsample
from featup_app.images import Image, image_from_array, load_image
from featup_app.lenses import PCARequest

pytestmark = pytest.mark.usefixtures("one_thread")

BUNDLED = ("dinov2-s14-imgfocus", "tf_efficientnet_lite0")


@pytest.fixture(scope="module")
def photo() -> Image:
    """A part of a photo, not square: a cup of coffee."""
    return image_from_array(load_image(resource("images", "coffee.jpg")).pixels[60:340:2, 120:530:2])


@pytest.fixture(scope="module")
def maps(photo) -> dict[str, FeatureMap]:
    """A small map of each bundled backbone: 7 x 10 cells of 14 pixels, 4 x 6 of 32."""
    return {
        name: load_backbone(name, device="cpu").extract(photo, size=98 if "dino" in name else 128) for name in BUNDLED
    }


def named(architecture: str, **options) -> Backbone:
    """A model with random weights, wrapped as a backbone."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, **options)
    info = BackboneInfo(architecture, architecture, "test", architecture, 32, "Random weights.", "none")
    return Backbone(model, info)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def rms_to(features: FeatureMap, field, shift: tuple[int, int] = (0, 0)) -> float:
    """Distance of a field, moved by so many sixteenths of a cell and averaged over the cells, to the map; relative."""
    rows, columns = features.geometry.grid_hw
    full = field.features(size=(16 * rows, 16 * columns)).roll(shift, (1, 2))
    means = full.view(-1, rows, 16, columns, 16).mean((2, 4))
    wrong, spread = means - features.data, features.data - features.data.mean((1, 2), keepdim=True)
    return float(wrong[:, 1:-1, 1:-1].norm() / spread[:, 1:-1, 1:-1].norm())


# -- a smaller stride --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["stage 2", "stage 4", "head"])
@pytest.mark.parametrize("factor", [2, 4])
def test_every_cell_of_a_convolutional_map_reappears_among_the_finer_ones(maps, layer, factor):
    backbone = maps["tf_efficientnet_lite0"].backbone
    batch = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(1))
    ordinary = backbone.features(batch, layer)[0]
    finer = finer_features(backbone, batch, layer, factor)
    assert finer.scale == factor
    assert finer.data.shape[1:] == (ordinary.shape[1] * factor, ordinary.shape[2] * factor)
    assert relative(finer.data[:, ::factor, ::factor], ordinary) < 1e-4


@pytest.mark.parametrize("architecture", ["resnet18", "convnext_atto"])
def test_networks_with_other_paddings_and_shortcuts_reappear_too(architecture):
    backbone = named(architecture, num_classes=0)
    batch = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    ordinary = backbone.features(batch)[0]
    finer = finer_features(backbone, batch, backbone.default_layer, 2)
    assert relative(finer.data[:, ::2, ::2], ordinary) < 1e-4


def test_overlapping_patches_see_about_what_the_ordinary_ones_saw(maps):
    features = maps["dinov2-s14-imgfocus"]
    pixels = features.backbone.resized(features.image, features.geometry.input_hw)
    finer = finer_features(features.backbone, pixels[None], features.layer, 2)
    assert (finer.stride, finer.scale) == (7, 2)
    assert finer.data.shape[1:] == (13, 19)
    alike = torch.cosine_similarity(finer.data[:, ::2, ::2], features.data, dim=0)
    assert alike.mean() > 0.9
    moved = torch.cosine_similarity(finer.data[:, 1::2, 1::2], features.data[:, :-1, :-1], dim=0)
    assert alike.mean() > moved.mean() + 0.02


@pytest.mark.parametrize("name", BUNDLED)
def test_the_backbone_is_as_it_was_also_after_cancelling(maps, name):
    features = maps[name]
    pixels = features.backbone.resized(features.image, features.geometry.input_hw)[None]
    calls = 0

    def stop(words: str, done: int, total: int, stage=None) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise Cancelled

    before = {id(module): set(vars(module)) for module in features.backbone.model.modules()}
    for progress in (stop, None):
        if progress is None:
            finer_features(features.backbone, pixels, features.layer, 2)
        else:
            with pytest.raises(Cancelled):
                finer_features(features.backbone, pixels, features.layer, 2, progress)
        assert torch.equal(features.backbone.features(pixels, features.layer)[0], features.data)
        assert before == {id(module): set(vars(module)) for module in features.backbone.model.modules()}


def test_strides_that_cannot_be_lowered_are_refused_in_a_sentence(maps):
    dino, lite = (maps[name].backbone for name in BUNDLED)
    batch = torch.rand(1, 3, 448, 448)
    with pytest.raises(BackboneError, match=r"is 2 pixels and cannot be divided by 4; choose a smaller factor"):
        finer_features(lite, batch, "stage 0", 4)
    with pytest.raises(BackboneError, match=r"gives 50,176 cells, more than the 20,000 that fit into memory"):
        finer_features(dino, batch, "block 3", 7)
    window = named("swin_tiny_patch4_window7_224", num_classes=0)
    with pytest.raises(
        BackboneError, match=r"The stride of swin_tiny_patch4_window7_224 cannot be lowered \(.+\); choose"
    ):
        finer_features(window, torch.rand(1, 3, 224, 224), window.default_layer, 2)


# -- the fields --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("method", ["strided", "large_image"])
def test_fields_of_a_further_run_lie_where_the_map_lies(maps, method, name):
    features = maps[name]
    field = upsample(features, method=method)
    assert field.channels == features.channels
    assert field.geometry == features.geometry
    here = rms_to(features, field)
    if (method, name) != ("large_image", "tf_efficientnet_lite0"):  # which sees other things when it looks closer
        for shift in ((5, 0), (-5, 0), (0, 5), (0, -5)):
            assert rms_to(features, field, shift) > here
    whole = field.features(size=(50, 71))
    part = field.features(size=(50, 71), region=Region(11, 7, 13, 40))
    assert whole.shape == (features.channels, 50, 71)
    torch.testing.assert_close(part, whole[:, 11:24, 7:47], atol=1e-5, rtol=1e-5)
    assert field.settings()["factor"] == 2


@pytest.mark.parametrize("name", BUNDLED)
def test_the_map_is_met_exactly_at_the_first_patches(maps, name):
    """Where overlapping patches coincide with ordinary ones, the field has the features of the finer map, not their mean."""
    features = maps[name]
    pixels = features.backbone.resized(features.image, features.geometry.input_hw)
    finer = finer_features(features.backbone, pixels[None], features.layer, 2).data
    found = upsample(features, method="strided").features(size=features.geometry.grid_hw)
    torch.testing.assert_close(found, finer[:, ::2, ::2], atol=1e-4, rtol=1e-4)


def test_tiles_of_a_large_image_join_without_a_seam(maps):
    features = maps["tf_efficientnet_lite0"]
    whole = upsample(features, method="large_image", factor=3)
    tiled = upsample(features, method="large_image", factor=3, memory_budget=400 * 32**2 * 40)
    assert (whole.settings()["tiles"], tiled.settings()["tiles"]) == (1, 12)
    size = features.geometry.grid_hw
    assert torch.cosine_similarity(whole.features(size=size), tiled.features(size=size), dim=0).mean() > 0.8


def test_tiles_of_patches_that_see_only_themselves_change_nothing(maps, photo):
    class Lonely:
        stride = 14

        def resized(self, image, size):
            return torch.rand(3, *size, generator=torch.Generator().manual_seed(3))

        def features(self, batch, layer, progress):
            return torch.nn.functional.avg_pool2d(batch, 7)  # two cells for each stride

    features = dataclasses.replace(
        maps["dinov2-s14-imgfocus"], data=torch.zeros(3, 7, 10), backbone=Lonely(), image=photo
    )
    expected = upsample(features, method="large_image", factor=5).features(size=(70, 100))
    for blocks in (1, 16, 17, 60, 400, 1749):
        field = upsample(features, method="large_image", factor=5, memory_budget=400 * 14**2 * blocks)
        assert field.settings()["tiles"] > 1
        torch.testing.assert_close(field.features(size=(70, 100)), expected)


@pytest.mark.parametrize("method", ["strided", "large_image"])
def test_a_map_without_its_backbone_is_refused(maps, method):
    features = dataclasses.replace(maps["dinov2-s14-imgfocus"], backbone=None)
    with pytest.raises(UpsamplerError, match=r"come without the backbone that made them, and .+ has to run it again"):
        upsample(features, method=method)


@pytest.mark.parametrize("method", ["strided", "large_image"])
@pytest.mark.parametrize("factor", [1, 0, -2, 2.5, "two", 99, float("nan")])
def test_factors_that_are_no_whole_numbers_above_one_are_refused(maps, method, factor):
    with pytest.raises(
        UpsamplerError, match=rf'The option "factor" of {method} is .*; it must be a whole number from 2'
    ):
        upsample(maps["dinov2-s14-imgfocus"], method=method, factor=factor)


# -- the guided filter -------------------------------------------------------------------------------------------------


def test_the_guided_filter_is_that_of_the_paper():
    """Against equations 19 to 21, window by window."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (12, 17, 3), generator=generator, dtype=torch.uint8)
    geometry = Geometry(image_hw=(12, 17), input_hw=(42, 56), grid_hw=(3, 4))
    data = torch.randn(2, 3, 4, generator=generator)
    features = FeatureMap(data=data, geometry=geometry, layer="block 0", image=image_from_array(pixels.numpy()))
    rows, columns, epsilon = 2, 2, 0.01  # half of 3 x 4 cells of 4 x 4.25 pixels
    field = upsample(features, method="guided_filter", radius=0.5, epsilon=epsilon)
    colours = pixels.double() / 255
    values = upsample(features, method="bilinear").features(size=(12, 17)).double()

    def windows(row: int, column: int) -> tuple[slice, slice]:
        return slice(max(0, row - rows), row + rows + 1), slice(max(0, column - columns), column + columns + 1)

    lines = torch.zeros(12, 17, 2, 4, dtype=torch.float64)
    for row in range(12):
        for column in range(17):
            inside = colours[windows(row, column)].reshape(-1, 3)
            held = values[(slice(None), *windows(row, column))].reshape(2, -1)
            centred = inside - inside.mean(0)
            covariance = centred.T @ centred / len(inside) + epsilon * torch.eye(3, dtype=torch.float64)
            shared = (held - held.mean(1, keepdim=True)) @ centred / len(inside)
            slopes = torch.linalg.solve(covariance, shared.T).T
            lines[row, column] = torch.cat([slopes, (held.mean(1) - slopes @ inside.mean(0))[:, None]], dim=1)
    expected = torch.zeros_like(values)
    for row in range(12):
        for column in range(17):
            line = lines[windows(row, column)].reshape(-1, 2, 4).mean(0)
            expected[:, row, column] = line[:, :3] @ colours[row, column] + line[:, 3]
    torch.testing.assert_close(field.features(size=(12, 17)).double(), expected, atol=2e-5, rtol=1e-5)


def test_the_guided_filter_keeps_edges_and_moves_nothing(maps):
    features = maps["dinov2-s14-imgfocus"]
    field = upsample(features, method="guided_filter")
    here = rms_to(features, field)
    for shift in ((4, 0), (-4, 0), (0, 4), (0, -4)):
        assert rms_to(features, field, shift) > here
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 30:] = 200
    step = torch.zeros(1, 4, 4)
    step[..., 2:] = 1
    geometry = Geometry(image_hw=(64, 64), input_hw=(56, 56), grid_hw=(4, 4))
    marked = FeatureMap(data=step, geometry=geometry, layer="block 0", image=image_from_array(pixels))
    rise = {
        method: float(upsample(marked, method=method).features(size=(64, 64))[0, 32, 29:31].diff())
        for method in ("bilinear", "guided_filter")
    }
    assert rise["guided_filter"] > 5 * rise["bilinear"]


def test_statistics_of_colours_that_may_not_be_kept_are_made_for_each_region(maps, monkeypatch):
    features = maps["dinov2-s14-imgfocus"]
    size, region = (90, 130), Region(33, 20, 21, 44)
    matrix = torch.randn(2, features.channels, generator=torch.Generator().manual_seed(0))
    kept = upsample(features, method="guided_filter")
    expected = kept.project(matrix, size=size)
    monkeypatch.setattr(guided_filter, "KEPT_BYTES", 0)
    monkeypatch.setattr(guided_filter, "_BLOCK_BYTES", 1)
    field = upsample(features, method="guided_filter")
    torch.testing.assert_close(field.project(matrix, size=size), expected, atol=1e-4, rtol=1e-4)
    part = field.project(matrix, size=size, region=region)
    torch.testing.assert_close(part, expected[:, 33:54, 20:64], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("option", ["radius", "epsilon"])
@pytest.mark.parametrize("value", [0, -1, "wide", float("nan"), float("inf")])
def test_widths_of_the_guided_filter_that_are_no_numbers_above_zero_are_refused(maps, option, value):
    with pytest.raises(
        UpsamplerError, match=rf'The option "{option}" of guided_filter is .*; it must be a number greater'
    ):
        upsample(maps["dinov2-s14-imgfocus"], method="guided_filter", **{option: value})


# -- the deep image prior ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_prior(monkeypatch):
    """As few doublings as there can be: the fit costs a fraction of a second."""
    monkeypatch.setattr(dip, "LARGEST_GRID", 600)


def test_a_fitted_prior_averages_to_the_map_and_lies_where_the_map_lies(maps, small_prior):
    features = maps["dinov2-s14-imgfocus"]
    field = upsample(features, method="dip", steps=120)
    here = rms_to(features, field)
    assert here < 0.4
    for shift in ((5, 0), (-5, 0), (0, 5), (0, -5)):
        assert rms_to(features, field, shift) > here
    facts = field.settings()
    assert facts["components"] == 70
    assert facts["enlargement"] == 2
    assert 0 < facts["fitted_error"] < 0.2
    assert rms_to(features, upsample(features, method="dip", steps=2)) > 2 * here


@pytest.mark.parametrize("name", BUNDLED)
def test_a_prior_is_decided_by_its_seed_alone(maps, name, small_prior):
    state = torch.get_rng_state()
    first, again, other = (upsample(maps[name], method="dip", steps=3, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), state)
    size = (37, 53)
    assert torch.equal(first.features(size=size), again.features(size=size))
    assert not torch.equal(first.features(size=size), other.features(size=size))
    part = first.features(size=size, region=Region(5, 9, 20, 31))
    torch.testing.assert_close(part, first.features(size=size)[:, 5:25, 9:40], atol=1e-4, rtol=1e-4)


def test_fitting_a_prior_tells_each_step_and_may_be_stopped_at_any(maps, small_prior):
    calls: list[tuple[int, int]] = []

    def listen(words: str, done: int, total: int, stage=None) -> None:
        calls.append((done, total))
        if done == 3:
            raise Cancelled

    upsample(maps[BUNDLED[0]], method="dip", steps=2, progress=listen)
    assert calls == [(0, 2), (1, 2), (2, 2)]
    with pytest.raises(Cancelled):
        upsample(maps[BUNDLED[0]], method="dip", steps=10, progress=listen)
    assert calls[-1] == (3, 10)


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (4, 2)])
def test_a_prior_of_constant_features_is_constant(grid):
    data = torch.full((6, *grid), -3.7)
    data[2] = 40.1
    geometry = Geometry(image_hw=(20, 30), input_hw=(14 * grid[0], 14 * grid[1]), grid_hw=grid)
    image = image_from_array(np.zeros((20, 30, 3), np.uint8))
    field = upsample(FeatureMap(data=data, geometry=geometry, layer="block 0", image=image), method="dip", steps=3)
    expected = data[:, :1, :1].expand(6, 9, 11)
    torch.testing.assert_close(field.features(size=(9, 11)), expected, atol=1e-4, rtol=1e-5)


def test_priors_that_cannot_be_fitted_are_refused_in_a_sentence(maps, small_prior, monkeypatch):
    features = maps["dinov2-s14-imgfocus"]
    for option, value, bounds in (
        ("steps", 0, "from 1 to 100000"),
        ("steps", "many", "from 1"),
        ("seed", -1, "from 0"),
    ):
        with pytest.raises(UpsamplerError, match=rf'The option "{option}" of dip is {value}; it must be .+ {bounds}'):
            upsample(features, method="dip", **{option: value})
    spoilt = features.data.clone()
    spoilt[3, 2, 1] = float("nan")
    with pytest.raises(
        UpsamplerError, match="contain values that are infinite or not a number, so nothing can be fitted to them"
    ):
        upsample(dataclasses.replace(features, data=spoilt), method="dip", steps=2)
    monkeypatch.setattr(dip, "LEARNING_RATE", float("inf"))
    with pytest.raises(UpsamplerError, match="diverged at step 2 of 5"):
        upsample(features, method="dip", steps=5)


# -- in a session ------------------------------------------------------------------------------------------------------


def fields_of(session: Session, method: str) -> list[FeatureField]:
    """The fields of a method that a session keeps."""
    entries = session.kept._entries.items()
    return [entry.value for name, entry in entries if name[0] == "field" and entry.value.method == method]


@pytest.mark.parametrize("method", ["dip", "strided", "large_image"])
def test_making_a_field_can_be_cancelled_and_is_not_repeated(photo, small_prior, monkeypatch, method):
    monkeypatch.setattr(dip, "STEPS", 2)
    session = Session(device="cpu")
    settings = ViewSettings(input_size="56", output_size="43x62", method=method)
    session.features(photo, settings)
    calls: list[str] = []

    def stop(words: str, done: int, total: int, stage=None) -> None:
        calls.append(words)
        if len(calls) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        session.view(photo, settings, PCARequest(), progress=stop)
    assert not fields_of(session, method)
    first = session.view(photo, settings, PCARequest())
    assert first.values.shape == (3, 43, 62)
    (field,) = fields_of(session, method)
    for quick in ("lowres", "bilinear", "jbu", "guided_filter", "sapa"):
        session.view(photo, settings.with_(method=quick), PCARequest())
    assert session.field(photo, settings) is field
    joint = session.view(photo, settings, PCARequest(fit="joint"))
    others = {"dip", "strided", "large_image", "implicit"} - {method}
    assert not any(fields_of(session, other) for other in others), (
        "the other expensive methods are not run for joint components"
    )
    assert joint.values.shape == first.values.shape
