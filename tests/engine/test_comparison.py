"""Comparing settings over one image: titles, one scale, one basis, and columns that fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featup_app.base.errors import Cancelled, FeatUpError, LensError
from featup_app.base.resources import resource
from featup_app.engine.comparison import Comparison, in_one_scale
from featup_app.engine.comparison_titles import shared_words, titles_of
from featup_app.engine.session import Session
from featup_app.engine.settings import ViewSettings
from featup_app.images import image_from_array, load_image
from featup_app.lenses import SCORES, CAMRequest, PCARequest, SimilarityRequest

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ViewSettings(backbone="tf_efficientnet_lite0", input_size="160", method="attention", output_size="8x")
DINO = SMALL.with_(backbone="dinov2-s14-imgfocus", input_size="112")
METHODS = ("attention", "bilinear", "jbu")
POINT = SimilarityRequest((100.0, 80.0))


@pytest.fixture(scope="module")
def photo():
    return image_from_array(load_image(resource("images", "coffee.jpg")).pixels[60:340:2, 120:530:2])


@pytest.fixture(scope="module")
def session():
    return Session(device="cpu")


def methods(*names: str) -> list[ViewSettings]:
    return [SMALL.with_(method=name) for name in names or METHODS]


# -- columns ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (methods("attention", "jbu"), ("Attention", "FeatUp JBU")),
        ([SMALL, DINO.with_(input_size="160")], ("EfficientNet-Lite0", "DINOv2 ViT-S/14")),
        ([SMALL, SMALL.with_(layer="stage 3")], ("default layer", "stage 3")),
        ([SMALL, SMALL.with_(input_size=None)], ("input 160", "input of default size")),
        (
            [SMALL.with_(method="jbu", upsampler=each) for each in (None, "classical", "a/one.safetensors")],
            ("bundled weights", "classical", "one.safetensors"),
        ),
        (
            [SMALL.with_(method="jbu", upsampler=f"{folder}/one.safetensors") for folder in "ab"],
            ("one.safetensors (1)", "one.safetensors (2)"),
        ),
        (
            [SMALL.with_(method="implicit", fit=3), SMALL.with_(method="implicit", fit=3, fit_latest=True), SMALL],
            ("FeatUp implicit, fit 3", "FeatUp implicit, fit 3, latest", "Attention"),
        ),
        ([SMALL.with_(output_size=size) for size in ("grid", "image")], ("output grid", "output image")),
    ],
)
def test_titles_name_only_what_differs(columns, titles):
    assert titles_of(columns) == titles


def test_what_is_shared_is_named_once():
    assert shared_words(methods("attention", "jbu")) == "EfficientNet-Lite0, default layer, input 160, output 8x"


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (methods("jbu"), "has 2 to 4 columns, and 1 were asked for"),
        (methods("attention", "jbu", "bilinear", "lowres", "guided_filter"), "and 5 were asked for"),
        (methods("attention", "jbu", "attention"), 'Two columns of the comparison are the same, "Attention"'),
        (methods("attention", "magic"), 'no upsampling method "magic"'),
    ],
)
def test_columns_that_cannot_be_compared(photo, columns, sentence):
    with pytest.raises(FeatUpError, match=sentence):
        Comparison(photo, columns)


# -- one scale and one basis ------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [POINT, CAMRequest(), CAMRequest("espresso", against="eggnog"), CAMRequest(method="eigencam")],
    ids=["similarity", "cam", "difference", "eigencam"],
)
def test_all_columns_have_one_scale(session, photo, request_):
    found = Comparison(photo, methods()).views(session, request_)
    single = [session.view(photo, settings, request_).limits() for settings in methods()]
    low, high = min(low for low, _ in single), max(high for _, high in single)
    assert {each.view.limits() for each in found} == {(low, high)}
    assert len({each.view.legend().limits for each in found}) == 1
    for each, settings in zip(found, methods(), strict=True):
        assert np.array_equal(each.view.values, session.view(photo, settings, request_).values), "colours change alone"
    assert in_one_scale(found)[0].view.limits() == (low, high)


def test_given_limits_stay(session, photo):
    found = Comparison(photo, methods()).views(session, SimilarityRequest((100.0, 80.0), limits=(0.0, 0.5)))
    assert {each.view.limits() for each in found} == {(0.0, 0.5)}


def test_equal_features_have_equal_colours_in_all_columns(session, photo):
    """At the size of the grid these methods give the features of the backbone themselves."""
    columns = [SMALL.with_(method=name, output_size="grid") for name in ("lowres", "bilinear")]
    one, other = (each.view for each in Comparison(photo, columns).views(session, PCARequest()))
    assert np.array_equal(one.pixels, other.pixels)
    assert len(np.unique(one.pixels)) > 10


def test_other_input_sizes_share_the_basis_of_the_first_column(session, photo):
    columns = [SMALL, SMALL.with_(input_size="192"), SMALL.with_(input_size="192", method="bilinear")]
    one, two, three = (each.view for each in Comparison(photo, columns).views(session, PCARequest()))
    assert torch.equal(one.basis.components, two.basis.components)
    assert torch.equal(one.basis.low, three.basis.low)
    plain = session.view(photo, columns[1], PCARequest())
    assert not torch.equal(plain.basis.components, two.basis.components)
    assert [each.request for each in (one, two, three)] == [PCARequest()] * 3


def test_other_features_have_a_basis_of_their_own_and_say_so(session, photo):
    columns = [SMALL, DINO, DINO.with_(method="bilinear")]
    one, two, three = Comparison(photo, columns).views(session, PCARequest())
    assert one.note is None
    assert (
        two.note == three.note == "PCA colours of its own: the backbone dinov2-s14-imgfocus, not tf_efficientnet_lite0."
    )
    assert torch.equal(two.view.basis.components, three.view.basis.components)
    assert two.view.basis.components.shape[1] == 384


def test_all_columns_show_the_class_of_the_first(session, photo):
    columns = [SMALL, SMALL.with_(input_size="64"), DINO]
    found = Comparison(photo, columns).views(session, CAMRequest())
    assert len({each.view.chosen.name for each in found}) == 1


# -- failures ------------------------------------------------------------------


def test_a_column_that_fails_leaves_the_others(session, photo):
    columns = [
        SMALL.with_(layer="stage 9"),
        SMALL,
        SMALL.with_(layer="stage 9", method="jbu"),
        SMALL.with_(method="jbu"),
    ]
    comparison = Comparison(photo, columns)
    found = comparison.views(session, POINT)
    assert [each.view is None for each in found] == [True, False, True, False]
    assert "has no layer" in found[0].error
    assert found[0].cost is None
    assert found[1].error is None
    assert found[1].view.limits() == found[3].view.limits()
    pca = comparison.views(session, PCARequest())
    assert torch.equal(pca[1].view.basis.components, pca[3].view.basis.components)
    with pytest.raises(FeatUpError, match="has no layer"):
        comparison.scores(session, 0)


def test_a_lens_that_fails_keeps_the_cost(session, photo):
    one, other = Comparison(photo, methods("lowres", "bilinear")).views(session, PCARequest((10, 11, 12)))
    assert one.view is None
    assert "no principal component 10" in one.error
    assert other.cost.drawing_seconds >= 0
    outside = Comparison(photo, methods("lowres", "bilinear")).view(session, 0, SimilarityRequest((9000, 0)))
    assert "lies outside" in outside.error


def test_a_person_can_stop(session, photo):
    def stop(*given, **more):
        raise Cancelled

    with pytest.raises(Cancelled):
        Comparison(photo, methods()).views(session, PCARequest(), stop)


# -- cost, scores and differences ---------------------------------------------------------------------------------------


def test_cost_and_scores(photo):
    comparison, session = Comparison(photo, methods("attention", "bilinear")), Session(device="cpu")
    one, other = comparison.views(session, PCARequest())
    assert one.cost.features_seconds > 0
    assert one.cost.features_seconds == other.cost.features_seconds, "they share the backbone's work"
    assert one.cost.drawing_seconds > 0
    assert one.cost.peak_mb is None or one.cost.peak_mb >= 0
    assert comparison.view(session, 0, POINT).cost is one.cost, "measured once"
    assert one.cost.in_words()[0].startswith("upsampled in ")
    scores = comparison.scores(session, 0).scores
    assert set(scores) == {name.key for name in SCORES} - {"held_out_error"}


def test_the_difference_of_columns(session, photo):
    comparison = Comparison(photo, [*methods("attention", "bilinear"), DINO])
    found, back = comparison.difference(session, 0, 1), comparison.difference(session, 1, 0)
    assert np.array_equal(found.values, back.values)
    assert found.values.shape == session.wanted_size(photo, SMALL)
    assert found.values.min() >= 0
    assert not comparison.difference(session, 1, 1).values.any()
    assert found.limits[0] == 0 < found.limits[1]
    assert (found.one, back.one) == (
        "Attention, EfficientNet-Lite0, input 160",
        "Bilinear, EfficientNet-Lite0, input 160",
    )
    assert found.picture().shape == (*found.values.shape, 3)
    assert found.reading(0, 0).startswith("distance ")
    with pytest.raises(LensError, match="compare columns of one backbone"):
        comparison.difference(session, 0, 2)
