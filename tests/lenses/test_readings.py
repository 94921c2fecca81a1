"""Best matches, profiles along lines, features side by side, and the kernel of an upsampler at a pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_grouping import SIZE, field_of, two_things

from featup_app.base.errors import LensError
from featup_app.images import image_from_array
from featup_app.lenses import Query, compared_features, cosine, kernel, profile, top_matches
from featup_app.marks import BoxMark, PointMark

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = image_from_array(np.zeros((64, 96, 3), np.uint8))


def hills(*places: tuple[float, float, float], size=SIZE, width=4.0) -> np.ndarray:
    """A map with hills of these heights at points (x, y) of the image."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    x, y = columns * 96 / size[1], rows * 64 / size[0]
    values = [h * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * width**2)) for a, b, h in places]
    return np.max(values, axis=0).astype(np.float32)


@pytest.mark.parametrize("size", [SIZE, (128, 96), (32, 96)])
def test_matches_are_the_peaks_away_from_the_query_highest_first(size):
    values = hills((20, 20, 1.0), (70, 20, 0.9), (70, 50, 0.7), (25, 50, 0.8), size=size)
    found = top_matches(values, [Query(PointMark((20, 20)))], image=IMAGE, k=2, radius=10)
    assert [round(match.value, 1) for match in found] == [0.9, 0.8]
    for match, place in zip(found, ((70, 20), (25, 50)), strict=True):
        assert np.hypot(match.point[0] - place[0], match.point[1] - place[1]) < 2
    everything = top_matches(values, [], image=IMAGE, k=99, radius=10)
    assert everything[0].value == values.max()


def test_flanks_are_no_matches_and_neighbours_give_way():
    values = hills((30, 30, 1.0), (36, 30, 0.95), (80, 30, 0.5), width=2.0)
    found = top_matches(values, [Query(PointMark((30, 30)))], image=IMAGE, k=5, radius=8)
    assert round(found[0].value, 1) == 0.5
    near = top_matches(values, [Query(PointMark((30, 30)))], image=IMAGE, k=1, radius=3)
    assert near[0].value > 0.85


def test_hidden_and_foreign_queries_have_no_neighbourhood_and_areas_have_one():
    values = hills((20, 20, 1.0), (70, 40, 0.9))
    assert (
        top_matches(values, [Query(PointMark((20, 20)), hidden=True)], image=IMAGE, k=1, radius=9)[0].value
        == values.max()
    )
    found = top_matches(values, [Query(BoxMark((0, 0), (60, 64)), negative=True)], image=IMAGE, k=9, radius=9)
    assert round(found[0].value, 1) == 0.9
    assert top_matches(values, [Query(BoxMark((-5, -5), (99, 99)))], image=IMAGE, k=9, radius=9) == ()


def test_a_flat_map_has_matches_that_keep_their_distance():
    found = top_matches(np.full(SIZE, 0.5, np.float32), [], image=IMAGE, k=50, radius=20)
    points = np.array([match.point for match in found])
    away = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1)) + 99 * np.eye(len(points))
    assert 4 <= len(points) < 30
    assert away.min() > 20


places = st.tuples(st.floats(1, 95), st.floats(1, 63))


@given(places, places)
def test_a_profile_of_a_plane_is_its_values(start, end):
    rows, columns = np.mgrid[:32, :48] + 0.5
    plane = (3 * columns * 2 - 2 * rows * 2 + 5).astype(np.float32)
    found = profile(np.stack([plane, -plane]), start, end, image_hw=(64, 96))
    assert tuple(found.points[0]) == pytest.approx(start)
    assert tuple(found.points[-1]) == pytest.approx(end)
    expected = 3 * found.points[:, 0] - 2 * found.points[:, 1] + 5
    assert found.values.shape == (2, len(expected))
    np.testing.assert_allclose(found.values[0], expected, atol=1e-3)
    np.testing.assert_allclose(found.values[1], -expected, atol=1e-3)
    assert found.distances[-1] == pytest.approx(np.hypot(end[0] - start[0], end[1] - start[1]))


def test_profiles_beyond_the_edge_of_one_pixel_and_of_no_length():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    outside = profile(values, (-50, -50), (200, 200), image_hw=(30, 40))
    assert (outside.values[0], outside.values[-1]) == (0, 11)
    assert set(profile(values[:1, :1], (1, 1), (9, 9), image_hw=(30, 40)).values) == {0}
    assert list(profile(values, (5, 5), (5, 5), image_hw=(30, 40)).distances) == [0, 0]


def test_features_side_by_side():
    field = field_of(two_things(), "attention")
    queries = [Query(PointMark((40, 32))), Query(BoxMark((1, 1), (9, 9)), negative=True, hidden=True)]
    found = compared_features(field, (60, 20), queries, size=SIZE)
    row, column = field.geometry.pixel_of((60, 20), SIZE)
    np.testing.assert_allclose(found.feature, field.features(size=SIZE)[:, row, column], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.queries, axis=1), 1, atol=1e-5)
    for index, query in enumerate(queries):
        shown = Query(query.mark)
        expected = cosine(field, [shown], size=SIZE)[row, column]
        assert found.cosines[index] == pytest.approx(float(expected), abs=1e-5)
    assert compared_features(field, (60, 20), [], size=SIZE).queries.shape == (0, 16)


@pytest.mark.parametrize("size", [SIZE, (8, 12), (50, 33)])
@pytest.mark.parametrize("method", ["attention", "jbu", "bilinear", "guided_filter", "lowres"])
def test_the_kernel_makes_the_feature_of_its_pixel_of_the_cells(method, size):
    field = field_of(two_things(), method)
    for point in ((0, 0), (40, 32), (96, 64)):
        weights = torch.from_numpy(kernel(field, point, size=size))
        assert weights.shape == (8, 12)
        data, offset = field._corrected()
        row, column = field.geometry.pixel_of(point, size)
        found = torch.einsum("chw,hw->c", data, weights) + (0 if offset is None else offset)
        torch.testing.assert_close(found, field.features(size=size)[:, row, column], atol=1e-3, rtol=1e-3)
        assert float(weights.sum()) == pytest.approx(1, abs=1e-3)


def test_methods_that_are_not_linear_have_no_kernel():
    with pytest.raises(LensError, match="The method not linear makes no feature as a weighted mean"):
        kernel(field_of(two_things(), "not linear"), (3, 3), size=SIZE)
