"""What a click asks: the same thing is alike wherever it lies, what is common counts less, and the features stay as they are."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from featup_app.base.errors import LensError
from featup_app.base.progress import silent
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import FeatureField, upsample
from featup_app.images import image_from_array
from featup_app.lenses import (
    SimilarityRequest,
    cosine,
    find_lens,
    grouping,
    proposed_threshold,
    remembering,
    similarity,
)
from featup_app.lenses.similarity import COSINE, group

SIZE = (64, 96)


def two_things(noise: float = 0.4) -> FeatureMap:
    """A square of one feature on a ground of another, both noisy, in a picture with the same square."""
    generator = torch.Generator().manual_seed(1)
    data = noise * torch.randn(16, 8, 12, generator=generator) + 2  # a large mean, as of real features
    data[0, 2:6, 3:7] += 2
    data[1] -= 1
    data[1, 2:6, 3:7] += 2
    pixels = np.full((64, 96, 3), 90, np.uint8)
    pixels[16:48, 24:56] = 200
    return FeatureMap(data, Geometry((64, 96), (112, 168), (8, 12)), "layer", image_from_array(pixels), None, {})


def square() -> torch.Tensor:
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[16:48, 24:56] = True
    return inside


def field_of(features: FeatureMap, method: str) -> FeatureField:
    return NotLinear(features) if method == "not linear" else upsample(features, method=method)


class NotLinear(FeatureField):
    """A field that can carry no map of the cells but its own features, as implicit networks are."""

    method = "not linear"

    def __init__(self, coarse: FeatureMap) -> None:
        super().__init__(coarse)
        self._inner = upsample(coarse, method="bilinear")

    def project(self, matrix, bias=None, *, size, region=None, progress=silent):
        return self._inner.project(matrix, bias, size=size, region=region)

    def features(self, *, size, region=None, progress=silent):
        return self._inner.features(size=size, region=region)

    def bytes_per_pixel(self, channels):
        return self._inner.bytes_per_pixel(channels)

    def settings(self):
        return {}


@pytest.mark.parametrize("method", ["attention", "bilinear", "jbu", "guided_filter", "lowres", "not linear"])
def test_the_pixel_itself_is_one_and_nothing_leaves_the_range(method):
    found = similarity(field_of(two_things(), method), (40.5, 30.5), size=SIZE)
    assert found.shape == SIZE
    assert float(found[30, 40]) == pytest.approx(1, abs=1e-5)
    assert float(found.min()) >= -1
    assert float(found.max()) <= 1


def test_a_click_finds_the_thing_and_the_proposed_threshold_its_region():
    found = similarity(upsample(two_things(), method="attention"), (40, 32), size=SIZE)
    region = found >= proposed_threshold(found)
    overlap = float((region & square()).sum() / (region | square()).sum())
    assert overlap > 0.95


def test_grouping_makes_a_thing_more_even_and_zero_leaves_the_cells():
    field = upsample(two_things(0.8), method="attention")
    spread = [float(similarity(field, (40, 32), size=SIZE, grouping=share)[square()].std()) for share in (0, 0.5, 1)]
    assert spread[0] > spread[1] > spread[2]


def test_features_do_not_change_and_the_plain_cosine_is_that_of_the_features():
    field = upsample(two_things(), method="attention")
    before = field.features(size=SIZE)
    similarity(field, (40, 32), size=SIZE)
    torch.testing.assert_close(field.features(size=SIZE), before, rtol=0, atol=0)
    expected = torch.nn.functional.cosine_similarity(before, before[:, 32, 40, None, None], dim=0)
    torch.testing.assert_close(cosine(field, (40, 32), size=SIZE), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["attention", "jbu", "not linear"])
def test_large_outputs_are_answered_in_strips(method, monkeypatch):
    whole = similarity(field_of(two_things(), method), (40, 32), size=SIZE)
    monkeypatch.setattr(grouping, "DEFAULT_TILE_BUDGET", 500_000)
    field = field_of(two_things(), method)
    assert 2 < len(grouping.prepare(field, size=SIZE, grouping=1.0)._strips()) < 64
    torch.testing.assert_close(similarity(field, (40, 32), size=SIZE), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("budget", [10**9, 500_000, 1])
def test_maps_that_are_not_kept_give_the_same_bits(budget, monkeypatch):
    monkeypatch.setattr(grouping, "DEFAULT_TILE_BUDGET", budget)
    kept, drawn = upsample(two_things(), method="jbu"), upsample(two_things(), method="jbu")
    for point in ((40, 32), (3, 1), (95, 63)):
        expected = similarity(kept, point, size=SIZE)
        assert torch.equal(similarity(drawn, point, size=SIZE, spare_bytes=50_000), expected)
    assert maps_of(kept) is not None
    assert maps_of(drawn) is None


def maps_of(field):
    return next(reversed(remembering._with_fields[field].values())).maps


def test_maps_stay_with_the_field_or_with_who_asks(monkeypatch):
    field, known = upsample(two_things(), method="attention"), {}

    def remember(key, make):
        if key not in known:
            known[key] = make()
        return known[key]

    asked = similarity(field, (40, 32), size=SIZE, remember=remember)
    assert field not in remembering._with_fields
    ((key, question),) = known.items()
    assert field in key
    assert question.maps is not None
    cells = question.cells
    similarity(field, (50, 32), size=SIZE, remember=remember)
    assert known[key].cells is cells, "prepared once"
    assert torch.equal(similarity(field, (40, 32), size=SIZE), asked)
    assert maps_of(field) is not None
    monkeypatch.setattr(grouping, "KEPT_BYTES", 0)
    other = upsample(two_things(), method="bilinear")
    assert float(similarity(other, (40, 32), size=SIZE)[32, 40]) == pytest.approx(1, abs=1e-5)
    assert maps_of(other) is None


@pytest.mark.parametrize("data", [torch.full((5, 4, 6), 3.0), torch.zeros(5, 4, 6), torch.ones(5, 1, 1)])
def test_features_that_do_not_vary(data):
    rows, columns = data.shape[1:]
    geometry = Geometry((64, 96), (rows * 14, columns * 14), (rows, columns))
    image = image_from_array(np.zeros((64, 96, 3), np.uint8))
    found = similarity(upsample(FeatureMap(data, geometry, "layer", image, None, {})), (3, 3), size=SIZE)
    assert bool(found.isfinite().all())


ODD = {
    "smaller than a window": (np.random.default_rng(0).integers(0, 256, (3, 2, 3), dtype=np.uint8), (4, 6)),
    "one row of cells": (np.random.default_rng(1).integers(0, 256, (9, 140, 3), dtype=np.uint8), (1, 15)),
    "one column of cells": (np.random.default_rng(2).integers(0, 256, (140, 9, 3), dtype=np.uint8), (15, 1)),
    "one colour": (np.full((60, 84, 3), 90, np.uint8), (6, 9)),
    "grey": (np.random.default_rng(3).integers(0, 256, (60, 84), dtype=np.uint8), (6, 9)),
    "cells of 9.2 by 10.2 pixels": (np.random.default_rng(4).integers(0, 256, (61, 83, 3), dtype=np.uint8), (6, 9)),
}


def odd_features(name: str, dtype: torch.dtype = torch.float32) -> FeatureMap:
    pixels, grid = ODD[name]
    image = image_from_array(pixels)
    geometry = Geometry(image.size_hw, (grid[0] * 14, grid[1] * 14), grid)
    data = torch.randn(12, *grid, generator=torch.Generator().manual_seed(0))
    return FeatureMap(data.to(dtype), geometry, "layer", image, None, {})


@pytest.mark.parametrize("method", ["attention", "jbu", "not linear"])
@pytest.mark.parametrize("name", list(ODD))
def test_clicks_on_odd_pictures(name, method):
    features = odd_features(name)
    field, size = field_of(features, method), features.geometry.image_hw
    for x, y in ((0, 0), (size[1], size[0]), (size[1] / 2, size[0] / 2)):
        found = similarity(field, (x, y), size=size)
        assert found.shape == size
        assert bool(found.isfinite().all())
        row, column = features.geometry.pixel_of((x, y), size)
        assert float(found[row, column]) == pytest.approx(1, abs=1e-5)
        assert bool(group(field, (x, y), size=size).isfinite().all())
        assert found.min() <= proposed_threshold(found) <= found.max()


@pytest.mark.parametrize("method", ["attention", "jbu", "bilinear", "guided_filter", "not linear"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_clicks_on_features_in_half_precision_are_computed_in_float32(dtype, method):
    features = odd_features("grey", dtype)
    exact = replace(features, data=features.data.float())
    found, expected = (similarity(field_of(each, method), (40, 30), size=(60, 84)) for each in (features, exact))
    assert found.dtype == torch.float32
    tolerance = 0.2 if method == "not linear" else 1e-4  # such a field draws the components in the type of its features
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_a_field_is_freed_with_what_was_prepared_for_it():
    field = upsample(two_things(), method="bilinear")
    similarity(field, (40, 32), size=SIZE)
    gone = weakref.ref(field)
    del field
    gc.collect()
    assert gone() is None


def test_grouping_out_of_range():
    with pytest.raises(LensError, match="from 0 to 1"):
        similarity(upsample(two_things()), (3, 3), size=SIZE, grouping=1.5)


def test_the_group_is_the_mean_that_a_cell_moved_to_over_all_rounds():
    features = two_things()
    found = group(upsample(features, method="lowres"), (44, 28), size=(8, 12))  # cell (3, 5)
    cells = grouping._cells(upsample(features), 1.0, silent)
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(12.0), indexing="ij")
    far = (rows.flatten()[:, None] - rows.flatten()) ** 2 + (columns.flatten()[:, None] - columns.flatten()) ** 2
    weights = torch.eye(96)
    for components, temperature in zip(cells.rounds, grouping.TEMPERATURES, strict=True):
        units = torch.nn.functional.normalize(components, dim=0)
        weights = (units.T @ units / temperature - far / (2 * grouping.NEAR**2)).softmax(1) @ weights
    own = weights[3 * 12 + 5]
    torch.testing.assert_close(found.flatten(), own / own.max(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(cells.rounds[0] @ own, cells.components[:, 3, 5], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", ["attention", "bilinear", "jbu", "guided_filter", "lowres", "not linear"])
def test_the_group_of_a_cell_lies_in_its_thing(method):
    inside = group(field_of(two_things(), method), (40, 32), size=SIZE) >= 0.25
    assert bool(inside[32, 40])
    assert float((inside & square()).sum() / inside.sum()) > 0.8


def test_a_large_group_is_found_in_blocks_with_the_same_weights(monkeypatch):
    field = upsample(two_things())
    whole = group(field, (40, 32), size=SIZE)
    monkeypatch.setattr(grouping, "_BLOCK_VALUES", 1000)
    torch.testing.assert_close(group(field, (40, 32), size=SIZE), whole, atol=1e-6, rtol=1e-5)


def test_nothing_is_grouped_without_grouping_or_variation():
    assert group(upsample(two_things()), (40, 32), size=SIZE, grouping=0) is None
    constant = FeatureMap(torch.ones(4, 8, 12), two_things().geometry, "layer", two_things().image, None, {})
    assert group(upsample(constant), (40, 32), size=SIZE) is None


class Shown:
    """What a lens may ask for: one look."""

    def look(self, progress, *, channels=3, in_tiles=0):
        return SimpleNamespace(field=upsample(two_things()), size=SIZE, facts=None, spare_bytes=1e9)

    def remember(self, key, make):
        return make()


def test_an_outline_is_computed_on_demand_and_changes_neither_picture_nor_record(monkeypatch):
    lens, request = find_lens("similarity"), SimilarityRequest((40.0, 32.0))
    with_outline = lens.view(replace(request, outline=True), Shown())[0]
    monkeypatch.setattr(grouping.Prepared, "group", None)
    plain = lens.view(request, Shown())[0]
    assert plain.outlined() is None
    assert with_outline.outlined().shape == SIZE
    assert with_outline.outlined()[32, 40]
    assert (plain.picture() == with_outline.picture()).all()
    assert plain.provenance() == with_outline.provenance()
    assert lens.view(replace(request, outline=True, measure=COSINE), Shown())[0].outlined() is None


def test_a_thing_smaller_than_its_group_stands_out():
    """One cell that differs a little from a large area: grouping makes both the same, and the cell must still come first."""
    generator = torch.Generator().manual_seed(4)
    data = 0.05 * torch.randn(16, 12, 18, generator=generator)
    data[:, :, 9:] += torch.randn(16, 1, 1, generator=generator)
    data[0, 6, 4] += 0.6
    geometry = Geometry((96, 144), (168, 252), (12, 18))
    image = image_from_array(np.full((96, 144, 3), 90, np.uint8))
    found = similarity(
        upsample(FeatureMap(data, geometry, "layer", image, None, {}), method="lowres"), (36, 52), size=(96, 144)
    )
    inside = torch.zeros(96, 144, dtype=torch.bool)
    inside[48:56, 32:40] = True
    assert float(found[inside].min()) > float(found[~inside].max()) + 0.02


def test_what_comes_first_leaves_the_rest_of_its_group_near_the_top():
    found = similarity(upsample(two_things(0.8), method="attention"), (40, 32), size=SIZE)
    assert float(found[square()].median()) > 0.7
    assert float(found[~square()].median()) < 0.5
    region = found >= proposed_threshold(found)
    assert float((region & square()).sum() / (region | square()).sum()) > 0.8
