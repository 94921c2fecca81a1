"""Attention to coarse cells of maps that are restored first: what it computes, when it does so, and what it records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from weights_fixtures import bundled_folder

from featup_app import lenses
from featup_app.base.errors import UpsamplerError
from featup_app.evaluation.costs import learned_numbers
from featup_app.evaluation.methods import parse_methods
from featup_app.features import FeatureMap, Geometry, Region
from featup_app.fields import JBUStack, save_upsampler, upsample
from featup_app.fields.attention import CONSISTENCY, POSITIONAL, AttentionField
from featup_app.fields.implicit import FitRecipe
from featup_app.fields.implicit.start import Start, placeless
from featup_app.fields.restoration import Restoration, at_grid, detail
from featup_app.fields.weights import restoring
from featup_app.images import image_from_array

CHANNELS, GRID, SIZE = 6, (5, 7), (37, 50)
SHARP, PLAIN = 0.6 * torch.eye(CHANNELS), -0.1 * torch.eye(CHANNELS)
TINY = {"backbone": "tiny", "layer": "block 1"}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def a_map(data: torch.Tensor | None = None, backbone: str | None = "tiny", layer: str = "block 1") -> FeatureMap:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 84, 3), dtype=np.uint8)
    image, geometry = image_from_array(pixels), Geometry((60, 84), (GRID[0] * 14, GRID[1] * 14), GRID)
    return FeatureMap(noise(CHANNELS, *GRID) if data is None else data, geometry, layer, image, backbone_name=backbone)


def known(matrix: torch.Tensor = SHARP) -> Restoration:
    return Restoration(
        matrix + 0.1 * noise(CHANNELS, CHANNELS, seed=2).fill_diagonal_(0), noise(CHANNELS, 4, 4, seed=3)
    )


def field(features: FeatureMap, **options: object) -> AttentionField:
    made = upsample(features, method="attention", **options)
    assert isinstance(made, AttentionField)
    return made


@pytest.fixture
def bundled(tmp_path, monkeypatch) -> Path:
    """A folder of bundled weights that holds a restoration for block 1 of tiny."""
    folder = bundled_folder(tmp_path / "resources", monkeypatch)
    write(folder / "jbu-tiny.safetensors", **TINY)
    return folder


def write(path: Path, *, norm: bool = False, matrix: torch.Tensor = SHARP, **facts: object) -> None:
    stack = JBUStack(CHANNELS)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.zero_()
    scales = (torch.ones(CHANNELS), torch.zeros(CHANNELS)) if norm else None
    save_upsampler(path, stack, norm=scales, restoration=known(matrix), provenance=facts)


# -- what it computes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consistency", [0, 0.5])
@pytest.mark.parametrize("positional", [0, 0.5, 1])
def test_it_is_the_attention_to_a_map_with_more_detail_and_less_of_the_positional_component(positional, consistency):
    features, how = a_map(), known()
    placeless_map = features.data - positional * at_grid(how.positional, GRID)
    expected = placeless_map + torch.einsum("dc,chw->dhw", how.detail, detail(placeless_map))
    plain = field(a_map(expected), restoration=0, consistency=consistency).features(size=SIZE)
    found = field(features, restoration=how, positional=positional, consistency=consistency)
    torch.testing.assert_close(found.features(size=SIZE), plain)
    assert found.coarse is features
    assert torch.equal(features.data, a_map().data)


@pytest.mark.parametrize("size", [SIZE, GRID, (3, 4), (80, 112)])
@pytest.mark.parametrize("consistency", [None, 0.7])
def test_projections_and_lengths_are_those_of_the_full_features(size, consistency):
    made = field(a_map(), restoration=known(), consistency=consistency)
    matrix, bias, full = noise(4, CHANNELS, seed=5), noise(4, seed=6), made.features(size=size)
    expected = torch.einsum("kc,chw->khw", matrix, full) + bias[:, None, None]
    torch.testing.assert_close(made.project(matrix, bias, size=size), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.norms(size=size), full.norm(dim=0))
    region = Region(1, 2, 2, 2)
    torch.testing.assert_close(made.features(size=size, region=region), full[:, 1:3, 2:4])
    again = field(a_map(), restoration=known(), consistency=consistency)
    torch.testing.assert_close(
        again.project(matrix, bias, size=size, region=region), expected[:, 1:3, 2:4], atol=1e-4, rtol=1e-4
    )


def test_a_click_asks_the_map_as_the_backbone_gives_it_and_the_plain_cosine_the_features(bundled):
    restored, plain = field(a_map()), field(a_map(), restoration=0)
    assert restored.restoration is not None
    torch.testing.assert_close(restored.carry(a_map().data, size=SIZE), plain.carry(a_map().data, size=SIZE))
    answers = [lenses.similarity(each, (30, 20), size=SIZE) for each in (restored, plain)]
    assert torch.equal(*answers)
    cosines = [lenses.cosine(each, (30, 20), size=SIZE) for each in (restored, plain)]
    assert not torch.allclose(*cosines, atol=0.01)


def test_features_in_half_precision():
    exact = field(a_map(), restoration=known()).features(size=SIZE)
    found = field(a_map(a_map().data.half()), restoration=known().to(torch.float16)).features(size=SIZE)
    torch.testing.assert_close(found.float(), exact, atol=0.05, rtol=0.02)


# -- when it does so -------------------------------------------------------------------------------------------------------


def test_bundled_weights_for_the_backbone_and_layer_give_the_restoration(bundled):
    write(bundled / "jbu-universal.safetensors", channels=CHANNELS, backbone="another")
    found = field(a_map())
    assert found.restoration is not None
    assert torch.equal(found.restoration.positional, known().positional)
    given = field(a_map(backbone=None), restoration=known()).features(size=SIZE)
    torch.testing.assert_close(found.features(size=SIZE), given)


@pytest.mark.parametrize(
    "named",
    [
        {"layer": "block 2"},
        {"backbone": "other"},
        {"backbone": "tiny@mine.pth"},
        {"backbone": None},
        {"data": noise(8, *GRID)},
    ],
)
def test_other_maps_stay_as_they_are(bundled, named):
    found = field(a_map(**named))
    assert found.restoration is None
    assert found.settings()["consistency"] == CONSISTENCY
    assert torch.equal(found.features(size=SIZE), field(a_map(**named), restoration=0).features(size=SIZE))


def test_weights_for_normalised_features_restore_no_others(bundled):
    write(bundled / "jbu-tiny.safetensors", norm=True, **TINY)
    assert restoring(a_map()) is None
    assert field(a_map()).restoration is None


def test_a_given_restoration_or_none_goes_before_the_bundled_one(bundled):
    other = replace(known(), positional=torch.zeros(CHANNELS, 1, 1))
    assert field(a_map(), restoration=other).restoration is other
    assert field(a_map(), restoration=0).restoration is None
    assert field(a_map(), restoration=None).restoration is not None  # an option that is None is one that is not given


@pytest.mark.parametrize(("matrix", "expected"), [(SHARP, 0), (PLAIN, CONSISTENCY)])
def test_cells_get_back_what_averaging_takes_where_detail_is_not_made_larger(bundled, matrix, expected):
    write(bundled / "jbu-tiny.safetensors", matrix=matrix, **TINY)
    assert field(a_map()).settings()["consistency"] == expected
    assert field(a_map(), consistency=0.3).settings()["consistency"] == 0.3


def test_a_fit_starts_without_it_and_removes_the_whole_positional_component(bundled):
    recipe = FitRecipe(name="tiny", start="attention")
    start = Start.of(recipe, a_map(), a_map().image)
    assert isinstance(start.field, AttentionField)
    assert start.field.restoration is None
    assert torch.equal(placeless(recipe, a_map()).positional, known().positional)
    saved = {"settings": field(a_map(), restoration=0, width=0.9).settings()}
    opened = Start.from_file(recipe, a_map(), a_map().image, {}, saved, Path("a.safetensors"))
    assert isinstance(opened.field, AttentionField)
    assert opened.facts() == saved


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"restoration": 1}, "or 0 for none"),
        ({"restoration": "jbu"}, "or 0 for none"),
        ({"restoration": torch.eye(CHANNELS)}, "or 0 for none"),
        ({"restoration": Restoration.nothing(4)}, "for 4 channels, but the features have 6"),
        ({"positional": 1.5}, "from 0 to 1"),
        ({"positional": float("nan")}, "from 0 to 1"),
        ({"positional": True}, "from 0 to 1"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(UpsamplerError, match=words):
        field(a_map(), **options)


# -- what it records -------------------------------------------------------------------------------------------------------


def test_settings_say_it_in_words(bundled):
    found = field(a_map()).settings()
    assert found["positional"] == POSITIONAL
    assert found["restoration"] == (
        "35 % of what tells of the place in the frame taken out, detail changed by a matrix between channels"
    )
    assert "place" not in str(field(a_map(), positional=0).settings()["restoration"])
    assert set(field(a_map(), restoration=0).settings()) == {"colour", "width", "window", "consistency"}


def test_an_evaluation_knows_it_from_an_earlier_one_with_other_weights(bundled):
    names = "tiny", "block 1", CHANNELS
    (choice, without) = parse_methods("attention,attention:restoration=0")
    first = choice.prepare(*names)
    assert first.identity["weights"] == restoring(names).sha256
    assert without.prepare(*names).key() != first.key()
    assert choice.prepare("other", "block 1", CHANNELS).identity["weights"] is None
    write(bundled / "jbu-tiny.safetensors", matrix=PLAIN, **TINY)
    assert choice.prepare(*names).key() != first.key()
    assert without.prepare(*names).field(a_map()).restoration is None


def test_its_numbers_count_as_learned(bundled):
    assert learned_numbers(field(a_map()), {}) == known().numel()
    assert learned_numbers(field(a_map(), restoration=0), {}) == 0
    assert learned_numbers(SimpleNamespace(), {}) == 0
