"""Fitting an implicit network to one image: every switch of a recipe does what it says, and what ends a fit ends it well."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_fixtures import PatchBackbone, features_of, picture

from featup_app.engine.bench_implicit import off_grid
from featup_app.errors import Cancelled, UpsamplerError
from featup_app.features import FeatureMap, Region
from featup_app.fields import upsample
from featup_app.fields.implicit import FIT_RECIPES, FitRecipe, ImplicitFit, find_fit_recipe, fit_recipe_from_facts
from featup_app.fields.implicit.network import FourierNetwork, PerceptronNetwork
from featup_app.fields.implicit.solving import NormalEquations, weights_of
from featup_app.fields.implicit.uncertainty import CellUncertainty
from featup_app.fields.implicit.views import ViewSource
from featup_app.images import Image, image_from_array
from featup_app.multiview import blur_distance, box_average, random_jitter, total_variation
from featup_app.progress import silent

SOLVED = FitRecipe(name="tiny", waves=48, views=8, views_per_step=4)
DESCENDED = replace(SOLVED, solve=False, gradient_steps=12, measure_every=2, rate=1e-2)
PERCEPTRON = replace(DESCENDED, network="perceptron", hidden=24, frequencies=6)
SIZE = (24, 32)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A second thread brings nothing at these sizes, and beside other programs it costs much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def features() -> FeatureMap:
    """6 channels in 3 x 4 cells of a picture of coloured rectangles."""
    return features_of(picture(3), SIZE)


@pytest.fixture(scope="module")
def solved(features) -> ImplicitFit:
    """A finished fit that nobody changes."""
    fit = ImplicitFit(features, recipe=SOLVED)
    fit.run()
    return fit


def fitted(features: FeatureMap, recipe: FitRecipe, **changes: object) -> ImplicitFit:
    fit = ImplicitFit(features, recipe=replace(recipe, **changes))
    fit.run()
    return fit


def drawn(fit: ImplicitFit) -> torch.Tensor:
    field = fit.field()
    assert field is not None
    return field.features(size=SIZE)


def smooth_picture() -> Image:
    """Slow waves and a disc with a soft edge, as photos are smooth."""
    rows, columns = np.mgrid[0:96, 0:128] / 16
    disc = 1 / (1 + np.exp(6 * (np.hypot(rows - 3, columns - 4) - 2)))
    planes = [np.sin(rows) + 2 * disc, np.cos(columns / 2) - disc, np.sin(rows + columns) + disc]
    pixels = np.stack(planes, axis=-1)
    pixels = 255 * (pixels - pixels.min()) / (pixels.max() - pixels.min())
    return image_from_array(pixels.round().astype(np.uint8))


# -- the fit as a whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [FIT_RECIPES["default"], replace(PERCEPTRON, gradient_steps=80)])
def test_a_fit_explains_held_out_views_better_than_what_needs_no_fit(recipe):
    fit = ImplicitFit(features_of(smooth_picture(), (48, 64)), recipe=recipe)
    states = []
    state = fit.run(watch=states.append)
    assert state.best < min(state.bilinear, state.jbu)
    assert fit.measure().mean < min(state.bilinear, state.jbu)
    assert state.reason == f"All {state.steps} steps are done."
    assert [each.step for each in states] == list(range(1, state.steps + 1))
    assert state.best == min(point.held_out for point in state.points if point.held_out is not None)
    assert all(earlier.seconds < later.seconds for earlier, later in itertools.pairwise(states))
    assert states[0].steps_per_second > 0
    assert (states[0].seconds_left > 0, state.seconds_left) == (True, 0)


def test_the_curve_ends_where_the_shared_measure_is(features):
    """At every pixel of the input, the curve's points are those of the shared measure."""
    fit = fitted(features, SOLVED, samples_per_cell=0, components=0)
    assert fit.measure().mean == pytest.approx(fit.state.best, rel=2e-3)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(features, solved):
    again = fitted(features, SOLVED)
    assert torch.equal(drawn(again), drawn(solved))
    assert again.state.best == solved.state.best
    other = ImplicitFit(features, recipe=SOLVED, seed=1)
    other.run()
    assert not torch.allclose(drawn(other), drawn(solved), atol=1e-3)
    noisy = replace(PERCEPTRON, dropout=0.3, downsampler="attention")
    assert torch.equal(drawn(fitted(features, noisy)), drawn(fitted(features, noisy)))


def test_steps_and_seconds_limit_a_run_and_the_next_one_goes_on(features, solved):
    fit = ImplicitFit(features, recipe=SOLVED)
    assert fit.field() is None
    assert fit.prepare().step == 0
    state = fit.run(steps=1)
    assert (state.step, state.finished, state.reason) == (1, False, "")
    assert fit.run(seconds=0).step == 1
    assert fit.run().step == 2
    assert torch.equal(drawn(fit), drawn(solved))
    with pytest.raises(UpsamplerError, match=r"Nothing is fitted to .+ yet"):
        ImplicitFit(features, recipe=SOLVED).measure()


def test_what_ends_before_the_first_look_at_the_held_out_views_is_not_lost(features):
    recipe = replace(DESCENDED, measure_every=10)
    fit = ImplicitFit(features, recipe=recipe)
    state = fit.run(steps=3)
    assert (state.step, state.best_step, len(state.points)) == (3, 3, 3)
    assert state.points[-1].held_out == state.best > 0

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "fitting" and done == 2:
            raise Cancelled

    cancelled = ImplicitFit(features, recipe=recipe)
    with pytest.raises(Cancelled):
        cancelled.run(progress=stop)
    field = cancelled.field()
    assert field is not None
    assert field.settings()["steps"] == 2
    assert torch.equal(field.features(size=SIZE), cancelled.field(best=False).features(size=SIZE))


def test_a_finished_fit_can_be_extended(features):
    fit = fitted(features, SOLVED)
    fit.extend(1)
    assert (fit.state.steps, fit.state.finished) == (3, False)
    assert (fit.run().step, fit.recipe.views) == (3, 12)
    assert torch.equal(drawn(fit), drawn(fitted(features, SOLVED, views=12)))
    descended = fitted(features, DESCENDED)
    descended.extend(4)
    assert descended.run().step == 16


@pytest.mark.parametrize("recipe", [SOLVED, replace(SOLVED, gradient_steps=4), replace(DESCENDED, gradient_steps=4)])
def test_a_fit_can_be_cancelled_at_every_call_and_goes_on_as_if_nothing_had_been(features, recipe):
    calls: list[str] = []
    whole = ImplicitFit(features, recipe=recipe)
    whole.run(progress=lambda stage, done, total: calls.append(stage))
    stages = {"features of held-out views", "looking through held-out views", "features of views", "fitting"}
    assert stages <= set(calls)
    for number in range(0, len(calls), max(1, len(calls) // 12)):
        seen = 0

        def stop(stage: str, done: int, total: int, *, number: int = number) -> None:
            nonlocal seen
            seen += 1
            if seen == number + 1:
                raise Cancelled

        fit = ImplicitFit(features, recipe=recipe)
        with pytest.raises(Cancelled):
            fit.run(progress=stop)
        field = fit.field()
        assert (field is None) == (fit.state.step == 0)
        if field is not None:
            assert field.features(size=SIZE).isfinite().all()
        state = fit.run()
        assert (state.best, state.step) == (whole.state.best, whole.state.step)
        assert torch.equal(drawn(fit), drawn(whole))


@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_a_fit_that_diverges_keeps_the_best_state_and_says_so(features, rate):
    fit = fitted(features, replace(SOLVED, gradient_steps=30), rate=rate, measure_every=1)
    state = fit.state
    assert state.finished
    assert state.reason.startswith("The fit diverged at step ")
    assert f"the best state, of step {state.best_step}, is kept" in state.reason
    assert state.held_out == state.best < 2
    assert state.step < state.steps
    assert drawn(fit).isfinite().all()
    assert all(math.isfinite(point.held_out or 0) and math.isfinite(point.loss or 0) for point in state.points)
    hopeless = fitted(features, PERCEPTRON, rate=rate, measure_every=1)
    if hopeless.field() is None:
        assert "nothing is kept" in hopeless.state.reason
        with pytest.raises(UpsamplerError, match="No features could be fitted"):
            upsample(features, method="implicit", recipe=replace(PERCEPTRON, rate=rate, measure_every=1))


def test_features_that_are_no_numbers_end_in_a_sentence(features, monkeypatch):
    good = PatchBackbone.features

    def spoilt(self, batch, layer=None, progress=None):
        return torch.full_like(good(self, batch), math.nan)

    fit = ImplicitFit(features, recipe=SOLVED)
    fit.run(steps=1)
    monkeypatch.setattr(PatchBackbone, "features", spoilt)
    state = fit.run()
    assert "diverged at step 2; the best state, of step 1, is kept" in state.reason
    assert drawn(fit).isfinite().all()


@pytest.mark.parametrize(
    ("name", "image", "size"),
    [
        ("uniform", image_from_array(np.full((48, 64, 3), 120, np.uint8)), None),
        ("smaller than a patch", image_from_array(picture(1).pixels[20:23, 20:25].copy()), (8, 16)),
        ("one cell", picture(2), (8, 8)),
        ("a strip", picture(4, 12, 160), (8, 104)),
        ("upright", picture(5, 80, 32), None),
    ],
)
@pytest.mark.parametrize("recipe", [SOLVED, replace(SOLVED, gradient_steps=2, downsampler="attention"), PERCEPTRON])
def test_unusual_images_are_fitted(name, image, size, recipe):
    features = features_of(image, size)
    fit = fitted(features, recipe, gradient_steps=min(recipe.gradient_steps, 2))
    assert fit.state.finished
    field = fit.field()
    assert field is not None, fit.state.reason
    full = field.features(size=(13, 17))
    assert full.isfinite().all()
    assert float(full.abs().max()) < 10 * float(features.data.abs().max())
    if name == "uniform" and recipe is SOLVED:
        assert float((full - features.data.mean((1, 2))[:, None, None]).abs().max()) < 0.02


def test_features_without_their_backbone_are_refused(features):
    with pytest.raises(UpsamplerError, match="without the backbone that made them"):
        ImplicitFit(dataclasses.replace(features, backbone=None))


# -- solving -----------------------------------------------------------------------------------------------------------


def test_a_solution_is_that_of_dense_least_squares():
    generator = torch.Generator().manual_seed(0)
    hidden, grid = torch.randn(9, 12, 16, generator=generator), (3, 4)
    jitters = [random_jitter(generator, SIZE, max_padding=4, max_zoom=1.8) for _ in range(6)]
    targets = torch.randn(6 * 12, 5, generator=generator)
    weights = torch.rand(6 * 12, generator=generator) + 0.5
    equations = NormalEquations(hidden, grid, 5, ridge=0.2)
    rows = equations.rows(jitters)
    seen = [box_average(jitter.sample(hidden, jitter.size_hw), grid).flatten(1).T for jitter in jitters]
    torch.testing.assert_close(rows, torch.cat(seen), atol=1e-5, rtol=1e-5)
    equations.add(rows[:30], targets[:30], weights[:30])
    equations.add(rows[30:], targets[30:], weights[30:])
    root = weights.sqrt()[:, None].double()
    left = torch.cat([root * rows.double(), 0.2**0.5 * torch.eye(9, dtype=torch.float64)])
    right = torch.cat([root * targets.double(), torch.zeros(9, 5, dtype=torch.float64)])
    expected = torch.linalg.lstsq(left, right).solution.T.float()
    torch.testing.assert_close(equations.solution(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("start", ["bilinear", "mean"])
def test_a_fit_solves_for_all_its_views_and_the_image_itself(features, start):
    recipe = replace(SOLVED, components=0, waves=16, start=start)
    fit = fitted(features, recipe)
    network, source = fit._network, ViewSource(features, features.image, recipe, 0)
    views = source.more(8)
    places, colours = fit._fitted_points()
    hidden = network.hidden(places, colours).T.reshape(-1, *fit.fit_hw())
    rows = [box_average(jitter.sample(hidden, SIZE), (3, 4)).flatten(1).T for jitter in views.jitters]
    known = [fit._components.of(views.features), fit._components.of(features.data[None])]
    if start == "bilinear":
        base = fit._components.of(upsample(features, method="bilinear").features(size=fit.fit_hw())[None])[0]
        told = [box_average(jitter.sample(base, SIZE), (3, 4)) for jitter in views.jitters]
        known = [known[0] - torch.stack(told), known[1] - box_average(base, (3, 4))]
    targets = torch.cat([maps.flatten(2).transpose(1, 2).flatten(0, 1) for maps in known])
    root = recipe.image_weight**0.5
    targets[-12:] *= root
    width = hidden.shape[0]
    rows += [root * box_average(hidden, (3, 4)).flatten(1).T, recipe.ridge**0.5 * torch.eye(width)]
    targets = torch.cat([targets, torch.zeros(width, targets.shape[1])])
    expected = torch.linalg.lstsq(torch.cat(rows).double(), targets.double()).solution.T.float()
    torch.testing.assert_close(network.last.weight.detach(), expected, atol=1e-3, rtol=1e-3)


# -- switches ----------------------------------------------------------------------------------------------------------


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
    fit.run(watch=lambda state: calls.append(fit.field().settings()["views"]))
    assert calls == [4, 8, 10]
    descended = fitted(features, DESCENDED, views=7, views_per_step=2)
    assert descended.field().settings()["views"] == 7


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


@pytest.mark.parametrize("start", ["bilinear", "mean"])
def test_a_strong_ridge_holds_the_field_back_to_its_start(features, start):
    begun = torch.zeros(features.channels, *SIZE)
    if start == "bilinear":
        begun = upsample(features, method="bilinear").features(size=SIZE)

    def moved(ridge: float) -> float:
        return float((drawn(fitted(features, SOLVED, ridge=ridge, start=start)) - begun).std((1, 2)).mean())

    assert moved(0.01) > moved(1.0) > 50 * moved(1e4)


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
    rough, smooth = (fitted(features, PERCEPTRON, gradient_steps=40, blur_pin=pin) for pin in (0.0, 50.0))
    assert float(blur_distance(drawn(smooth))) < 0.5 * float(blur_distance(drawn(rough)))


def test_the_magnitude_term_draws_the_lengths_of_features_to_those_of_the_views(features):
    def error(weight: float) -> float:
        fit = fitted(features, PERCEPTRON, gradient_steps=40, magnitude=weight)
        lengths = fit._components.of(features.data[None])[0].norm(dim=0)
        return float((box_average(magnitude(fit), (3, 4))[0] - lengths).square().mean())

    assert error(1.0) < 0.5 * error(0.0)


@pytest.mark.parametrize(("name", "size"), [("box", 29), ("blur", 56), ("attention", 56)])
def test_each_downsampler_descends_and_shows_what_it_learned(features, name, size):
    recipe = replace(SOLVED, gradient_steps=20, rate=5e-3, downsampler=name, downsampler_size=size)
    fit = fitted(features, recipe)
    kernel = fit.downsampler_kernel()
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-4)
    assert tuple(kernel.shape) == ((4, 4) if name == "box" else (6, 6))
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


@pytest.mark.parametrize("start", ["bilinear", "mean"])
def test_gradient_steps_follow_a_solution_and_improve_it(start):
    features = features_of(smooth_picture(), (48, 64))
    fit = ImplicitFit(features, recipe=replace(SOLVED, gradient_steps=20, rate=2e-3, measure_every=1, start=start))
    stages = []
    state = fit.run(watch=lambda each: stages.append(each.stage))
    assert stages == ["adding views"] + ["descending"] * 21
    assert state.best < state.points[1].held_out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "hash"}, 'network is "hash"; choose one of: fourier, perceptron'),
        ({"downsampler": "max"}, "downsampler"),
        ({"views": 0}, "views is 0; it must be at least 1"),
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


def test_recipes_of_earlier_files_start_from_the_mean():
    facts = SOLVED.facts()
    del facts["start"]
    assert fit_recipe_from_facts(facts) == replace(SOLVED, start="mean")


def test_recipes_are_found_by_name_and_written_as_facts():
    for name, recipe in FIT_RECIPES.items():
        assert find_fit_recipe(name) is recipe
        assert fit_recipe_from_facts(recipe.facts()) == recipe
    with pytest.raises(UpsamplerError, match="Choose one of: default, paper"):
        find_fit_recipe("fast")
    with pytest.raises(UpsamplerError, match='unknown entry "magic"'):
        fit_recipe_from_facts({"magic": 1})


# -- the field ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["whole", "region"])
def test_a_region_is_a_part_of_the_whole_whichever_is_asked_for_first(solved, first):
    field, region, size = solved.field(), Region(5, 9, 20, 31), (45, 61)
    matrix = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    answers = {}
    for asked in (first, "region" if first == "whole" else "whole"):
        answers[asked] = field.project(matrix, size=size, region=None if asked == "whole" else region)
    expected = answers["whole"][:, region.rows, region.columns]
    tolerance = 1e-3 * float(expected.abs().max())
    torch.testing.assert_close(answers["region"], expected, atol=tolerance, rtol=0)
    different = (answers["region"] - expected).abs() > 1e-5
    assert float(different.float().mean()) < 1e-3, (
        "numbers do not depend on what is kept, but for a rounding here and there"
    )


def test_an_export_does_not_depend_on_what_was_looked_at_before(solved):
    size, exports = (96, 128), []
    for looked in (False, True):
        field = solved.field()
        if looked:
            field.features(size=size)
        tiles = list(field.tiles(size=size, memory_budget=2**17))
        assert len(tiles) > 1
        exports.append(torch.cat([tile.flatten() for _, tile in tiles]))
    assert float(((exports[0] - exports[1]).abs() > 1e-5).float().mean()) < 1e-3


def test_outputs_that_are_too_large_to_keep_are_the_same(solved, monkeypatch):
    matrix, size = torch.randn(3, 6, generator=torch.Generator().manual_seed(1)), (40, 56)
    kept = solved.field().project(matrix, torch.ones(3), size=size)
    monkeypatch.setattr("featup_app.fields.implicit.implicit_field.KEPT_BYTES", 0)
    monkeypatch.setattr("featup_app.fields.implicit.implicit_field._BLOCK_NUMBERS", 96 * 56 * 3)
    field = solved.field()
    tolerance = 1e-3 * float(kept.abs().max())
    computed = field.project(matrix, torch.ones(3), size=size)
    torch.testing.assert_close(computed, kept, atol=tolerance, rtol=0)
    expected = torch.einsum("kc,chw->khw", matrix, field.features(size=size)) + 1
    torch.testing.assert_close(computed, expected, atol=tolerance, rtol=0)
    assert not field._kept


def test_drawing_can_be_cancelled(solved):
    def stop(stage: str, done: int, total: int) -> None:
        raise Cancelled

    field = solved.field()
    with pytest.raises(Cancelled):
        field.features(size=(50, 50), progress=stop)
    assert field.features(size=(50, 50), progress=silent).isfinite().all()


@pytest.mark.parametrize("factor", [2, 4])
def test_a_denser_grid_is_a_finer_version_of_the_same_field(factor):
    features = features_of(smooth_picture(), (48, 64))
    ours = fitted(features, FIT_RECIPES["default"], views=24).field()
    published = replace(FIT_RECIPES["paper"], views=10, gradient_steps=30)
    theirs = fitted(features, published).field()
    found = {name: off_grid(field, (48, 64), factor) for name, field in (("ours", ours), ("paper", theirs))}
    assert found["ours"] < 0.1, f"the published recipe's is {found['paper']:.3f}"
    assert found["ours"] < found["paper"], f"ours {found['ours']:.3f}, the published recipe's {found['paper']:.3f}"


def test_memory_is_foretold_and_a_smaller_recipe_takes_less(features):
    sizes = [(24, 32), (96, 128), (480, 640)]
    needs = [ImplicitFit(features_of(picture(1), size), recipe=FitRecipe(waves=1024)).memory_bytes() for size in sizes]
    assert needs == sorted(needs)
    dense = ImplicitFit(features, recipe=FIT_RECIPES["paper"])
    assert dense.smaller().samples_per_cell == 4
    fit, count = ImplicitFit(features, recipe=FitRecipe(waves=1024)), 0
    while (less := fit.smaller()) is not None:
        smaller = ImplicitFit(features, recipe=less)
        assert smaller.memory_bytes() < fit.memory_bytes()
        fit, count = smaller, count + 1
    assert count == 2
