"""Requests of lenses: as a person writes them, and as files keep them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featup_app.base.errors import LensError
from featup_app.lenses import CAMRequest, PCARequest, SimilarityRequest, find_lens, parse_views, request_from_json


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("pca", (PCARequest(),)),
        (" PCA , cam ", (PCARequest(), CAMRequest())),
        ("pca:4-6", (PCARequest((4, 5, 6)),)),
        ("pca:1,4, 9,cam", (PCARequest((1, 4, 9)), CAMRequest())),
        ("similarity@120,80", (SimilarityRequest((120, 80)),)),
        ("similarity@12.5,.5,similarity @ 3 , 4.", (SimilarityRequest((12.5, 0.5)), SimilarityRequest((3, 4)))),
        ("cam:espresso,cam:504", (CAMRequest("espresso"), CAMRequest("504"))),
        ("cam:great white shark ,pca", (CAMRequest("great white shark"), PCARequest())),
        ("cam:\"lynx, catamount\",cam:'a b'", (CAMRequest("lynx, catamount"), CAMRequest("a b"))),
        ("cam:carpenter's kit,", (CAMRequest("carpenter's kit"),)),
        ("pca,similarity@120,80,cam:tabby", (PCARequest(), SimilarityRequest((120, 80)), CAMRequest("tabby"))),
    ],
)
def test_views_as_a_person_writes_them(text, expected):
    assert parse_views(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pcx", r'The view "pcx" is not understood\. Write pca'),
        ("pca,heat", r'The view "heat" is not understood'),
        ("pca similarity@1,2", "is not understood"),
        ("similarity", "a point in pixels"),
        ("similarity@3", "a point in pixels"),
        ("similarity@3,x", "a point in pixels"),
        ("pca:1", "is not understood"),
        ("pca:1-2", "has 2 components; a picture shows three, such as pca:1-3"),
        ("pca:6-4", "has 0 components"),
        ("cam:", "is not understood"),
        ('cam:"lynx', "is not understood"),
        ("cam:lynx, catamount", 'The view "catamount" is not understood.*in quotes'),
        ("pca,cam,pca", 'The view "pca" is asked for twice'),
        (",pca", "is not understood"),
    ],
)
def test_nonsense_gets_a_sentence(text, sentence):
    with pytest.raises(LensError, match=sentence):
        parse_views(text)


numbers = st.floats(allow_nan=False, allow_infinity=False)
places = st.floats(-1e7, 1e7)
limits = st.none() | st.tuples(numbers, numbers)
requests = (
    st.builds(
        PCARequest,
        st.tuples(*[st.integers(1, 9)] * 3),
        st.sampled_from(["grid", "field", "joint"]),
        st.none() | st.text(),
        st.sampled_from([None, "above", "below"]),
        numbers,
    )
    | st.builds(SimilarityRequest, st.tuples(places, places), st.sampled_from(["viridis", "grey"]), limits)
    | st.builds(
        CAMRequest,
        st.none() | st.integers(0, 999) | st.text(min_size=1),
        st.just("inferno"),
        limits,
        st.sampled_from([None, "layercam"]),
        st.none() | st.integers(0, 999) | st.text(min_size=1),
        st.booleans(),
    )
)


@given(requests)
def test_a_request_comes_back_from_json_as_it_was(request):
    again = request_from_json(json.loads(json.dumps(request.as_json())))
    assert again == request
    assert hash(again) == hash(request)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"lens": "sound"}, r'no lens "sound"\. Choose one of: pca, similarity, cam'),
        ({}, r'no lens ""'),
        ({"lens": "pca", "number": [1, 2, 3]}, r'has no "number"; it has: basis, fit, foreground, numbers, threshold'),
        ({"lens": "similarity"}, r"not complete: .*queries"),
    ],
)
def test_a_request_that_is_none_gets_a_sentence(facts, sentence):
    with pytest.raises(LensError, match=sentence):
        request_from_json(facts)


def test_colours_are_no_other_computation():
    one, other = SimilarityRequest((1, 2)), SimilarityRequest((1, 2), "magma", (0, 1))
    assert one.computation() == other.computation() != SimilarityRequest((1, 3)).computation()
    assert one.computation() != SimilarityRequest((1, 2), outline=True).computation()
    assert CAMRequest(1).computation() == CAMRequest(1, "grey").computation() != CAMRequest("1").computation()
    assert PCARequest().computation() != PCARequest(fit="joint").computation()
    assert PCARequest(foreground="above").computation() == PCARequest(foreground="below", threshold=3.0).computation()
    assert (
        PCARequest(basis="some file").computation()
        != PCARequest().computation()
        != PCARequest(foreground="above").computation()
    )


def test_a_lens_is_found_by_its_name():
    assert find_lens("cam").title == "CAM"


def test_the_plain_cosine_is_written_out_on_the_command_line():
    plain, grouped = parse_views("similarity:cosine@10.5,20, similarity@10.5,20")
    assert plain.measure == "cosine"
    assert grouped.measure == "grouped"
    assert request_from_json(plain.as_json()) == plain
