"""Marks: their form in JSON, and the pixels that they cover at any size."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app.base.errors import MarkError
from featup_app.features import Geometry
from featup_app.marks import (
    BoxMark,
    PointMark,
    PolygonMark,
    StrokeMark,
    coverage,
    covered_pixels,
    mark_from_json,
    mark_to_json,
    neighbourhood,
)

IMAGE = (40, 60)
SIZES = [IMAGE, (20, 30), (80, 120), (13, 60), (40, 7), (1, 1), (5, 7)]

inside = st.tuples(st.floats(0, 60), st.floats(0, 40))
numbers = st.floats(-90, 150).map(lambda number: round(number, 6))
anywhere = st.tuples(numbers, numbers)
marks = (
    st.builds(PointMark, anywhere)
    | st.builds(BoxMark, anywhere, anywhere)
    | st.builds(StrokeMark, st.lists(anywhere, min_size=1, max_size=6).map(tuple), st.floats(0.01, 40))
    | st.builds(PolygonMark, st.lists(anywhere, min_size=3, max_size=8).map(tuple))
)


def centres(size):
    """x and y of the centres of the pixels of an output, in pixels of the image."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return columns * IMAGE[1] / size[1], rows * IMAGE[0] / size[0]


def distance(points, x, y):
    """From a line through points, computed segment by segment."""
    found = np.full(x.shape, np.inf)
    for a, b in zip(points, (*points[1:], points[-1]), strict=True):
        square = (b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2
        share = ((x - a[0]) * (b[0] - a[0]) + (y - a[1]) * (b[1] - a[1])) / square if square > 1e-18 else 0.0 * x
        share = np.clip(share, 0, 1)
        found = np.minimum(found, np.hypot(x - a[0] - share * (b[0] - a[0]), y - a[1] - share * (b[1] - a[1])))
    return found


@given(marks)
def test_a_mark_comes_back_from_json_as_it_was(mark):
    again = mark_from_json(json.loads(json.dumps(mark_to_json(mark))))
    assert again == mark
    assert hash(again) == hash(mark)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (None, r'no mark of the kind "None"; choose one of: point, box, stroke, polygon'),
        ({"kind": "circle"}, 'no mark of the kind "circle"'),
        ({"kind": ["point"]}, "no mark of the kind"),
        ({"kind": "point"}, 'of the kind "point" lacks its "point"'),
        ({"kind": "point", "point": [1, 2], "colour": 3}, 'has no "colour"; it is described by: point'),
        ({"kind": "point", "point": [1]}, "two numbers, x and y"),
        ({"kind": "point", "point": "12"}, "two numbers, x and y"),
        ({"kind": "point", "point": [1, "2"]}, 'needs numbers, and "2" is none'),
        ({"kind": "point", "point": [1, None]}, "needs numbers"),
        ({"kind": "point", "point": [1, math.nan]}, "coordinates must be"),
        ({"kind": "point", "point": [1, 1e300]}, "coordinates must be"),
        ({"kind": "box", "first": [1, 1]}, 'lacks its "last"'),
        ({"kind": "stroke", "points": [], "width": 3}, "A stroke of 0 points"),
        ({"kind": "stroke", "points": 5, "width": 3}, "must be a list"),
        ({"kind": "stroke", "points": [[1, 2]], "width": 0}, "its width must be above 0"),
        ({"kind": "stroke", "points": [[1, 2]], "width": True}, "needs numbers"),
        ({"kind": "polygon", "points": [[1, 2], [3, 4]]}, "A polygon of 2 points"),
    ],
)
def test_what_is_no_mark_gets_a_sentence(facts, sentence):
    with pytest.raises(MarkError, match=sentence):
        mark_from_json(facts)


@given(inside, st.sampled_from(SIZES))
def test_a_point_covers_the_pixel_that_holds_it(point, size):
    mask = coverage(PointMark(point), size, IMAGE)
    assert mask.sum() == 1
    assert mask[Geometry(IMAGE, IMAGE, (4, 6)).pixel_of(point, size)]


@given(anywhere, anywhere, st.sampled_from(SIZES))
def test_a_box_covers_the_pixels_whose_centres_lie_inside(first, last, size):
    box = BoxMark(last, first)
    x, y = centres(size)
    expected = (x >= box.first[0]) & (x < box.last[0]) & (y >= box.first[1]) & (y < box.last[1])
    if expected.any():
        assert (coverage(box, size, IMAGE) == expected).all()


@settings(max_examples=200)
@given(st.lists(anywhere, min_size=1, max_size=6).map(tuple), st.floats(0.01, 40), st.sampled_from(SIZES))
def test_a_stroke_covers_what_is_no_farther_from_its_line_than_half_its_width(points, width, size):
    away = distance(points, *centres(size))
    try:
        mask = coverage(StrokeMark(points, width), size, IMAGE)
    except MarkError:
        assert not (away <= width / 2 - 1e-6).any()
        return
    assert mask[away <= width / 2 - 1e-6].all()
    pixel = max(IMAGE[0] / size[0], IMAGE[1] / size[1])
    assert not mask[away > width / 2 + pixel + 1e-6].any()


@settings(max_examples=200)
@given(st.lists(anywhere, min_size=3, max_size=8).map(tuple), st.sampled_from(SIZES))
def test_a_polygon_covers_the_pixels_with_an_odd_number_of_its_sides_to_the_left(points, size):
    x, y = centres(size)
    expected = np.zeros(size, int)
    for a, b in zip(points, (*points[1:], points[0]), strict=True):
        if a[1] != b[1]:
            crossed = (min(a[1], b[1]) <= y) & (y < max(a[1], b[1]))
            expected += crossed & (a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) <= x)
    try:
        mask = coverage(PolygonMark(points), size, IMAGE)
    except MarkError:
        assert not (expected % 2).any()
        return
    if (expected % 2).any():
        # a corner that lies on a row within rounding may fall to either side
        assert (mask != (expected % 2 == 1)).sum() <= 1


@settings(max_examples=200)
@given(marks)
def test_a_mark_covers_something_at_every_size_if_the_image_shows_it(mark):
    found = []
    for size in SIZES:
        try:
            mask = coverage(mark, size, IMAGE)
        except MarkError:
            found.append(False)
            continue
        rows, columns = covered_pixels(mark, size, IMAGE)
        assert mask.any()
        assert (np.argwhere(mask) == np.stack([rows, columns], 1)).all()
        found.append(True)
    assert all(found) or not found[0]  # what covers nothing of the image may still reach a centre of a finer output


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "mark",
    [
        StrokeMark(((12.0, 9.0),), 1.0),
        StrokeMark(((12.3, 9.9), (12.4, 9.9)), 0.01),
        StrokeMark(((-5.0, 20.0), (70.0, 20.0)), 0.1),
        BoxMark((30.6, 20.6), (30.9, 20.9)),
        BoxMark((0, 0), (0, 0)),
        BoxMark((60, 40), (60, 40)),
        PolygonMark(((10.6, 10.6), (10.9, 10.6), (10.7, 10.9))),
        PolygonMark(((-100, 20.6), (200, 20.6), (200, 20.7))),
        PolygonMark(((5, 5), (5, 5), (5, 5))),
    ],
)
def test_thin_and_tiny_marks_cover_at_least_one_pixel(mark, size):
    assert coverage(mark, size, IMAGE).any()


def test_a_thin_stroke_has_no_gaps():
    mask = coverage(StrokeMark(((1.0, 1.0), (58.0, 33.0)), 0.1), (20, 30), IMAGE)
    assert mask.any(0)[1:28].all()


@pytest.mark.parametrize(
    "mark",
    [
        PointMark((61, 20)),
        PointMark((-0.1, 20)),
        BoxMark((70, 0), (80, 40)),
        StrokeMark(((-30.0, 5.0), (-20.0, 5.0)), 10),
        PolygonMark(((-9, -9), (-9, 90), (-1.5, 20))),
        PolygonMark(((70, -100), (200, -100), (200, 300))),
    ],
)
def test_a_mark_outside_is_refused_in_a_sentence_that_names_it(mark):
    for size in SIZES:
        with pytest.raises(
            MarkError, match=rf"The {mark.kind} .*outside of the picture, which is 60 pixels wide and 40"
        ):
            coverage(mark, size, IMAGE)


def test_marks_that_reach_over_the_edge_are_cut_off():
    assert coverage(BoxMark((-1e6, -1e6), (1e6, 1e6)), (20, 30), IMAGE).all()
    assert coverage(PolygonMark(((-1e6, -1e6), (1e6, -1e6), (1e6, 1e6), (-1e6, 1e6))), IMAGE, IMAGE).all()
    assert coverage(StrokeMark(((-1e6, 20.0), (1e6, 20.0)), 10), IMAGE, IMAGE).sum() == 10 * 60


@given(marks, st.floats(0, 30), st.sampled_from(SIZES))
def test_a_neighbourhood_holds_what_is_near(mark, radius, size):
    away = distance(mark.path, *centres(size))
    reach = radius + (mark.width / 2 if isinstance(mark, StrokeMark) else 0)
    found = neighbourhood(mark, radius, size, IMAGE)
    assert found[away <= reach - 1e-6].all()
    if isinstance(mark, PointMark | StrokeMark):
        assert not found[away > reach + 1e-6].any()


def test_a_long_stroke_of_ten_thousand_points_is_drawn_at_once():
    angle = np.linspace(0, 200, 10_000)
    points = tuple(map(tuple, np.stack([500 + 400 * np.cos(angle), 500 + 300 * np.sin(1.1 * angle)], 1).tolist()))
    mask = coverage(StrokeMark(points, 9), (1024, 1024), (1000, 1000))
    assert 0.05 < mask.mean() < 0.9
