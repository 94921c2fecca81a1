"""Correspondences of two pictures, on features whose matches are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app.base.errors import LensError
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import upsample
from featup_app.images import image_from_array
from featup_app.lenses import correspond, match_point, space_of

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = 9, 11
CELL = 10


def field(data: torch.Tensor, method: str = "bilinear", layer: str = "block 1"):
    """Of features (C, h, w) on a grey picture with ten pixels along a side of a cell."""
    rows, columns = data.shape[1:]
    size = rows * CELL, columns * CELL
    image = image_from_array(np.full((*size, 3), 128, np.uint8))
    return upsample(
        FeatureMap(data, Geometry(size, size, (rows, columns)), layer, image, backbone_name="random"), method=method
    )


def smooth(seed: int, margin: int = 4) -> torch.Tensor:
    """(C, h, w), similar in neighbouring cells, with a margin on every side for shifts."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 24, GRID[0] + 2 * margin + 2, GRID[1] + 2 * margin + 2, generator=generator)
    return torch.nn.functional.avg_pool2d(noise, 3, 1)[0]


def cut(data: torch.Tensor, down: int = 0, right: int = 0, margin: int = 4) -> torch.Tensor:
    top, left = margin + down, margin + right
    return data[:, top : top + GRID[0], left : left + GRID[1]].contiguous()


@given(st.integers(0, 1000), st.sampled_from(["lowres", "bilinear", "attention"]), st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_picture_matches_itself_cell_by_cell(seed, method, refine):
    own = field(cut(smooth(seed)), method)
    found = correspond(own, own, refine=refine)
    assert len(found) == GRID[0] * GRID[1]
    np.testing.assert_allclose(found.one, found.other, atol=1e-6)
    np.testing.assert_allclose(found.similarity, 1, atol=1e-5)
    np.testing.assert_allclose(found.confidence, 1, atol=1e-4)


@given(st.integers(0, 1000), st.integers(-2, 2), st.integers(-2, 2))
@settings(max_examples=10, deadline=None)
def test_a_shifted_picture_gives_the_shift(seed, down, right):
    data = smooth(seed)
    found = correspond(field(cut(data)), field(cut(data, down, right)), count=20)
    shift = found.other - found.one
    np.testing.assert_allclose(np.median(shift, axis=0), (-right * CELL, -down * CELL), atol=0.5)


def test_shifts_of_parts_of_a_cell_are_found_by_refining():
    data = smooth(3, margin=8)
    fine = torch.nn.functional.interpolate(data[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    one, other = (fine[:, at : at + 4 * GRID[0] : 4, at : at + 4 * GRID[1] : 4].contiguous() for at in (20, 21))
    errors = []
    for refine in (False, True):
        found = correspond(field(one), field(other), refine=refine, count=40)
        errors.append(np.median(np.abs(found.other - found.one + CELL / 4)))
    assert errors[0] == pytest.approx(CELL / 4)
    assert errors[1] < CELL / 10


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=10, deadline=None)
def test_swapped_pictures_give_swapped_matches(seed, refine):
    one, other = field(cut(smooth(seed))), field(cut(smooth(seed), 1, -1) + 0.1 * cut(smooth(seed + 1)))
    found, swapped = correspond(one, other, refine=refine), correspond(other, one, refine=refine)
    assert len(found) == len(swapped)
    orders = [np.lexsort(np.round(each, 3).T) for each in (found.one, swapped.other)]
    np.testing.assert_allclose(found.one[orders[0]], swapped.other[orders[1]], atol=1e-3)
    np.testing.assert_allclose(found.other[orders[0]], swapped.one[orders[1]], atol=1e-3)
    np.testing.assert_allclose(found.confidence, swapped.confidence, atol=1e-4)


def test_they_are_sorted_bounded_and_as_many_as_asked():
    found = correspond(field(cut(smooth(1))), field(cut(smooth(2))), count=7)
    assert 0 < len(found) <= 7
    assert (np.diff(found.confidence) <= 0).all()
    for values in (found.similarity, found.confidence):
        assert values.dtype == np.float32
        assert (values >= 0).all()
        assert (values <= 1).all()
    assert len(correspond(field(torch.ones(4, 1, 1)), field(torch.ones(4, 1, 1)))) <= 1


def test_a_mask_keeps_the_matches_of_its_cells():
    own = field(cut(smooth(1)))
    mask = np.zeros(GRID, bool)
    mask[2, 3] = True
    found = correspond(own, own, mask=mask, refine=False)
    assert found.one.tolist() == [[35.0, 25.0]]
    with pytest.raises(LensError, match="The mask holds no centre of a cell"):
        correspond(own, own, mask=np.zeros(GRID, bool))


def test_a_point_is_found_in_a_shifted_picture():
    data = smooth(5)
    one, other = field(cut(data)), field(cut(data, 1, -2))
    found = match_point(one, (52.0, 47.0), other)
    np.testing.assert_allclose(found.point, (72, 37), atol=1.5)
    assert found.map.shape == GRID
    assert found.similarity == pytest.approx(found.map.max())
    assert 0 < found.confidence <= 1
    with pytest.raises(LensError, match="lies outside of the picture, which has 110x90 pixels"):
        match_point(one, (200.0, 5.0), other)


def test_features_of_another_space_are_refused():
    one, other = field(cut(smooth(1))), field(cut(smooth(1)), layer="block 2")
    assert space_of(one).difference(space_of(other))
    for ask in (lambda: correspond(one, other), lambda: match_point(one, (5.0, 5.0), other)):
        with pytest.raises(LensError, match="cannot be matched with features of the layer block 2, not block 1"):
            ask()
    with pytest.raises(ValueError, match="at least one match"):
        correspond(one, one, count=0)
