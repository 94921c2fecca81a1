"""Every switch of a recipe for implicit fits does what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fit_fixtures import DESCENDED, PERCEPTRON, SIZE, SOLVED, drawn, fitted, smooth_picture
from training_fixtures import features_of

from featup_app.base.errors import UpsamplerError
from featup_app.fields import upsample
from featup_app.fields.implicit import FIT_RECIPES, ImplicitFit, find_fit_recipe, fit_recipe_from_facts
from featup_app.fields.implicit import start as start_module
from featup_app.fields.implicit.network import FourierNetwork, PerceptronNetwork
from featup_app.fields.implicit.planning import in_short_steps, with_views
from featup_app.fields.implicit.solving import weights_of
from featup_app.fields.implicit.uncertainty import CellUncertainty
from featup_app.fields.implicit.views import ViewSource
from featup_app.fields.restoration import Restoration
from featup_app.fields.upsampler import Upsampler
from featup_app.multiview import blur_distance, box_average, total_variation

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("recipe", [SOLVED, PERCEPTRON])
def test_without_colour_the_network_sees_positions_alone(features, recipe):
    points = torch.rand(7, 2, generator=torch.Generator().manual_seed(0))
    for colour in (True, False):
        network = fitted(features, recipe, colour=colour)._network
        found = [network(points, torch.full((7, 3), value)) for value in (-1.0, 1.0)]
        assert torch.equal(*found) == (not colour)


def test_tied_frequencies_end_where_the_fitted_grid_does():
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1]])

    def highest(**changes: object) -> float:
        recipe = replace(PERCEPTRON, **changes)
        network = PerceptronNetwork(recipe, 4, (56, 84), colours, torch.Generator().manual_seed(0))
        return float(network.frequencies.max())

    assert highest(tied_frequencies=True) == pytest.approx(math.pi * 56 / 2)
    assert highest(tied_frequencies=False) == pytest.approx(math.exp(10), rel=1e-5)


def test_waves_are_as_many_and_as_fine_as_told():
    def network(**changes: object) -> FourierNetwork:
        recipe = replace(SOLVED, waves=4000, **changes)
        return FourierNetwork(recipe, 4, (8, 16), torch.Generator().manual_seed(0))

    plain = network(position_width=1.5, colour_width=0.5)
    assert plain.width == 8000
    expected = torch.tensor([1.5 * 16, 1.5 * 8, 0.5, 0.5, 0.5])
    torch.testing.assert_close(plain.frequencies.std(0), expected, rtol=0.05, atol=0)
    assert FourierNetwork.width_for(replace(SOLVED, waves=0), (5, 5)) == 1024
    assert FourierNetwork.width_for(replace(SOLVED, waves=0), (20, 20)) == 1600
    assert FourierNetwork.width_for(replace(SOLVED, waves=0), (64, 64)) == 2048
    points = torch.rand(5, 2), torch.rand(5, 3)
    torch.testing.assert_close(plain.hidden(*points).norm(dim=1), torch.ones(5))


def test_the_perceptron_is_as_wide_as_told():
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1]])
    network = PerceptronNetwork(PERCEPTRON, 4, (24, 32), colours, torch.Generator().manual_seed(0))
    assert network.first.in_features == 2 * 5 * PERCEPTRON.frequencies + 3
    assert (network.width, network.last.in_features) == (PERCEPTRON.hidden, PERCEPTRON.hidden)
    assert network.sine_phases.requires_grad


def test_dropout_silences_whole_channels_while_it_learns():
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1]])
    points = torch.rand(6, 2), torch.rand(6, 3)

    def outputs(dropout: float, *, training: bool, seed: int = 1) -> torch.Tensor:
        recipe = replace(PERCEPTRON, dropout=dropout)
        network = PerceptronNetwork(recipe, 4, (24, 32), colours, torch.Generator().manual_seed(0)).train(training)
        return network(*points, torch.Generator().manual_seed(seed))

    plain = outputs(0.5, training=False)
    assert torch.equal(outputs(0.0, training=True), plain)
    dropped = outputs(0.5, training=True)
    assert not torch.allclose(dropped, plain)
    assert torch.equal(outputs(0.5, training=True), dropped)
    assert not torch.allclose(outputs(0.5, training=True, seed=2), dropped)
    network = PerceptronNetwork(
        replace(PERCEPTRON, dropout=0.5), 4, (24, 32), colours, torch.Generator().manual_seed(0)
    )
    silenced = network.train()._dropped(torch.ones(6, 400), torch.Generator().manual_seed(1))
    assert set(silenced.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(silenced, silenced[:1].expand(6, -1))
    assert 0.4 < float((silenced[0] == 0).float().mean()) < 0.6


@pytest.mark.parametrize("recipe", [SOLVED, replace(DESCENDED, gradient_steps=2)])
@pytest.mark.parametrize(("components", "kept"), [(2, 2), (4, 4), (0, 6), (100, 6)])
def test_a_field_holds_so_many_components(features, recipe, components, kept):
    field = fitted(features, recipe, components=components).field()
    assert field.components.basis.shape == (6, kept)
    torch.testing.assert_close(field.components.basis.T @ field.components.basis, torch.eye(kept), atol=1e-4, rtol=0)


def test_components_that_are_left_out_are_those_that_the_field_uses_least():
    features = features_of(smooth_picture(), (48, 64))
    full, part = (fitted(features, SOLVED, components=count).field().features(size=(48, 64)) for count in (0, 3))
    centred = full.flatten(1).double()
    mean = features.data.mean((1, 2)).double()
    spectrum = torch.linalg.svdvals(centred - mean[:, None]).square()
    lost = float((full - part).double().square().sum())
    assert lost < 3 * float(spectrum[3:].sum()) + 1e-3 * float(spectrum.sum())


def test_views_arrive_in_steps(features):
    calls = []
    fit = ImplicitFit(features, recipe=replace(SOLVED, views=10, views_per_step=4))
    assert fit.state.steps == 3
    fit.run(on_state=lambda state: calls.append(fit.field().settings()["views"]))
    assert calls == [4, 8, 10]
    descended = fitted(features, DESCENDED, views=7, views_per_step=2)
    assert descended.field().settings()["views"] == 7


def test_steps_are_short_where_views_are_large():
    default = replace(FIT_RECIPES["default"], views=96)
    assert in_short_steps(default, (224, 224)) == default
    short = in_short_steps(default, (448, 448))
    assert (short.views_per_step, short.views, short.steps) == (2, default.views, 4 * default.steps)
    assert in_short_steps(default, (4000, 3000)).views_per_step == 2, "a solution for a single view would cost too much"
    for recipe in (FIT_RECIPES["paper"], replace(default, gradient_steps=5)):
        assert in_short_steps(recipe, (448, 448)) == recipe


def test_large_grids_are_fitted_to_fewer_views(features):
    default = FIT_RECIPES["default"]
    grids = ((1, 1), (16, 16), (16, 24), (26, 34), (32, 48), (200, 300))
    assert [with_views(default, grid).views for grid in grids] == [96, 96, 96, 49, 28, 28]
    assert with_views(SOLVED, (200, 300)) == SOLVED, "a number that was asked for"
    assert ImplicitFit(features).state.steps == 96 // default.views_per_step


def test_jitter_is_as_large_as_told(features):
    def jitters(**changes: object) -> tuple:
        return ViewSource(features, features.image, replace(SOLVED, **changes), 0).more(20).jitters

    assert {jitter.padding for jitter in jitters(max_padding=56)} == {6}
    assert {jitter.padding for jitter in jitters(max_padding=0)} == {0}
    assert {jitter.zoom for jitter in jitters(max_zoom=1.0)} == {1.0}
    assert 1.2 < max(jitter.zoom for jitter in jitters(max_zoom=1.3)) <= 1.3
    assert {jitter.flip for jitter in jitters()} == {True, False}


def test_the_first_views_are_the_same_however_many_follow(features):
    few, many = (ViewSource(features, features.image, SOLVED, 3) for _ in range(2))
    one_by_one = [few.more(1) for _ in range(4)]
    together = many.more(4)
    assert tuple(views.jitters[0] for views in one_by_one) == together.jitters
    torch.testing.assert_close(torch.cat([views.features for views in one_by_one]), together.features)


def test_points_are_as_dense_as_told(features):
    def size(samples: int) -> tuple[int, int]:
        return ImplicitFit(features, recipe=replace(SOLVED, samples_per_cell=samples)).fit_hw()

    assert (size(0), size(1), size(4)) == ((24, 32), (3, 4), (12, 16))


@pytest.mark.parametrize("start", ["attention", "jbu", "bilinear", "mean"])
def test_a_strong_ridge_holds_the_field_back_to_its_start(features, start):
    begun = torch.zeros(features.channels, *SIZE)
    if start != "mean":
        begun = upsample(features, method=start).features(size=SIZE)

    def moved(ridge: float) -> float:
        return float((drawn(fitted(features, SOLVED, ridge=ridge, start=start)) - begun).std((1, 2)).mean())

    assert moved(0.01) > moved(1.0) > 50 * moved(1e4)


def test_what_tells_of_the_place_in_the_frame_is_taken_out(monkeypatch, features):
    solved, descended = (replace(recipe, start="mean", components=0, ridge=1e-3) for recipe in (SOLVED, DESCENDED))
    assert torch.equal(drawn(fitted(features, solved)), drawn(fitted(features, solved, positional=False)))
    # The same everywhere in the frame, so that the field is less by just that.
    known = torch.full((features.channels, 2, 2), 0.3)
    weights = Upsampler(
        torch.nn.Identity(), features.channels, restoration=Restoration(torch.zeros(len(known), len(known)), known)
    )
    monkeypatch.setattr(start_module, "restoring", lambda *names: weights)
    less = drawn(fitted(features, solved, positional=False)) - drawn(fitted(features, solved))
    assert abs(float(less.mean()) - 0.3) < 0.06
    raw, without = (fitted(features, descended, positional=each) for each in (False, True))
    expected = raw._learner.components.basis.T @ known[:, 0, 0]
    differences = torch.stack(raw._learner._targets).float() - torch.stack(without._learner._targets).float()
    assert float((differences - expected[:, None, None]).abs().max()) < 0.01


def test_the_image_itself_counts_as_many_views_as_told(features):
    def distance(weight: float) -> float:
        fit = fitted(features, SOLVED, image_weight=weight, components=0)
        averaged = box_average(fit.field().features(size=fit.fit_hw()), (3, 4))
        return float((averaged - features.data).square().mean())

    assert distance(0) > 2 * distance(10) > 2 * distance(1000)


def test_the_scale_of_errors_is_learned_only_where_it_is_asked_for(features, solved):
    assert solved.uncertainty().shape == (3, 4)
    assert float(solved.uncertainty().min()) > 0
    torch.testing.assert_close(solved.field().uncertainty.scale, solved.uncertainty())
    without = fitted(features, SOLVED, uncertainty=False)
    assert without.uncertainty() is None
    assert without.field().uncertainty is None
    assert torch.equal(drawn(without), drawn(solved)), "it is learned beside the features"


def test_the_scale_of_errors_is_found():
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(8, 3, 5, 6, generator=generator)
    expected = 0.2 * torch.exp(0.5 * cells[:, 0])
    squared = expected.square() * (torch.rand(8, 5, 6, generator=generator) + 0.5)
    uncertainty = CellUncertainty(3, 1.0, generator, torch.device("cpu"))
    for _ in range(40):
        uncertainty.learn(cells, squared)
    torch.testing.assert_close(uncertainty.scale(cells), expected, rtol=0.25, atol=0)
    weights = weights_of(uncertainty, cells)
    assert float(weights.mean()) == pytest.approx(1, abs=1e-4)
    assert float(weights[(cells[:, 0] > 0.7).flatten()].mean()) < 0.5


@pytest.mark.parametrize("recipe", [SOLVED, DESCENDED])
def test_cells_count_by_their_uncertainty_where_that_is_asked_for(features, recipe):
    plain, weighed = (fitted(features, recipe, weigh=weigh) for weigh in (False, True))
    assert not torch.allclose(drawn(plain), drawn(weighed), atol=1e-4)


def magnitude(fit: ImplicitFit) -> torch.Tensor:
    """(1, H, W) length of the components."""
    field = fit.field()
    shown = (
        field.project(field.components.basis.T, size=fit.fit_hw())
        - (field.components.basis.T @ field.components.mean)[:, None, None]
    )
    return shown.norm(dim=0, keepdim=True)


def test_total_variation_smooths_the_magnitude(features):
    rough, smooth = (fitted(features, PERCEPTRON, gradient_steps=40, total_variation=tv) for tv in (0.0, 20.0))
    assert float(total_variation(magnitude(smooth))) < 0.5 * float(total_variation(magnitude(rough)))


def test_the_blur_pin_draws_features_to_their_blurred_form(features):
    rough, smooth = (fitted(features, PERCEPTRON, gradient_steps=40, blur_pin=pin, start="jbu") for pin in (0.0, 50.0))
    assert float(blur_distance(drawn(smooth))) < 0.5 * float(blur_distance(drawn(rough)))


def test_the_magnitude_term_draws_the_lengths_of_features_to_those_of_the_views(features):
    def error(weight: float) -> float:
        fit = fitted(features, PERCEPTRON, gradient_steps=40, magnitude=weight, samples_per_cell=4)
        lengths = fit._learner.components.of(features.data[None])[0].norm(dim=0)
        return float((box_average(magnitude(fit), (3, 4))[0] - lengths).square().mean())

    assert error(1.0) < 0.6 * error(0.0)


@pytest.mark.parametrize(("name", "size"), [("box", 29), ("blur", 56), ("attention", 56)])
def test_each_downsampler_descends_and_shows_what_it_learned(features, name, size):
    recipe = replace(SOLVED, gradient_steps=20, rate=5e-3, downsampler=name, downsampler_size=size)
    fit = fitted(features, recipe)
    kernel = fit.downsampler_kernel()
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-4)
    assert tuple(kernel.shape) == ((2, 2) if name == "box" else (6, 6))
    assert (float(kernel.max() - kernel.min()) > 1e-4) == (name != "box")
    saliency = fit.saliency(SIZE)
    assert (saliency is not None) == (name == "attention")
    if saliency is not None:
        assert saliency.shape == SIZE
        assert float(saliency.std()) > 0
    losses = [point.loss for point in fit.state.points[2:]]
    assert min(losses[-5:]) < losses[0]


def test_a_rate_of_nothing_learns_nothing_and_patience_ends_it(features):
    fit = fitted(features, DESCENDED, rate=0.0, patience=4, measure_every=1, gradient_steps=50)
    assert fit.state.step == 5
    assert fit.state.reason == "The held-out error has not fallen for 4 steps."
    assert fitted(features, DESCENDED, rate=0.0, patience=0, gradient_steps=6).state.step == 6
    fit.extend(10)
    assert not fit.state.finished


def test_held_out_views_are_looked_at_as_often_as_told(features):
    points = fitted(features, DESCENDED, measure_every=5).state.points
    assert [point.step for point in points if point.held_out is not None] == [5, 10, 12]
    assert all(point.loss is not None for point in points)


@pytest.mark.parametrize("start", ["attention", "jbu", "bilinear", "mean"])
def test_gradient_steps_follow_a_solution_and_improve_it(start):
    features = features_of(smooth_picture(), (48, 64))
    fit = ImplicitFit(features, recipe=replace(SOLVED, gradient_steps=20, rate=2e-3, measure_every=1, start=start))
    stages = []
    state = fit.run(on_state=lambda each: stages.append(each.stage))
    assert stages == ["adding views"] + ["descending"] * 21
    assert state.best < state.points[1].held_out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "hash"}, 'network is "hash"; choose one of: fourier, perceptron'),
        ({"downsampler": "max"}, "downsampler"),
        ({"views": -1}, "views is -1; it must be at least 0"),
        ({"rate": math.nan}, "rate is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"solve": False}, "neither solves nor takes gradient steps"),
        ({"uncertainty": False, "weigh": True}, "switch uncertainty on"),
        ({"ridge": 0}, "ridge is 0"),
        ({"max_zoom": 0.5}, "max_zoom"),
    ],
)
def test_impossible_recipes_are_refused_in_a_sentence(changes, words):
    with pytest.raises(UpsamplerError, match=words):
        replace(SOLVED, **changes)


def test_recipes_of_earlier_files_start_from_the_mean_of_raw_features():
    facts = SOLVED.facts()
    del facts["start"]
    del facts["positional"]
    assert fit_recipe_from_facts(facts) == replace(SOLVED, start="mean", positional=False)


def test_recipes_are_found_by_name_and_written_as_facts():
    for name, recipe in FIT_RECIPES.items():
        assert find_fit_recipe(name) is recipe
        assert fit_recipe_from_facts(recipe.facts()) == recipe
    with pytest.raises(UpsamplerError, match="Choose one of: default, paper"):
        find_fit_recipe("fast")
    with pytest.raises(UpsamplerError, match='unknown entry "magic"'):
        fit_recipe_from_facts({"magic": 1})
