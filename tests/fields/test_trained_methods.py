"""CARAFE, SAPA and resize-convolution: what their fields compute, how they are trained, and which weights they take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from training_fixtures import PatchBackbone, pictures

from featup_app.base.errors import UpsamplerError
from featup_app.features import FeatureMap, Geometry, Region
from featup_app.fields import (
    METHODS,
    FeatureField,
    Upsampler,
    default_upsampler,
    load_upsampler,
    reassembly,
    resize_conv,
    save_upsampler,
    upsample,
)
from featup_app.fields.doublings import Span, padded
from featup_app.fields.guidance import Guidance
from featup_app.fields.network import UpsamplerNetwork, untrained
from featup_app.fields.reassembly import bilinear_logits, reassemble
from featup_app.fields.upsampler_files import network_class
from featup_app.images import image_from_array
from featup_app.ops import window_dot
from featup_app.training import DEFAULT, PAPER, save_training, train_upsampler
from featup_app.training.chain import pyramid
from featup_app.training.learners import make_learner
from featup_app.training.report import training_report

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("resize_conv", "carafe", "sapa")
REASSEMBLING = ("carafe", "sapa")
GRID, CHANNELS = (5, 7), 6
SIXTEEN = (80, 112)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_network(name: str, *, channels: int = CHANNELS, seed: int = 0) -> UpsamplerNetwork:
    """Drawn weights, strong enough to matter and weak enough that half precision does not."""
    network = untrained(network_class(name), channels)
    source = generator(seed)
    for parameter in network.parameters():
        fan_in = max(1, parameter[0].numel())
        parameter.add_(torch.randn(parameter.shape, generator=source), alpha=fan_in**-0.5)
    return network


def make_features(*, offset: tuple[float, float] = (0.0, 0.0), backbone: str | None = None) -> FeatureMap:
    pixels = np.random.default_rng(3).integers(0, 256, (*SIXTEEN, 3), dtype=np.uint8)
    geometry = Geometry(SIXTEEN, SIXTEEN, GRID, offset_xy=offset)
    data = torch.randn(CHANNELS, *GRID, generator=generator(1))
    return FeatureMap(data, geometry, "block 0", image_from_array(pixels), backbone_name=backbone)


def make_field(name: str, features: FeatureMap | None = None) -> FeatureField:
    weights = Upsampler(stack=make_network(name), channels=CHANNELS, method=name)
    return upsample(features or make_features(), method=name, upsampler=weights)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


# -- fields --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_field_equals_the_network_at_sixteen_times_the_grid(name):
    features = make_features()
    guidance = Guidance(features.image, features.geometry, torch.device("cpu"), normalise=True).at(SIXTEEN)
    with torch.no_grad():
        expected = make_network(name)(features.data[None], guidance[None])[0]
    # Weights are kept in half precision, and those of a doubling are made of what the ones before gave.
    assert relative_error(make_field(name).features(size=SIXTEEN), expected) < 3e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(70, 100), (23, 31), (160, 224), (5, 7)])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.3, -0.45)])
def test_projections_and_regions_equal_the_full_features(name, size, offset):
    field = make_field(name, make_features(offset=offset))
    matrix, bias = torch.randn(3, CHANNELS, generator=generator(2)), torch.randn(3, generator=generator(4))
    expected = torch.einsum("kc,chw->khw", matrix, field.features(size=size)) + bias[:, None, None]
    assert relative_error(field.project(matrix, bias, size=size), expected) < 1e-5
    region = Region(size[0] // 3, size[1] // 4, max(1, size[0] // 4), max(1, size[1] // 3))
    part = field.project(matrix, bias, size=size, region=region)
    torch.testing.assert_close(part, expected[:, region.rows, region.columns], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_into_memory_is_made_block_by_block_with_the_same_result(name, monkeypatch):
    size = (150, 200)
    matrix = torch.randn(2, CHANNELS, generator=generator(2))
    whole = make_field(name)
    kept = whole.fixed_bytes(size)
    expected, part = whole.project(matrix, size=size), whole.features(size=size, region=Region(30, 40, 20, 25))
    monkeypatch.setattr(reassembly, "WEIGHTS_BUDGET", 30_000)
    monkeypatch.setattr(reassembly, "_BLOCK_BYTES", 4 * 70 * 24**2)
    monkeypatch.setattr(reassembly, "_ROWS_BYTES", 4 * 100 * 20)
    monkeypatch.setattr(resize_conv, "CODE_BUDGET", 0)
    monkeypatch.setattr(resize_conv, "_BLOCK", 24)
    field = make_field(name)
    calls: list[str] = []
    found = field.project(matrix, size=size, progress=lambda words, *_: calls.append(words))
    assert relative_error(found, expected) < 1e-3
    assert relative_error(field.features(size=size, region=Region(30, 40, 20, 25)), part) < 1e-3
    assert calls.count("upsampling block by block") > 10
    assert field.fixed_bytes(size) < kept


@pytest.mark.parametrize("name", REASSEMBLING)
def test_weights_are_made_once(name, monkeypatch):
    field = make_field(name)
    matrix = torch.randn(1, CHANNELS, generator=generator(2))
    first = field.project(matrix, size=SIXTEEN)
    monkeypatch.setattr(network_class(name), "logits", None)
    assert torch.equal(field.project(matrix, size=SIXTEEN), first)
    region = Region(10, 20, 3, 4)
    assert relative_error(field.project(matrix, size=SIXTEEN, region=region), first[:, 10:13, 20:24]) < 1e-5


@pytest.mark.parametrize("name", REASSEMBLING)
def test_reassembly_leaves_a_constant_map_alone(name):
    features = make_features()
    weights = Upsampler(stack=make_network(name), channels=CHANNELS, method=name)
    constant = replace(features, data=torch.full_like(features.data, 3.0))
    found = upsample(constant, method=name, upsampler=weights).features(size=(61, 75))
    torch.testing.assert_close(found, torch.full_like(found, 3.0), rtol=1e-4, atol=1e-4)


def test_an_untrained_resize_convolution_is_bilinear():
    features = make_features()
    found = upsample(features, method="resize_conv", trained=False).features(size=SIXTEEN)
    torch.testing.assert_close(found, upsample(features, method="bilinear").features(size=SIXTEEN))


@pytest.mark.parametrize("name", REASSEMBLING)
def test_an_untrained_reassembly_doubles_bilinearly_but_for_a_fiftieth(name):
    features = make_features()
    found = upsample(features, method=name, trained=False).features(size=(10, 14))
    bilinear = F.interpolate(features.data[None], (10, 14), mode="bilinear", align_corners=False)[0]
    far = 21e-3 / (1 + 21e-3)
    assert float((found - bilinear).abs().max()) < 2 * far * float(features.data.abs().max())
    assert float((found - bilinear).abs().max()) > 0


def test_bilinear_logits_are_those_of_torch():
    source = torch.randn(1, 3, 6, 5, generator=generator())
    weights = bilinear_logits().exp()
    weights = torch.where(weights > 2e-3, weights, 0.0)[None, :, :, None, None].expand(-1, -1, -1, 6, 5)
    found = reassemble(F.pad(source, (2,) * 4, mode="replicate"), weights)
    torch.testing.assert_close(found, F.interpolate(source, scale_factor=2, mode="bilinear"))


def test_reassembly_with_and_without_gradients_is_one_function_with_the_right_gradients():
    source = torch.randn(2, 9, 7, 8, generator=generator(), dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 4, 25, 3, 4, generator=generator(1), dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        plain = reassemble(source, weights)
    torch.testing.assert_close(reassemble(source, weights), plain)
    assert torch.autograd.gradcheck(reassemble, (source[:, :2], weights), fast_mode=True)


@pytest.mark.parametrize("native", ["auto", "off"])
@pytest.mark.parametrize("channels", [3, 32])
def test_window_products_equal_the_plain_sum(monkeypatch, native, channels):
    monkeypatch.setenv("FEATUP_NATIVE", native)
    keys = torch.randn(2, channels, 9, 10, generator=generator(), dtype=torch.float64, requires_grad=True)
    centre = torch.randn(2, channels, 5, 6, generator=generator(1), dtype=torch.float64, requires_grad=True)
    expected = torch.einsum("bcyxvu,bcyx->bvuyx", keys.unfold(2, 5, 1).unfold(3, 5, 1), centre).flatten(1, 2)
    torch.testing.assert_close(window_dot(keys, centre, 5), expected)
    strided = torch.zeros(2, channels, 10, 12, dtype=torch.float64)
    strided[:, :, ::2, ::2] = centre.detach()
    layout = keys.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(window_dot(layout, strided[:, :, ::2, ::2], 5), expected)
    assert torch.autograd.gradcheck(lambda one, other: window_dot(one, other, 5), (keys, centre), fast_mode=True)


def test_window_products_name_what_is_wrong():
    keys = torch.zeros(1, 3, 9, 10)
    with pytest.raises(RuntimeError, match=r"centre has shape \(1, 3, 5, 5\)"):
        window_dot(keys, torch.zeros(1, 3, 5, 5), 5)
    with pytest.raises(RuntimeError, match=r"centre has dtype torch.float64"):
        window_dot(keys, torch.zeros(1, 3, 5, 6, dtype=torch.float64), 5)
    with pytest.raises(RuntimeError, match="odd"):
        window_dot(keys, torch.zeros(1, 3, 6, 7), 4)


def test_padding_repeats_the_outermost_cells_of_the_level_and_no_others():
    values = torch.arange(30.0).view(1, 5, 6)
    whole = F.pad(values, (2,) * 4, mode="replicate")
    wanted = Span(0, 3, 2, 6)
    inside = wanted.widened(2, (5, 6))
    found = padded(inside.of(values, Span.whole((5, 6))), inside, wanted, 2, (5, 6))
    assert torch.equal(found, whole[:, 0:7, 2:10])


def test_the_guidance_follows_receptive_fields():
    """A picture that brightens to the right is brighter where the fields lie right of their cells."""
    pixels = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, axis=0).repeat(3, axis=2)
    means = []
    for offset in ((0.0, 0.0), (0.5, 0.0)):
        geometry = Geometry((48, 64), (48, 64), (3, 4), offset_xy=offset)
        guidance = Guidance(image_from_array(pixels), geometry, torch.device("cpu"), normalise=False)
        means.append(guidance.at((12, 16))[0, 6, 8].item())
    assert means[1] - means[0] == pytest.approx(8 / 64, abs=0.01)


# -- options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_without_weights_for_the_backbone_a_field_says_that_it_is_untrained(name):
    assert "untrained" in str(upsample(make_features(), method=name).settings()["weights"])
    assert "untrained" in str(upsample(make_features(), method=name, trained=False).settings()["weights"])
    facts = make_field(name).settings()["upsampler"]
    assert facts["method"] == name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trained": "no"}, "True or False"),
        ({"kernel": "classical"}, 'no option "kernel"'),
        ({"upsampler": "missing.safetensors"}, "missing"),
    ],
)
def test_wrong_options_are_refused(name, options, words):
    with pytest.raises(UpsamplerError, match=words):
        upsample(make_features(), method=name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_options_that_exclude_each_other_are_refused(name):
    weights = Upsampler(stack=make_network(name), channels=CHANNELS, method=name)
    with pytest.raises(UpsamplerError, match="leave it out"):
        upsample(make_features(), method=name, upsampler=weights, trained=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_for_other_channels_is_refused(name):
    weights = Upsampler(stack=make_network(name, channels=4), channels=4, method=name)
    with pytest.raises(UpsamplerError, match="is for 4 channels"):
        upsample(make_features(), method=name, upsampler=weights)
    field_class = type(make_field(name))
    with pytest.raises(ValueError, match="for 4 channels"):
        field_class(make_features(), make_features().image, make_network(name, channels=4), {})


def test_untrained_networks_draw_no_random_numbers():
    before = torch.get_rng_state()
    for name in NAMES:
        upsample(make_features(), method=name, trained=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_method_with_weights_names_its_network():
    trained = [method.name for method in METHODS if method.takes_weights]
    assert set(NAMES) < set(trained)
    for name in trained:
        assert issubclass(network_class(name), torch.nn.Module)
    with pytest.raises(UpsamplerError, match="no weights"):
        network_class("bilinear")


# -- files ---------------------------------------------------------------------------------------------------------------


def write(path: Path, name: str, **facts: object) -> Path:
    described = {"method": name, "backbone": "tiny", "layer": "block 0", "title": f"test {name}", **facts}
    return save_upsampler(path, make_network(name), provenance=described)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_knows_its_method_and_gives_its_weights_back(name, tmp_path):
    path = write(tmp_path / "weights.safetensors", name)
    found = load_upsampler(path)
    assert found.method == name
    assert found.channels == CHANNELS
    assert not found.universal
    for key, value in make_network(name).state_dict().items():
        assert torch.equal(found.stack.state_dict()[key], value), key
    expected = make_field(name).features(size=(20, 30))
    features = make_features(backbone="tiny")
    assert torch.equal(upsample(features, method=name, upsampler=path).features(size=(20, 30)), expected)
    with pytest.raises(UpsamplerError, match="trained for the backbone tiny"):
        upsample(make_features(backbone="other"), method=name, upsampler=path)


@pytest.mark.parametrize("asked", [*NAMES, "jbu"])
def test_weights_of_another_method_are_refused(asked, tmp_path):
    for name in NAMES:
        if name == asked:
            continue
        path = write(tmp_path / f"{name}.safetensors", name)
        with pytest.raises(UpsamplerError, match=r"holds weights for .*, not for"):
            upsample(make_features(), method=asked, upsampler=path)


def test_damaged_and_foreign_files_are_refused_with_what_is_wrong(tmp_path):
    path = write(tmp_path / "weights.safetensors", "carafe")
    tensors = load_file(path)

    def written(facts: dict[str, object], **changed: torch.Tensor | None) -> Path:
        other = tmp_path / "other.safetensors"
        kept = {key: value for key, value in {**tensors, **changed}.items() if value is not None}
        save_file(kept, other, metadata={"provenance": json.dumps(facts)})
        return other

    good = {"method": "carafe", "channels": CHANNELS}
    key = "upsampler.encoders.2.weight"
    for facts, changed, words in (
        (good, {key: None}, f"lacks the tensor {key}"),
        (good, {"upsampler.more": torch.zeros(2)}, "network of CARAFE does not have"),
        (good, {key: torch.zeros(3)}, "has the shape 3 instead of 100x64x3x3"),
        (good, {key: tensors[key] * float("nan")}, "not finite"),
        ({"method": "carafe"}, {}, "for how many channels"),
        ({**good, "channels": True}, {}, "for how many channels"),
        ({**good, "method": "magic"}, {}, 'method "magic", which this version does not know'),
        ({**good, "method": "bilinear"}, {}, 'method "bilinear", which this version does not know'),
        ({**good, "method": "sapa"}, {}, "lacks the tensor upsampler"),
    ):
        with pytest.raises(UpsamplerError, match=words):
            load_upsampler(written(facts, **changed))


def test_weights_are_not_written_as_those_of_another_method(tmp_path):
    with pytest.raises(UpsamplerError, match="not those of SAPA"):
        save_upsampler(tmp_path / "x.safetensors", make_network("carafe"), provenance={"method": "sapa"})
    assert list(tmp_path.iterdir()) == []


BUNDLED = [
    *((name, "dinov2-s14-imgfocus", "block 10", 384) for name in NAMES),
    *((name, "tf_efficientnet_lite0", "stage 4", 320) for name in NAMES),
    *((name, "tf_efficientnet_lite0", "head", 1280) for name in NAMES),
]


@pytest.mark.parametrize(("name", "backbone", "layer", "channels"), BUNDLED)
def test_bundled_weights_fit_their_backbones_and_no_others(name, backbone, layer, channels):
    found = default_upsampler(backbone, layer, channels, method=name)
    assert found is not None
    assert found.method == name
    assert found.channels == channels
    assert found.provenance["backbone"] == backbone
    assert found.provenance["layer"] == layer
    assert found.provenance["data"]
    errors = found.provenance["held_out_reprojection_error"]
    assert errors["stack"] < errors["bilinear"]
    assert default_upsampler(backbone, "another layer", channels, method=name) is None
    assert default_upsampler("another", layer, channels, method=name) is None


# -- training ------------------------------------------------------------------------------------------------------------


def train(cache, name, recipe=DEFAULT, **options):
    chosen = {"steps": 4, "size": 32, "views": 3, "measure_every": 2, **options}
    quick = replace(recipe, method=name, directions=0, views=2)
    return train_upsampler(pictures(8), PatchBackbone(), quick, cache=cache, **chosen)


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_error_on_held_out_views(name, cache):
    result = train(cache, name, steps=60, measure_every=20)
    figures = result.figures
    assert result.method == name
    if name == "resize_conv":  # the others double bilinearly four times, which is not quite one enlargement
        assert figures["start"] == pytest.approx(figures["bilinear"], rel=1e-5)
    assert figures["stack"] < 0.99 * figures["start"]
    assert result.best_step > 0
    assert not result.universal


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_network_and_another_another(name, cache):
    states = [train(cache, name, seed=seed).stack.state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not torch.equal(states[0]["compressor.weight"], states[2]["compressor.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_is_the_one_that_was_never_interrupted(name, cache, tmp_path):
    straight = train(cache, name, steps=6)
    file = tmp_path / "half.training.pt"
    train(cache, name, steps=6, checkpoint=file, on_state=None)
    resumed = train(cache, name, steps=6, resume=file)
    for key, value in straight.stack.state_dict().items():
        assert torch.equal(value, resumed.stack.state_dict()[key]), key
    with pytest.raises(UpsamplerError, match="method is"):
        train(cache, next(other for other in NAMES if other != name), steps=6, resume=file)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("recipe", [DEFAULT, replace(PAPER, downsampler_size=4, images_per_step=1, clip=0.0)])
def test_weights_in_a_file_are_for_features_as_the_backbone_gives_them(name, recipe, cache, tmp_path):
    """A field of the file's weights gives what the network gave in units of the training."""
    result = train(cache, name, recipe)
    path, facts, _ = save_training(result, tmp_path / "out.safetensors")
    report = json.loads(facts.read_text())
    assert report["method"] == name
    assert report["title"].endswith("for patches, block 0")
    loaded = load_upsampler(path)
    assert (loaded.norm is not None) == recipe.normalise
    image, backbone = pictures(1)[0], PatchBackbone()
    data = backbone.features(backbone.resized(image, (32, 40))[None])[0]
    features = FeatureMap(data, Geometry(image.size_hw, (32, 40), (4, 5)), "block 0", image)
    assert upsample(features, method=name, upsampler=path).features(size=(64, 80)).isfinite().all()


def test_scaling_the_features_scales_the_result():
    features = make_features()
    guidance = torch.randint(0, 256, (1, 3, *SIXTEEN), generator=generator(9), dtype=torch.uint8)
    eye = torch.eye(CHANNELS)
    for name in NAMES:
        learner = make_learner([CHANNELS], replace(DEFAULT, method=name), generator())
        with torch.no_grad():
            for parameter in learner.stack.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator(8)))
            expected = 7 * learner.upsample(eye, features.data[None] / 7, pyramid(guidance))
            finished = learner.finished(learner.stack.state_dict(), 7.0)
            found = finished.upsample(eye, features.data[None], [part[..., 3:-3, 3:-3] for part in pyramid(guidance)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_one_network_reads_the_features_of_one_backbone(name):
    with pytest.raises(UpsamplerError, match="trained for one backbone"):
        make_learner([4, 5], replace(DEFAULT, method=name), generator())


def test_a_recipe_for_a_method_without_weights_is_refused():
    with pytest.raises(UpsamplerError, match=r"choose one of: .*carafe"):
        replace(DEFAULT, method="bilinear")


def test_the_report_names_the_method(cache):
    assert training_report(train(cache, "carafe"))["title"] == "CARAFE for patches, block 0"


@pytest.mark.parametrize("name", NAMES)
def test_the_published_start_is_not_bilinear(name):
    learner = make_learner([CHANNELS], replace(PAPER, method=name), generator())
    assert all(parameter.any() for key, parameter in learner.stack.named_parameters() if "distance" not in key)
