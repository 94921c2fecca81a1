"""Fitting an implicit network to one image: how fits go, how they end, and the field that is left."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fit_fixtures import DESCENDED, PERCEPTRON, SIZE, SOLVED, drawn, fitted, smooth_picture
from training_fixtures import PatchBackbone, features_of, picture

from featup_app.base.errors import Cancelled, UpsamplerError
from featup_app.base.progress import silent
from featup_app.bench.implicit import off_grid
from featup_app.features import Region
from featup_app.fields import upsample
from featup_app.fields.implicit import FIT_RECIPES, FitRecipe, ImplicitFit
from featup_app.fields.implicit.solving import NormalEquations
from featup_app.fields.implicit.views import ViewSource
from featup_app.images import image_from_array
from featup_app.multiview import box_average, random_jitter

pytestmark = pytest.mark.usefixtures("one_thread")


# -- the fit as a whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [FIT_RECIPES["default"], replace(PERCEPTRON, gradient_steps=80)])
def test_a_fit_explains_held_out_views_better_than_what_needs_no_fit(recipe):
    fit = ImplicitFit(features_of(smooth_picture(), (48, 64)), recipe=recipe)
    states = []
    state = fit.run(on_state=states.append)
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

    def stop(words: str, done: int, total: int, stage=None) -> None:
        if words == "fitting" and done == 2:
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
    whole.run(progress=lambda words, *_: calls.append(words))
    stages = {"features of held-out views", "looking through held-out views", "features of views", "fitting"}
    assert stages <= set(calls)
    for number in range(0, len(calls), max(1, len(calls) // 12)):
        seen = 0

        def stop(*_: object, number: int = number) -> None:
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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "recipe",
    [SOLVED, replace(SOLVED, gradient_steps=2, downsampler="attention"), replace(PERCEPTRON, downsampler="blur")],
)
def test_everything_that_is_fitted_is_where_the_features_are(device, recipe):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    fit = fitted(features_of(picture(3), SIZE, PatchBackbone(device=device)), recipe, dropout=0.2, weigh=True)
    assert fit.state.best < 1.5 * fit.state.bilinear
    for found in (drawn(fit), fit.uncertainty(), fit.residuals(), fit.downsampler_kernel()):
        assert found.device.type in (device, "cpu")
        assert bool(found.isfinite().all())
    assert drawn(fit).device.type == device


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
    equations = NormalEquations(hidden.permute(1, 2, 0).contiguous(), grid, 5, ridge=0.2)
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


@pytest.mark.parametrize("kind", ["fourier", "perceptron"])
@pytest.mark.parametrize("start", ["jbu", "bilinear", "mean"])
def test_a_fit_solves_for_all_its_views_and_the_image_itself(features, start, kind):
    recipe = replace(SOLVED, components=0, waves=16, start=start, network=kind, hidden=24, frequencies=6)
    fit = fitted(features, recipe)
    assert fit._network.last.bias is None or not fit._network.last.bias.any()
    network, source = fit._network, ViewSource(features, features.image, recipe, 0)
    views = source.more(8)
    places, colours = fit._learner._fitted_points()
    hidden = network.hidden(places, colours).T.reshape(-1, *fit.fit_hw())
    rows = [box_average(jitter.sample(hidden, SIZE), (3, 4)).flatten(1).T for jitter in views.jitters]
    known = [fit._learner.components.of(views.features), fit._learner.components.of(features.data[None])]
    if start != "mean":
        base = fit._learner.components.of(upsample(features, method=start).features(size=fit.fit_hw())[None])[0]
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
    def stop(words: str, done: int, total: int, stage=None) -> None:
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
