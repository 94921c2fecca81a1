"""The fits of a session: in pieces, cancelled, refused, compared, saved and opened."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from featup_app.base.errors import Cancelled, UpsamplerError
from featup_app.engine import fitting
from featup_app.engine.exporting import ExportOptions, export_image
from featup_app.engine.fits import FitRefusal, FitRequest, next_number
from featup_app.engine.fitting import begin_fit, compare_fits, live_size, open_fit
from featup_app.engine.preferences import Preferences, load_preferences, save_preferences
from featup_app.engine.session import Session
from featup_app.engine.settings import ViewSettings
from featup_app.fields import upsample
from featup_app.fields.implicit.fit import ImplicitFit
from featup_app.fields.implicit.recipe import FIT_RECIPES
from featup_app.images import load_image, sample_images
from featup_app.lenses import CAMRequest, PCARequest, SimilarityRequest

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = ViewSettings(backbone="tf_efficientnet_lite0", input_size="96", output_size="4x", method="implicit")
SMALL = FitRequest(replace(FIT_RECIPES["default"], views=16, held_out=2))


def begin_prepared(session, number, image, request):
    """Begin a fit, and let it see its held-out views."""
    begin_fit(session, number, image, SETTINGS, request)
    session.fits._going(number).prepare()


@pytest.fixture(scope="module")
def image():
    return load_image(sample_images()[0])


@pytest.fixture(scope="module")
def session():
    return Session(device="cpu")


@pytest.fixture(scope="module")
def fitted(session, image):
    """The number of a fit that has run to its end."""
    number = next_number()
    report = begin_fit(session, number, image, SETTINGS, SMALL)
    assert report.held_out is None, "no view was seen yet"
    assert report.based
    while not report.state.finished:
        report = session.fits.go_on(number, seconds=0.01)
    return number


def test_pieces_are_short_and_the_fit_gets_better(session, image):
    number = next_number()
    begin_prepared(session, number, image, SMALL)
    first = session.fits.go_on(number, seconds=0.0001)
    assert first.state.step == 1
    assert first.title == "default, 16 views, seed 0"
    second = session.fits.go_on(number)
    assert second.state.step == 2
    assert second.held_out <= first.held_out
    more = session.fits.extend(number, 1)
    assert more.state.steps == 3
    assert not more.state.finished
    session.fits.forget(number)
    with pytest.raises(UpsamplerError, match="no longer in memory"):
        session.fits.go_on(number)


def test_gathering_views_for_a_descent_is_cut_into_pieces_too(session, image):
    request = FitRequest(replace(FIT_RECIPES["paper"], views=30, gradient_steps=2, samples_per_cell=4))
    number, told = next_number(), []
    begin_prepared(session, number, image, request)
    pieces = 0
    while session.fits.go_on(number, seconds=1e-4, progress=lambda *each: told.append(each)).state.step == 0:
        pieces += 1
        assert pieces < 10
        if pieces == 1:
            assert ("features of views", 0, 30) in told
    assert pieces == 2, "ten views each, and the step itself with the last ten"
    assert told[0] == ("fitting", 0, 2)


def test_a_step_of_large_views_is_cut_into_pieces_too(session, image, monkeypatch):
    monkeypatch.setattr("featup_app.fields.implicit.views.BATCH_PIXELS", 1)
    request = FitRequest(replace(FIT_RECIPES["default"], views=8, views_per_step=4))
    number = next_number()
    begin_prepared(session, number, image, request)
    steps = [session.fits.go_on(number, seconds=1e-4).state.step for _ in range(6)]
    assert steps == [0, 0, 0, 1, 1, 1], "a view for each piece, and the step with the last one"
    whole = next_number()
    begin_fit(session, whole, image, SETTINGS, request)
    session.fits.go_on(whole, seconds=60)
    session.fits.go_on(number, seconds=60)
    assert session.fits.report(number).held_out == pytest.approx(session.fits.report(whole).held_out, rel=1e-5)


def test_the_base_field_is_shown_before_a_view_was_seen(session, image):
    number = next_number()
    started = SETTINGS.with_(fit=number)
    report = begin_fit(session, number, image, SETTINGS, SMALL)
    assert (report.based, report.state.step, report.held_out) == (True, 0, None)
    base = session.view(image, started, PCARequest())
    unrestored = upsample(session.features(image, SETTINGS), image, SMALL.recipe.start, restoration=0)
    expected = base.basis.values(unrestored, (1, 2, 3), size=base.facts.size)
    assert np.array_equal(base.values, expected), "attention is restored as a view, and not as a base"
    while session.fits.go_on(number, seconds=1e-4).state.step == 0:
        assert np.array_equal(session.view(image, started, PCARequest()).picture(), base.picture())
    assert not np.array_equal(session.view(image, started, PCARequest()).picture(), base.picture())

    none = FitRequest(replace(SMALL.recipe, start="mean"))
    number = next_number()
    assert not begin_fit(session, number, image, SETTINGS, none).based
    with pytest.raises(UpsamplerError, match="no features yet"):
        session.field(image, SETTINGS.with_(fit=number))


def test_held_out_views_are_seen_one_piece_after_the_other(session, image):
    number, told = next_number(), []
    begin_fit(session, number, image, SETTINGS, FitRequest(replace(SMALL.recipe, held_out=4)))
    fit = session.fits._going(number)
    pieces = 0
    while not fit.prepared:
        session.fits.go_on(number, seconds=1e-4, progress=lambda *each: told.append(each))
        pieces += 1
        assert pieces < 8
    assert pieces == 4, "a view for each piece, and the first step with the last one"
    assert ("features of held-out views", 2, 4) in told
    whole = next_number()
    begin_prepared(session, whole, image, FitRequest(replace(SMALL.recipe, held_out=4)))
    assert fit.state.jbu == session.fits.report(whole).state.jbu


def test_views_of_a_fit(session, image, fitted):
    settings = SETTINGS.with_(fit=fitted)
    view = session.view(image, settings, PCARequest())
    assert view.facts.method == "implicit"
    bilinear = session.view(image, settings.with_(method="bilinear"), PCARequest())
    assert view.explained == bilinear.explained, "one set of colours for all methods"
    own = session.view(image, settings, PCARequest(fit="field"))
    assert own.explained != view.explained
    assert session.field(image, settings) is session.field(image, settings), "kept until the fit changes"
    assert session.view(image, settings, SimilarityRequest((100, 100))).values.shape == view.values.shape[1:]
    with pytest.raises(UpsamplerError, match="other features"):
        session.field(image, settings.with_(input_size="64"))


def test_all_methods_share_components_after_the_map_was_extracted_again(session, image, fitted):
    """The field of a fit keeps the map that it was fitted to, which a session may forget."""
    settings, joint = SETTINGS.with_(fit=fitted), PCARequest(fit="joint")
    before = session.view(image, settings, joint)
    session.kept._entries.clear()
    again = session.view(image, settings, joint)
    assert again.explained == pytest.approx(before.explained, rel=1e-4)


def test_classes_are_read_without_another_fit(session, image, fitted, monkeypatch):
    monkeypatch.setattr(ImplicitFit, "run", lambda *args, **options: pytest.fail("a fit that nobody asked for"))
    layer = session.features(image, SETTINGS).layer
    view = session.view(image, SETTINGS.with_(fit=fitted), CAMRequest())
    assert view.facts.method == ("implicit" if view.facts.layer == layer else "attention")


def test_an_export_shows_the_same_fit(session, image, fitted, tmp_path):
    options = ExportOptions(features=True, views=(PCARequest(), CAMRequest()))
    files = export_image(session, image, SETTINGS.with_(fit=fitted), options, tmp_path)
    assert len(files) == 3
    with np.load(files[0]) as stored:
        assert any(stored[name].ndim == 3 for name in stored.files)


def test_cancelling_leaves_nothing_or_the_last_good_state(session, image):
    def cancel(words, done, total, stage=None):
        raise Cancelled

    number = next_number()
    with pytest.raises(Cancelled):
        begin_fit(session, number, image, SETTINGS, SMALL, cancel)
    assert number not in session.fits
    begin_prepared(session, number, image, SMALL)
    before = session.fits.go_on(number, seconds=0.0001)
    with pytest.raises(Cancelled):
        session.fits.go_on(number, progress=cancel)
    assert session.fits.report(number).held_out == before.held_out
    assert session.fits.go_on(number).state.step == 2


def test_too_much_memory_is_refused_before_anything_is_computed(session, image, monkeypatch):
    monkeypatch.setattr(ImplicitFit, "prepare", lambda *args: pytest.fail("prepared"))
    features, number = session.features(image, SETTINGS), next_number()
    refusal = session.fits.begin(number, features, SMALL, memory_budget=1)
    assert isinstance(refusal, FitRefusal)
    assert refusal.smaller is None
    assert "may be used; choose a smaller input size" in refusal.sentence
    assert number not in session.fits

    monkeypatch.setattr(ImplicitFit, "memory_bytes", lambda self: 10**9 if self.recipe.views > 4 else 10**6)
    monkeypatch.setattr(ImplicitFit, "smaller", lambda self: replace(self.recipe, views=self.recipe.views // 2))
    refusal = session.fits.begin(number, features, SMALL, memory_budget=10**7)
    assert refusal.sentence == (
        "This fit needs about 1.0 GB of memory, and 10.0 MB may be used; a smaller fit would need 1.0 MB."
    )
    assert refusal.smaller.recipe.views == 4


def test_what_was_learned(session, fitted):
    learned = session.fits.learned(fitted)
    assert learned.uncertainty.pixels.dtype == np.uint8
    assert learned.uncertainty.limits[0] > 0
    assert learned.kernel.pixels.ndim == 3
    assert learned.saliency is None
    assert len(learned.views) == SMALL.recipe.held_out
    for picture, residual in learned.views:
        assert picture.dtype == np.uint8
        assert picture.shape[2] == residual.pixels.shape[2] == 3
        assert residual.limits == learned.views[0][1].limits


def test_fits_are_compared_with_what_needs_none(session, image, fitted):
    pictures = compare_fits(session, image, SETTINGS, [fitted, 10**9], PCARequest())
    assert [picture.title for picture in pictures] == ["Bilinear", "FeatUp JBU", SMALL.title]
    assert pictures[2].fit == fitted
    assert all(picture.held_out is not None for picture in pictures)
    assert len({picture.pixels.shape for picture in pictures}) == 1


def test_a_file_gives_the_same_field(session, image, fitted, tmp_path):
    path = session.fits.save(fitted, tmp_path / "fit.safetensors")
    number = next_number()
    report = open_fit(session, number, image, SETTINGS, path)
    assert report.state is None
    assert report.title == "fit"
    assert report.held_out == pytest.approx(session.fits.report(fitted).held_out)
    settings = SETTINGS.with_(fit=fitted)
    here = session.view(image, settings, PCARequest())
    there = session.view(image, settings.with_(fit=number), PCARequest())
    assert (here.pixels == there.pixels).all()
    assert session.fits.learned(number).uncertainty is not None
    with pytest.raises(UpsamplerError, match="cannot go on"):
        session.fits.go_on(number)
    other = load_image(sample_images()[1])
    with pytest.raises(UpsamplerError, match=image.name):
        open_fit(session, next_number(), other, SETTINGS, path)


def test_live_pictures_keep_the_aspect_and_are_small(session, image):
    geometry = session.features(image, SETTINGS).geometry
    assert live_size(SETTINGS.with_(output_size="40x60"), geometry) == (40, 60)
    height, width = live_size(SETTINGS.with_(output_size="2000x4000"), geometry)
    assert height * width <= 1.01 * fitting.LIVE_PIXELS
    assert width == pytest.approx(2 * height, abs=2)


def test_titles_tell_what_was_changed():
    request = FitRequest(replace(FIT_RECIPES["paper"], colour=False, gradient_steps=50), seed=3)
    assert request.title == "paper, 50 further steps, without colour, seed 3"


def test_which_fit_is_seen_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATUP_CONFIG_DIR", str(tmp_path))
    save_preferences(Preferences(settings=SETTINGS.with_(fit=7)))
    assert load_preferences().settings == SETTINGS
