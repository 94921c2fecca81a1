"""A click on a fit: asked of its base field and of the views that it was fitted to, each for itself."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_grouping import SIZE, square, two_things
from training_fixtures import features_of, picture

from featup_app.base.errors import Cancelled
from featup_app.features import FeatureMap
from featup_app.fields import upsample
from featup_app.fields.implicit import FitRecipe, ImplicitField, ImplicitFit, load_fit, save_fit
from featup_app.fields.implicit.views import ASKED_VIEWS, AskedViews
from featup_app.images import image_from_array
from featup_app.lenses import Query, SimilarityRequest, cosine, grouping, pinned, similarity
from featup_app.lenses.asked_views import asked_field
from featup_app.lenses.similarity import SimilarityView
from featup_app.marks import BoxMark, PointMark
from featup_app.multiview import Jitter, identity_jitter, random_jitter

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = FitRecipe(name="tiny", waves=24, views=8, views_per_step=4, held_out=2)


@pytest.fixture(scope="module")
def features() -> FeatureMap:
    return features_of(picture(3), (48, 64))


@pytest.fixture(scope="module")
def fit(features) -> ImplicitFit:
    fit = ImplicitFit(features, recipe=RECIPE)
    fit.run()
    return fit


def asked_in(
    features: FeatureMap, jitters: tuple[Jitter, ...], maps: list[torch.Tensor], fit: ImplicitFit
) -> ImplicitField:
    """A fit of these features that saw these maps in these views."""
    field = fit.field()
    asked = AskedViews(jitters, torch.stack(maps).half())
    return ImplicitField(
        features, features.image, field.network, field.components, {}, start=start_of(features), asked=asked
    )


def start_of(features: FeatureMap):
    from featup_app.fields.implicit.start import Start

    return Start(upsample(features, method="attention"))


def seen(features: FeatureMap, jitter: Jitter) -> torch.Tensor:
    return jitter.sample(features.data, features.geometry.grid_hw)


def test_without_views_a_click_is_answered_by_the_base_field(features, fit):
    latest = fit.field(best=False)
    assert latest.asked is None, "a running fit is looked at again and again"
    expected = similarity(upsample(features, method="attention"), (20, 20), size=(24, 32))
    torch.testing.assert_close(similarity(latest, (20, 20), size=(24, 32)), expected)
    assert asked_field(latest) is latest.start.field
    assert not torch.allclose(similarity(fit.field(), (20, 20), size=(24, 32)), expected, atol=1e-3)


def test_a_fit_keeps_its_first_views_with_what_the_backbone_saw(features, fit):
    asked = fit.field().asked
    assert len(asked.jitters) == RECIPE.views
    assert asked.features.dtype == torch.float16
    many = ImplicitFit(features, recipe=FitRecipe(name="tiny", waves=24, views=20, held_out=1))
    many.run()
    kept = many.field().asked
    assert len(kept.jitters) == len(kept.features) == ASKED_VIEWS
    assert kept.jitters[: RECIPE.views] == asked.jitters
    assert torch.equal(kept.features[: RECIPE.views], asked.features)


def test_the_image_itself_as_a_view_answers_as_the_image(fit):
    features = two_things()
    field = asked_in(features, (identity_jitter(features.geometry.input_hw),), [features.data], fit)
    expected = similarity(upsample(features, method="attention"), (40, 32), size=SIZE)
    found = similarity(field, (40, 32), size=SIZE)
    assert float((found - expected).abs().mean()) < 0.03
    assert float(((found > 0.5) != square()).float().mean()) < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_views_show_a_thing_where_it_lies_in_the_image(fit, seed):
    """Moved, zoomed and mirrored views of features without noise agree with the image, and far ones are not asked."""
    features = two_things(noise=0.05)
    generator = torch.Generator().manual_seed(seed)
    input_hw = features.geometry.input_hw
    jitters = tuple(random_jitter(generator, input_hw, max_padding=20, max_zoom=1.8) for _ in range(4))
    field = asked_in(features, jitters, [seen(features, jitter) for jitter in jitters], fit)
    found = similarity(field, (40, 32), size=SIZE)
    inside = square()
    assert found[inside].mean() - found[~inside].mean() > 0.8
    union = ((found > 0.5) | inside).sum()
    assert float(((found > 0.5) & inside).sum() / union) > 0.8
    assert float(found.max()) <= 1


def test_noise_of_single_views_averages_out(fit):
    features, clean = two_things(noise=1.5), two_things(noise=0.0)
    generator = torch.Generator().manual_seed(7)
    jitters = (identity_jitter(features.geometry.input_hw),) * 8
    maps = [clean.data + 1.5 * torch.randn(clean.data.shape, generator=generator) for _ in jitters]
    inside = square()

    def contrast(values: torch.Tensor) -> float:
        return float((values[inside].mean() - values[~inside].mean()) / values[~inside].std())

    one = similarity(upsample(features, method="attention"), (40, 32), size=SIZE)
    assert contrast(similarity(asked_in(features, jitters, maps, fit), (40, 32), size=SIZE)) > 1.2 * contrast(one)


def test_a_point_that_no_view_shows_is_answered_by_the_image(fit):
    features = two_things()
    height, width = features.geometry.input_hw
    corner = Jitter((height, width), padding=0, zoom=2.0, top=height, left=width, flip=False)
    field = asked_in(features, (corner,), [seen(features, corner)], fit)
    image = upsample(features, method="attention")
    assert torch.equal(similarity(field, (5, 5), size=SIZE), similarity(image, (5, 5), size=SIZE))
    assert not torch.equal(similarity(field, (90, 60), size=SIZE), similarity(image, (90, 60), size=SIZE))


MARKS = {
    "an area": [Query(BoxMark((30, 20), (50, 44)))],
    "several": [Query(PointMark((40, 32))), Query(PointMark((30, 20))), Query(PointMark((90, 60)), negative=True)],
}


@pytest.mark.parametrize("combine", [None, "mean", "maximum"])
@pytest.mark.parametrize("marks", MARKS)
def test_several_marks_are_asked_of_the_views_too(fit, marks, combine):
    features = two_things(noise=0.05)
    generator = torch.Generator().manual_seed(3)
    jitters = tuple(
        random_jitter(generator, features.geometry.input_hw, max_padding=20, max_zoom=1.8) for _ in range(4)
    )
    field = asked_in(features, jitters, [seen(features, jitter) for jitter in jitters], fit)
    found = similarity(field, MARKS[marks], size=SIZE, combine=combine)
    inside = square()
    assert found[inside].mean() - found[~inside].mean() > 0.5
    assert -1 <= float(found.min()) <= float(found.max()) <= 1
    image = similarity(upsample(features, method="attention"), MARKS[marks], size=SIZE, combine=combine)
    assert not torch.equal(found, image)


def test_a_view_is_asked_of_what_it_shows_of_the_marks(fit):
    """A view of the lower right part shows none of the first mark, so that the second alone is asked there."""
    features = two_things()
    height, width = features.geometry.input_hw
    corner = Jitter((height, width), padding=0, zoom=2.0, top=height, left=width, flip=False)
    field = asked_in(features, (corner,), [seen(features, corner)], fit)
    outside, shown = Query(PointMark((5, 5))), Query(PointMark((90, 60)))
    image = upsample(features, method="attention")
    asked = [outside, replace(shown, negative=True)]
    assert torch.equal(similarity(field, asked, size=SIZE), similarity(image, asked, size=SIZE)), (
        "no positive one there"
    )
    assert not torch.equal(
        similarity(field, [outside, shown], size=SIZE), similarity(image, [outside, shown], size=SIZE)
    )


def test_queries_of_other_pictures_are_asked_of_the_image_alone(features, fit, monkeypatch):
    monkeypatch.setattr(grouping, "FOREIGN", 0.0)
    field, image = fit.field(), upsample(features, method="attention")
    kept = pinned(field, [Query(PointMark((20, 20)))], size=(24, 32))
    assert torch.equal(similarity(field, kept, size=(24, 32)), similarity(field, (20, 20), size=(24, 32)))
    foreign = [
        replace(query, vectors=replace(query.vectors, source=replace(query.vectors.source, image_sha256="other")))
        for query in kept
    ]
    expected = similarity(image, (20, 20), size=(24, 32))
    torch.testing.assert_close(similarity(field, foreign, size=(24, 32)), expected, atol=1e-5, rtol=0)


def test_views_without_variation_are_left_out(fit):
    features = two_things()
    constant = torch.ones_like(features.data)
    field = asked_in(features, (identity_jitter(features.geometry.input_hw),), [constant], fit)
    image = upsample(features, method="attention")
    assert torch.equal(similarity(field, (40, 32), size=SIZE), similarity(image, (40, 32), size=SIZE))


def test_the_plain_cosine_is_that_of_the_fitted_features(fit):
    field = fit.field()
    values = field.features(size=(24, 32))
    query = values[:, 10, 10]
    expected = torch.einsum("c,chw->hw", query / query.norm(), values / values.norm(dim=0))
    torch.testing.assert_close(cosine(field, (21, 21), size=(24, 32)), expected, atol=1e-4, rtol=1e-4)


def test_a_saved_fit_answers_the_same(features, fit, tmp_path):
    save_fit(fit.field(), tmp_path / "fit.safetensors")
    again = load_fit(tmp_path / "fit.safetensors", features)
    assert again.asked.jitters == fit.field().asked.jitters
    for point in ((20, 20), (50, 10)):
        assert torch.equal(similarity(again, point, size=(24, 32)), similarity(fit.field(), point, size=(24, 32)))


def test_the_first_click_can_be_cancelled_and_the_next_one_asks_again(fit):
    field, words = fit.field(), []

    def stop(text: str, *_: object) -> None:
        words.append(text)
        if text.startswith("asking views"):
            raise Cancelled

    with pytest.raises(Cancelled):
        similarity(field, (20, 20), size=(24, 32), progress=stop)
    assert similarity(field, (20, 20), size=(24, 32)).isfinite().all()
    words.clear()
    similarity(field, (50, 20), size=(24, 32), progress=stop)
    assert not any(text.startswith("asking views") for text in words), "the views are prepared once"


def test_a_field_that_was_asked_is_freed(fit):
    field = fit.field()
    similarity(field, (20, 20), size=(24, 32))
    gone = weakref.ref(field)
    del field
    gc.collect()
    assert gone() is None


def test_grey_and_tiny_pictures(fit):
    grey = image_from_array(torch.full((16, 24, 3), 90, dtype=torch.uint8).numpy())
    small = ImplicitFit(features_of(grey, (16, 24)), recipe=RECIPE)
    small.run()
    assert similarity(small.field(), (3, 3), size=(16, 24)).isfinite().all()


def test_the_legend_states_what_a_click_on_a_fit_is_worth():
    facts = SimpleNamespace(method="implicit")
    fitted = SimilarityView(SimilarityRequest((3, 3)), facts, np.zeros((4, 4)))
    assert "regions better than before the fit" in fitted.legend().tooltip
    plain = SimilarityView(SimilarityRequest((3, 3)), SimpleNamespace(method="attention"), np.zeros((4, 4)))
    assert "fit" not in plain.legend().tooltip
    assert (
        "fit"
        not in SimilarityView(SimilarityRequest((3, 3), measure="cosine"), facts, np.zeros((4, 4))).legend().tooltip
    )
