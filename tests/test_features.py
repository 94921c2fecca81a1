"""Regions cover outputs exactly, and points survive the way from image to grid and back."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featup_app.features import FeatureMap, Geometry, Region
from featup_app.images import image_from_array

sides = st.integers(1, 60)
large_sides = st.integers(1, 6000)
offsets = st.floats(-2, 2)
geometries = st.builds(
    Geometry,
    image_hw=st.tuples(large_sides, large_sides),
    input_hw=st.just((224, 224)),
    grid_hw=st.tuples(sides, sides),
    offset_xy=st.tuples(offsets, offsets),
)


@given(size=st.tuples(sides, sides), rows=sides, columns=sides)
def test_split_covers_every_pixel_exactly_once(size, rows, columns):
    count = np.zeros(size, int)
    order = []
    for region in Region.split(size, rows, columns):
        region.check_inside(size)
        assert region.height <= rows
        assert region.width <= columns
        count[region.rows, region.columns] += 1
        order.append((region.top, region.left))
    assert (count == 1).all()
    assert order == sorted(order)


def test_a_region_knows_its_edges():
    region = Region(top=2, left=3, height=4, width=5)
    assert (region.bottom, region.right) == (6, 8)
    assert (region.rows, region.columns) == (slice(2, 6), slice(3, 8))
    assert Region.whole((7, 9)) == Region(0, 0, 7, 9)


@pytest.mark.parametrize(
    "region", [Region(0, 0, 0, 1), Region(0, 0, 1, 0), Region(-1, 0, 2, 2), Region(0, 8, 2, 2), Region(6, 0, 2, 2)]
)
def test_a_region_outside_or_empty_is_refused(region):
    with pytest.raises(ValueError, match="7x9"):
        region.check_inside((7, 9))


def test_the_whole_and_the_corners_are_inside():
    for region in (Region.whole((7, 9)), Region(6, 8, 1, 1), Region(0, 0, 1, 1)):
        region.check_inside((7, 9))


@given(geometry=geometries, column=st.floats(-5, 65), row=st.floats(-5, 65))
def test_cell_to_image_and_back(geometry, column, row):
    back = geometry.image_to_cell(*geometry.cell_to_image(column, row))
    assert back == pytest.approx((column, row), abs=1e-9)


@given(geometry=geometries, x=st.floats(-10, 7000), y=st.floats(-10, 7000))
def test_image_to_cell_and_back(geometry, x, y):
    back = geometry.cell_to_image(*geometry.image_to_cell(x, y))
    assert back == pytest.approx((x, y), abs=1e-6)


def test_cells_cover_the_whole_image():
    geometry = Geometry(image_hw=(300, 451), input_hw=(448, 672), grid_hw=(32, 48))
    assert geometry.cell_size_xy == (451 / 48, 300 / 32)
    assert geometry.cell_to_image(0, 0) == (0, 0)
    assert geometry.cell_to_image(48, 32) == pytest.approx((451, 300))
    assert geometry.cell_to_image(0.5, 0.5) == pytest.approx((451 / 96, 300 / 64))


def test_an_offset_shifts_by_cells_to_the_right_and_down():
    plain = Geometry((100, 200), (100, 200), (10, 20))
    shifted = Geometry((100, 200), (100, 200), (10, 20), offset_xy=(0.5, 0.25))
    x, y = plain.cell_to_image(3.5, 4.5)
    assert shifted.cell_to_image(3.5, 4.5) == pytest.approx((x + 5, y + 2.5))


@given(geometry=geometries, size=st.tuples(large_sides, large_sides), data=st.data())
def test_the_centre_of_an_output_pixel_lies_in_that_pixel(geometry, size, data):
    row, column = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    height, width = geometry.image_hw
    point = (column + 0.5) * width / size[1], (row + 0.5) * height / size[0]
    assert geometry.pixel_of(point, size) == (row, column)


@given(geometry=geometries, size=st.tuples(sides, sides), x=st.floats(-1e6, 1e6), y=st.floats(-1e6, 1e6))
def test_pixel_of_is_always_inside(geometry, size, x, y):
    row, column = geometry.pixel_of((x, y), size)
    assert 0 <= row < size[0]
    assert 0 <= column < size[1]


def test_pixel_of_clamps_to_the_nearest_edge():
    geometry = Geometry((100, 200), (100, 200), (10, 20))
    assert geometry.pixel_of((-3, 50), (10, 20)) == (5, 0)
    assert geometry.pixel_of((200, 100), (10, 20)) == (9, 19)
    assert geometry.pixel_of((1000, -1000), (10, 20)) == (0, 19)


def test_a_feature_map_knows_its_backbone_whatever_its_record_says():
    image, geometry = image_from_array(np.zeros((4, 4, 3), np.uint8)), Geometry((4, 4), (4, 4), (2, 2))
    record = {"backbone": "from the record"}

    def name_of(**given):
        return FeatureMap(torch.zeros(3, 2, 2), geometry, "layer", image, provenance=record, **given).backbone_name

    assert name_of() is None
    assert name_of(backbone=SimpleNamespace(name="vit")) == "vit"
    assert name_of(backbone_name="resnet") == "resnet"
    assert name_of(backbone=SimpleNamespace()) is None
