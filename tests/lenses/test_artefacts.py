"""Haze, mottling and lettering: each rises with its own artefact and not with the others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from known_field import KnownField

from featup_app.features import FeatureMap, Geometry
from featup_app.fields import upsample
from featup_app.images import image_from_array
from featup_app.lenses.quality import QualityScores, quality_reference, quality_scores
from featup_app.multiview import box_average

pytestmark = pytest.mark.usefixtures("one_thread")

GRID, CELL = (10, 14), 8
SIZE = GRID[0] * CELL, GRID[1] * CELL
ENDS = torch.randn(2, 6, 1, 1, generator=torch.Generator().manual_seed(2))
"""The features of the two sides."""


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def texture() -> torch.Tensor:
    """(H, W) of mean 0 with details of some pixels, in the lower part of the picture alone."""
    fine = torch.nn.functional.avg_pool2d(noise(3, 1, 1, *SIZE), 3, 1, 1)[0, 0]
    fine[: 6 * CELL] = 0
    return fine / fine.std()


def step(column: int = 56) -> tuple[FeatureMap, torch.Tensor]:
    """A dark and a bright side, textured in the lower part, whose features are two vectors: (coarse map, features (C, H, W))."""
    bright = (torch.arange(SIZE[1]) >= column).expand(SIZE)
    grey = 80 + 90 * bright + 12 * texture() + noise(1, *SIZE)
    pixels = grey.round().clamp(0, 255).byte()[..., None].expand(*SIZE, 3).contiguous().numpy()
    one, other = ENDS
    fine = torch.where(bright, one, other)
    coarse = box_average(fine, GRID)
    return FeatureMap(coarse, Geometry(SIZE, SIZE, GRID), "layer", image_from_array(pixels)), fine


def scored(field, features: FeatureMap) -> QualityScores:
    return quality_scores(field, quality_reference(features, pixels=SIZE[0] * SIZE[1]))


def bilinear(features: FeatureMap) -> torch.Tensor:
    return upsample(features, method="bilinear").features(size=SIZE)


def of(fine: torch.Tensor, features: FeatureMap) -> QualityScores:
    return scored(KnownField(features, fine), features)


def one_deviation(features: FeatureMap) -> torch.Tensor:
    """(C, 1, 1), one deviation of the coarse map along the difference of the two sides."""
    deviation = features.data.flatten(1).var(1, correction=0).sum().sqrt()
    return deviation * torch.nn.functional.normalize(ENDS[1] - ENDS[0], dim=0)


@pytest.mark.parametrize("column", [56, 60, 62])
def test_haze_is_none_for_a_switch_at_the_edge_and_high_for_interpolation(column):
    features, fine = step(column)
    exact, linear = of(fine, features), of(bilinear(features), features)
    half = of((fine + bilinear(features)) / 2, features)
    shifted = of(fine.roll(4, 2), features)
    assert exact.haze < 1e-4
    assert 0.2 < linear.haze < 0.4
    assert half.haze == pytest.approx(linear.haze / 2, rel=0.1)
    assert shifted.haze == pytest.approx(0.5, abs=0.05), "one side is all wrong, the other right"


def test_haze_of_a_ramp_between_the_cells_beside_the_edge_is_a_quarter():
    features, _ = step()
    assert of(bilinear(features), features).haze == pytest.approx(0.25, abs=0.02)
    assert scored(upsample(features, method="lowres"), features).haze < 1e-4, "the border of cells is the edge"


def test_overshoot_is_no_haze():
    features, fine = step()
    linear = bilinear(features)
    assert of(fine + (fine - linear), features).haze < 1e-4


def test_mottling_is_the_deviation_of_noise_in_flat_parts():
    features, fine = step()
    blotches = noise(5, *SIZE) * one_deviation(features)
    found = [of(fine + strength * blotches, features).mottling for strength in (0.0, 0.05, 0.2)]
    assert found == pytest.approx([0, 0.05, 0.2], rel=0.1, abs=1e-3)
    linear = bilinear(features)
    assert of(linear, features).mottling == 0
    assert scored(upsample(features, method="lowres"), features).mottling < 1e-4


def test_lettering_is_the_texture_that_was_copied():
    features, fine = step()
    letters = texture() * one_deviation(features)
    found = []
    for strength in (0.0, 0.05, 0.2):
        copied = of(fine + strength * letters, features)
        found.append(copied.lettering)
        assert copied.mottling < 0.02, "the texture lies elsewhere"
    assert found[0] < 0.005
    assert 0.02 < found[1] < found[2] / 3 < 0.1
    other = of(fine + 0.2 * letters.flip(2), features)
    assert other.lettering < found[2] / 5, "texture that the photo does not have"
    assert of(bilinear(features), features).lettering == 0


def test_guided_fields_leak_less_than_interpolation_and_copy_more():
    features, _ = step()
    guided, linear = (scored(upsample(features, method=name), features) for name in ("guided_filter", "bilinear"))
    assert guided.haze < linear.haze / 2
    assert guided.lettering > linear.lettering


@pytest.mark.parametrize("grid", [(1, 14), (10, 1), (1, 1)])
def test_grids_of_one_row_have_no_artefacts(grid):
    size = grid[0] * CELL, grid[1] * CELL
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    features = FeatureMap(noise(0, 6, *grid), Geometry(size, size, grid), "layer", image_from_array(pixels))
    values = scored(upsample(features, method="bilinear"), features)
    assert all(math.isnan(value) for value in (values.haze, values.mottling, values.lettering))


def test_cells_of_few_pixels_have_no_inside():
    features, _ = step()
    values = quality_scores(upsample(features, method="bilinear"), quality_reference(features, pixels=140 * 9))
    assert all(math.isnan(value) for value in (values.haze, values.mottling, values.lettering))
    assert 0 <= values.edge_alignment <= 1


def test_a_flat_picture_has_neither_edges_nor_texture():
    features, fine = step()
    grey = image_from_array(np.full((*SIZE, 3), 90, np.uint8))
    flat = FeatureMap(features.data, features.geometry, "layer", grey)
    values = of(fine + 0.1 * noise(7, 6, *SIZE), flat)
    assert math.isnan(values.haze)
    assert math.isnan(values.lettering)
    assert values.mottling > 0
