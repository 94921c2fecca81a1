"""Similarity to several marks: each formula against the answers to single queries, and one point as it always was."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_grouping import SIZE, field_of, square, two_things

from featup_app.base.errors import LensError, MarkError
from featup_app.lenses import Query, SimilarityRequest, cosine, find_lens, grouping, similarity
from featup_app.lenses.queries import COMBINES, DIFFERENCE, FORMULAS, MAXIMUM, MEAN, MOST_QUERIES
from featup_app.lenses.similarity import COSINE
from featup_app.marks import BoxMark, PointMark, PolygonMark, StrokeMark, coverage

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ["attention", "jbu", "not linear"]
POSITIVE = ((40.0, 32.0), (30.0, 20.0), (50.5, 40.5))
NEGATIVE = ((5.0, 5.0), (90.0, 60.0))
MEASURES = {"grouped": similarity, "cosine": cosine}


def queries(positive=POSITIVE, negative=NEGATIVE) -> list[Query]:
    return [Query(PointMark(point)) for point in positive] + [
        Query(PointMark(point), negative=True) for point in negative
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("measure", MEASURES)
def test_one_point_is_the_same_to_the_last_bit_however_it_is_asked(measure, method):
    field, function = field_of(two_things(), method), MEASURES[measure]
    expected = function(field, (40, 32), size=SIZE)
    for combine in (None, *COMBINES):
        assert torch.equal(function(field, [Query(PointMark((40, 32)))], size=SIZE, combine=combine), expected)
    hidden = Query(PointMark((3, 3)), hidden=True)
    assert torch.equal(function(field, [hidden, Query(PointMark((40, 32)))], size=SIZE), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("measure", MEASURES)
def test_maximum_and_difference_are_those_of_the_single_answers(measure, method):
    field, function = field_of(two_things(), method), MEASURES[measure]
    positive, negative = (
        torch.stack([function(field, point, size=SIZE) for point in points]) for points in (POSITIVE, NEGATIVE)
    )
    found = function(field, queries(), size=SIZE, combine=MAXIMUM)
    expected = (positive.amax(0) - negative.amax(0).clamp(min=0)).clamp(-1, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    found = function(field, queries(), size=SIZE, combine=DIFFERENCE)
    torch.testing.assert_close(found, (positive.mean(0) - negative.mean(0)).clamp(-1, 1), atol=1e-5, rtol=0)
    assert torch.equal(function(field, queries(), size=SIZE), found), "the difference, as soon as one is negative"
    alone = function(field, queries(negative=()), size=SIZE, combine=MAXIMUM)
    torch.testing.assert_close(alone, positive.amax(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_is_the_cosine_with_the_mean_direction(method):
    field = field_of(two_things(), method)
    units = F.normalize(field.features(size=SIZE), dim=0)

    def expected(points):
        rows, columns = zip(*[field.geometry.pixel_of(point, SIZE) for point in points], strict=True)
        direction = F.normalize(units[:, list(rows), list(columns)].mean(1), dim=0)
        return torch.einsum("c,chw->hw", direction, units)

    found = cosine(field, queries(negative=()), size=SIZE)
    torch.testing.assert_close(found, expected(POSITIVE), atol=1e-5, rtol=0)
    both = cosine(field, queries(), size=SIZE, combine=MEAN)
    torch.testing.assert_close(both, expected(POSITIVE) - expected(NEGATIVE).clamp(min=0), atol=1e-5, rtol=0)


def test_the_mean_after_grouping_is_the_answer_to_the_mean_of_the_components():
    field = field_of(two_things(), "attention")
    maps = grouping.whole_maps(field, size=SIZE, grouping=1.0)
    rows, columns = zip(*[field.geometry.pixel_of(point, SIZE) for point in POSITIVE], strict=True)
    pick = [each[..., list(rows), list(columns)] for each in maps]
    query = type(maps)(*(F.normalize(each.sum(1), dim=0)[None] for each in pick[:2]), pick[2].mean()[None])
    found = similarity(field, queries(negative=()), size=SIZE)
    torch.testing.assert_close(found, maps.similarity(query).clamp(-1, 1), atol=1e-5, rtol=0)


AREAS = [
    BoxMark((30, 20), (50, 44)),
    StrokeMark(((28.0, 20.0), (50.0, 40.0)), 6),
    PolygonMark(((26, 18), (54, 20), (40, 46))),
    BoxMark((-50, -50), (300, 300)),
]


@pytest.mark.parametrize("mark", AREAS)
@pytest.mark.parametrize("method", METHODS)
def test_an_area_is_asked_with_the_mean_direction_of_its_pixels(method, mark, monkeypatch):
    field, inside = field_of(two_things(), method), torch.from_numpy(coverage(mark, SIZE, (64, 96)))
    units = F.normalize(field.features(size=SIZE), dim=0)
    expected = torch.einsum("c,chw->hw", F.normalize(units[:, inside].sum(1), dim=0), units)
    torch.testing.assert_close(cosine(field, [Query(mark)], size=SIZE), expected, atol=1e-5, rtol=0)
    whole = similarity(field, [Query(mark)], size=SIZE)
    monkeypatch.setattr(grouping, "DEFAULT_TILE_BUDGET", 500_000)
    strips = similarity(field_of(two_things(), method), [Query(mark)], size=SIZE, spare_bytes=0)
    torch.testing.assert_close(strips, whole, atol=1e-5, rtol=0)


def test_an_area_of_one_pixel_is_the_point():
    field = field_of(two_things(), "attention")
    assert torch.equal(
        similarity(field, [Query(BoxMark((40, 32), (41, 33)))], size=SIZE), similarity(field, (40.5, 32.5), size=SIZE)
    )


@pytest.mark.parametrize("combine", COMBINES)
def test_many_queries_over_several_strips_that_are_not_kept(combine, monkeypatch):
    field = field_of(two_things(), "attention")
    whole = similarity(field, queries(), size=SIZE, combine=combine)
    monkeypatch.setattr(grouping, "DEFAULT_TILE_BUDGET", 300_000)
    found = similarity(field_of(two_things(), "attention"), queries(), size=SIZE, combine=combine, spare_bytes=0)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("measure", MEASURES)
def test_positive_and_negative_marks_tell_two_things_apart(measure, combine):
    field = field_of(two_things(), "attention")
    found = MEASURES[measure](field, queries(), size=SIZE, combine=combine)
    inside = square()
    assert float(found[inside].mean()) > float(found[~inside].mean()) + (0.3 if measure == "grouped" else 0.06)
    assert float(found.min()) >= -1
    assert float(found.max()) <= 1


def test_every_combination_has_a_formula():
    assert set(FORMULAS) == set(COMBINES)
    assert all("s(x, " in text for text in FORMULAS.values())


@pytest.mark.parametrize("measure", MEASURES)
def test_two_hundred_queries_are_answered_and_one_more_is_refused(measure):
    field, function = field_of(two_things(), "attention"), MEASURES[measure]
    many = [Query(PointMark((0.4 * number + 0.2, 30)), negative=number % 3 == 0) for number in range(MOST_QUERIES)]
    for combine in COMBINES:
        assert bool(function(field, many, size=SIZE, combine=combine).isfinite().all())
    with pytest.raises(LensError, match="There are 201 queries; at most 200"):
        function(field, [*many, many[0]], size=SIZE)


@pytest.mark.parametrize(
    ("asked", "combine", "sentence"),
    [
        ([], None, "needs at least one mark"),
        ([Query(PointMark((3, 3)), negative=True)], None, "No positive query is shown"),
        ([Query(PointMark((3, 3)), hidden=True)], None, "No positive query is shown"),
        ([Query(PointMark((3, 3)))], "median", 'combined by "median"; choose one of: mean, maximum, difference'),
        ([Query(PointMark((3, 3))), "x", "y"], None, "of a point .* or of queries"),
        ([Query(PointMark((97, 3)))], None, r"The point \(97, 3\) lies outside"),
        ([Query(PointMark((3, 3))), Query(BoxMark((-9, -9), (-1, -1)))], None, "The box .* lies outside"),
    ],
)
def test_what_cannot_be_asked_gets_a_sentence(asked, combine, sentence):
    field = field_of(two_things(), "bilinear")
    for function in MEASURES.values():
        with pytest.raises((LensError, MarkError), match=sentence):
            function(field, asked, size=SIZE, combine=combine)


def test_a_query_needs_a_mark():
    with pytest.raises(LensError, match="needs a mark"):
        Query((3, 3))


# -- the request -----------------------------------------------------------------------------------------------------------


def test_a_request_of_one_point_is_what_it_was():
    request = SimilarityRequest((120, 80.5))
    assert request.point == request.only_point == (120, 80.5)
    assert request.stem() == "similarity-120-80.5"
    assert replace(request, measure=COSINE).stem() == "cosine-120-80.5"
    assert request.provenance() == {"point_xy": (120, 80.5)}
    assert request.words == "x 120.0, y 80.5"
    assert request == SimilarityRequest((Query(PointMark((120, 80.5))),))


def test_a_request_of_several_queries_has_a_name_and_a_record_of_its_own():
    several = SimilarityRequest(tuple(queries()))
    assert several.words == "5 queries, 2 negative"
    assert several.stem().startswith("similarity-5-queries-")
    assert (
        several.stem() != replace(several, queries=several.queries[:4]).stem() != replace(several, combine=MEAN).stem()
    )
    facts = several.provenance()
    assert facts["combine"] == DIFFERENCE
    assert facts["queries"][0] == {"mark": {"kind": "point", "point": [40, 32]}, "negative": False}
    assert replace(several, title="Red cars!").stem() == "similarity-red-cars"
    box = SimilarityRequest((Query(BoxMark((1, 2), (3, 4)), name="door"),))
    assert (box.only_point, box.point, box.words) == (None, (1, 2), "door")


def test_names_hidden_queries_and_thresholds_are_no_other_computation():
    several = SimilarityRequest(tuple(queries()))
    named = replace(several, queries=tuple(replace(query, name="a") for query in several.queries), threshold=0.3)
    hidden = replace(several, queries=(*several.queries, Query(PointMark((1, 1)), hidden=True)))
    assert several.computation() == named.computation() == hidden.computation()
    assert several.computation() != replace(several, threshold="auto").computation()
    assert several.computation() != replace(several, combine=MAXIMUM).computation()
    one = SimilarityRequest((1, 1))
    assert one.computation() == replace(one, combine=MAXIMUM).computation()
    signed = tuple(replace(query, negative=False) for query in several.queries)
    assert several.computation() != replace(several, queries=signed).computation()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"queries": (Query(PointMark((100, 2))),)},
            r'The point \(100, 2\) lies outside of "photo.jpg", which is 96 pixels',
        ),
        ({"queries": (Query(BoxMark((100, 2), (120, 9))),)}, 'The box .* lies outside of "photo.jpg"'),
        ({"queries": (Query(PointMark((1, 2)), negative=True),)}, "No positive query"),
        ({"measure": "dot"}, 'no similarity "dot"'),
        ({"combine": "sum"}, 'combined by "sum"'),
        ({"threshold": 3.0}, "The threshold is 3"),
        ({"threshold": "best"}, "The threshold is best"),
    ],
)
def test_a_request_is_checked_before_anything_is_computed(changes, sentence):
    image = SimpleNamespace(size_hw=(64, 96), name="photo.jpg", sha256="a")
    request = SimilarityRequest((3, 3))
    request.check_image(image)
    with pytest.raises(LensError, match=sentence):
        replace(request, **changes).check_image(image)


class Shown:
    """What a lens may ask for: one look."""

    def look(self, progress, *, channels=3, in_tiles=0):
        field = field_of(two_things(), "attention")
        return SimpleNamespace(field=field, size=SIZE, facts=SimpleNamespace(method="attention"), spare_bytes=1e9)

    def remember(self, key, make):
        return make()


@pytest.mark.parametrize("measure", MEASURES)
def test_the_lens_shows_what_the_function_computes(measure):
    request = SimilarityRequest(tuple(queries()), measure=measure, combine=MAXIMUM, outline=True)
    view = find_lens("similarity").view(request, Shown())[0]
    expected = MEASURES[measure](field_of(two_things(), "attention"), queries(), size=SIZE, combine=MAXIMUM)
    assert (view.values == expected.numpy()).all()
    assert view.outlined() is None, "a group is that of one point"
    assert FORMULAS[MAXIMUM] in view.legend().tooltip
    assert view.mask() is None
    assert "mask" not in view.provenance()


def test_a_threshold_gives_a_mask_with_its_area_and_outline():
    request = SimilarityRequest((40, 32), threshold="auto")
    view = find_lens("similarity").view(request, Shown())[0]
    mask = view.mask()
    assert mask.threshold == view.proposed
    assert (mask.inside == (view.values >= view.proposed)).all()
    assert (view.outlined() == mask.inside).all()
    assert mask.pixels == mask.inside.sum()
    assert mask.share == pytest.approx(mask.inside.mean())
    assert set(np.unique(mask.picture())) == {0, 255}
    assert len(mask.outlines()) >= 1
    assert "at or above" in view.subtitle()
    moved = view.with_request(replace(request, threshold=-1.0))
    assert moved.mask().share == 1
    assert mask.facts() == {"threshold": mask.threshold, "area_pixels": mask.pixels, "area_share": mask.share}
