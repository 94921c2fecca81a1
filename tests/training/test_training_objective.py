"""The step: fast forms equal the plain ones, the start is the classical upsampler, switches do what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from featup_app.base.errors import UpsamplerError
from featup_app.fields import JBUStack
from featup_app.fields.guidance import IMAGENET_MEAN, IMAGENET_STD
from featup_app.multiview import box_average, box_view_cells, box_views, random_jitter, sampled_views
from featup_app.training import correction
from featup_app.training.chain import PUBLISHED_TAPS, classical_weights, doubled, learned_weights, pyramid, upsample
from featup_app.training.classical_start import classical_logarithms, fit_keys, made_up_windows, start_classical
from featup_app.training.objective import Example, Objective
from featup_app.training.recipes import DEFAULT as SHIPPED
from featup_app.training.recipes import PAPER, Rates, Recipe, find_recipe, recipe_from_facts

pytestmark = pytest.mark.usefixtures("one_thread")

DEFAULT = replace(SHIPPED, learn_kernel_correction=True, learn_feature_correction=True)
"""Everything that can be learned is."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def guidance(batch: int = 1, rows: int = 3, columns: int = 4) -> torch.Tensor:
    """Smooth colours with noise, (B, 3, 16 rows, 16 columns) uint8."""
    coarse = torch.rand(batch, 3, rows, columns, generator=generator(5))
    fine = F.interpolate(coarse, (16 * rows, 16 * columns), mode="bicubic").clamp(0, 1)
    noise = 0.05 * torch.randn(fine.shape, generator=generator(6))
    return (255 * (fine + noise).clamp(0, 1)).round().to(torch.uint8)


def normalised(colours: torch.Tensor) -> torch.Tensor:
    values = colours.float() / 255
    return (values - values.new_tensor(IMAGENET_MEAN)[:, None, None]) / values.new_tensor(IMAGENET_STD)[:, None, None]


def example(channels: int = 5, batch: int = 2, views: int = 2, rows: int = 3, columns: int = 4) -> Example:
    source = generator(7)
    size = 8 * rows, 8 * columns
    return Example(
        member=0,
        levels=pyramid(guidance(batch, rows, columns)),
        features=torch.randn(batch, channels, rows, columns, generator=source),
        views=torch.randn(batch, views, channels, rows, columns, generator=source),
        jitters=tuple(
            tuple(random_jitter(source, size, max_padding=3, max_zoom=2.0) for _ in range(views)) for _ in range(batch)
        ),
    )


def test_the_chain_is_the_stack_forward_and_backward():
    torch.manual_seed(0)
    stack = JBUStack(5).eval()
    with torch.no_grad():
        stack.up2.range_temp.fill_(0.7)
    colours, source = guidance(2), torch.randn(2, 5, 3, 4, generator=generator())
    weight = torch.randn(2, 5, 48, 64, generator=generator(1))
    found = upsample(source, pyramid(colours), learned_weights(stack.kernels))
    (found * weight).mean().backward()
    gradients = {name: p.grad.clone() for name, p in stack.named_parameters() if p.grad is not None}
    stack.zero_grad()
    torch.nn.init.zeros_(stack.fixup_proj[1].weight)
    torch.nn.init.zeros_(stack.fixup_proj[1].bias)
    expected = stack(source, normalised(colours))
    (expected * weight).mean().backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert len(gradients) == 40
    for name, value in gradients.items():
        torch.testing.assert_close(value, stack.get_parameter(name).grad, atol=1e-7, rtol=1e-3, msg=name)


@pytest.mark.parametrize("pixels", [7, 64, 1000])
def test_the_correction_is_the_same_in_blocks_of_any_size(monkeypatch, pixels):
    monkeypatch.setattr(correction, "PIXELS", pixels)
    source = generator()

    def drawn(*shape):
        return torch.randn(shape, generator=source, dtype=torch.float64, requires_grad=True)

    colours = drawn(2, 3, 100).detach()
    arguments = [drawn(2, 9, 100), drawn(5, 12), drawn(5), drawn(9, 5), drawn(9)]
    found = correction.corrected(arguments[0], colours, *arguments[1:])
    kernel, first, first_bias, second, second_bias = arguments
    hidden = F.gelu(first @ torch.cat([kernel, colours], dim=1) + first_bias[:, None])
    expected = kernel + second @ hidden + second_bias[:, None]
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=source, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(found, arguments, weight), torch.autograd.grad(expected, arguments, weight), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_doubling_is_bicubic_with_mirrored_edges():
    source = torch.randn(2, 3, 4, 5, generator=generator())
    expected = F.pad(F.interpolate(source, (8, 10), mode="bicubic"), (3,) * 4, mode="reflect")
    torch.testing.assert_close(doubled(source), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("grid", [(3, 4), (6, 8), (12, 16)])
@pytest.mark.parametrize("seed", range(6))
def test_box_views_are_the_averages_of_the_looked_up_pixels(seed, grid):
    features = torch.randn(3, 48, 64, generator=generator(seed), requires_grad=True)
    jitters = [random_jitter(generator(seed + part), (24, 32), max_padding=5, max_zoom=2.0) for part in range(3)]
    expected = torch.stack([box_average(jitter.sample(features, (24, 32)), grid) for jitter in jitters])
    weight = torch.randn(expected.shape, generator=generator())
    (wanted,) = torch.autograd.grad((expected * weight).sum(), features)
    by_cells = box_view_cells(features.permute(1, 2, 0), jitters, grid).permute(0, 3, 1, 2)
    for found in (box_views(features, jitters, grid), by_cells):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        (gradient,) = torch.autograd.grad((found * weight).sum(), features)
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-4)


def test_sampled_views_are_those_of_the_jitter():
    features = torch.randn(3, 48, 64, generator=generator())
    jitters = [random_jitter(generator(part), (24, 32), max_padding=5, max_zoom=2.0) for part in range(3)]
    expected = torch.stack([jitter.sample(features, (12, 16)) for jitter in jitters])
    torch.testing.assert_close(sampled_views(features, jitters, (12, 16)), expected, atol=1e-5, rtol=1e-4)


def test_the_classical_start_is_the_classical_upsampler():
    stack = JBUStack(5).eval()
    start_classical(stack)
    colours, source = guidance(), torch.randn(1, 5, 3, 4, generator=generator())
    with torch.no_grad():
        found = stack(source, normalised(colours))
        expected = upsample(source, pyramid(colours, normalise=False), classical_weights())
    plain = F.interpolate(source, (48, 64), mode="bilinear")
    assert (found - expected).square().mean() < 1e-2 * (plain - expected).square().mean()


def test_another_width_of_colours_is_a_temperature():
    colours = made_up_windows(400, generator(3))
    stack = JBUStack(1)
    start_classical(stack, sigma_range=0.12)
    keys = stack.up1.range_proj.eval()(
        ((colours - colours.new_tensor(IMAGENET_MEAN)) / colours.new_tensor(IMAGENET_STD)).permute(0, 2, 1)[..., None]
    )[..., 0]
    logits = stack.up1.range_temp.exp() * (keys * keys[:, :, 24:25]).sum(dim=1)
    wanted = classical_logarithms(colours, 0.12)
    divergence = (wanted.exp() * (wanted - logits.log_softmax(dim=1))).sum(dim=1).mean()
    assert divergence < 0.002


def test_fitting_the_keys_lowers_the_divergence_and_is_repeatable():
    first, second = fit_keys(steps=3), fit_keys(steps=3)
    assert all(torch.equal(first[name], second[name]) for name in first)
    stack = JBUStack(1)
    stack.up1.range_proj.load_state_dict({name: value for name, value in first.items() if name != "range_temp"})


def test_the_reference_gradient_has_seven_taps():
    torch.manual_seed(0)
    stack = JBUStack(2).eval()
    levels = pyramid(guidance())
    weights = learned_weights(stack.kernels, reference_gradient=True)(3, levels[3])
    weights.retain_grad()
    weights.square().sum().backward()
    # The hook acts on what flows on, to the parameters: a bias of the correction gets its own tap's gradient only.
    bias = stack.up4.fixup_proj[3].bias.grad
    assert [tap for tap in range(49) if bias[tap] != 0] == list(PUBLISHED_TAPS)


def objective(recipe: Recipe = DEFAULT, channels=(5,)) -> Objective:
    return Objective(channels, recipe, generator(1))


@pytest.mark.parametrize("downsampler", ["box", "blur", "attention"])
def test_one_step_gives_every_learned_part_a_gradient(downsampler):
    recipe = replace(PAPER, downsampler=downsampler, downsampler_size=4, identity=0.1, total_variation=0.1)
    model = objective(recipe)
    loss, error = model(example(), generator())
    loss.backward()
    assert torch.isfinite(loss)
    assert error > 0
    for group in model.parameter_groups():
        for parameter in group["params"]:
            assert parameter.grad is not None, group["name"]
            assert torch.isfinite(parameter.grad).all()
    names = {group["name"] for group in model.parameter_groups()}
    assert ("downsampler" in names) == (downsampler != "box")


def test_projected_errors_are_those_of_all_channels_on_average():
    model = objective().eval()
    whole = Objective((5,), replace(DEFAULT, directions=0), generator(1)).eval()
    with torch.no_grad():
        _, exact = whole(example(), generator())
        drawn = torch.stack([model(example(), generator(seed))[1] for seed in range(40)])
    assert drawn.mean() == pytest.approx(float(exact), rel=0.03)


def test_the_published_stack_without_projection_gives_the_same_error():
    """The whole step against the plain way: stack, look-up, average, difference."""
    model = Objective((5,), replace(PAPER, downsampler="box", directions=0), generator(1)).eval()
    case = example()
    with torch.no_grad():
        _, error = model(case, generator())
        upsampled = model.stack(case.features, normalised(guidance(2)))
        squares = [
            (box_average(jitter.sample(features, jitter.size_hw), (3, 4)) - target).square().mean()
            for features, jitters, targets in zip(upsampled, case.jitters, case.views, strict=True)
            for jitter, target in zip(jitters, targets, strict=True)
        ]
    assert float(error) == pytest.approx(float(torch.stack(squares).mean()), rel=1e-4)


def test_several_backbones_share_a_stack_without_a_last_correction():
    model = objective(channels=(5, 3))
    assert model.learner.universal
    assert "feature correction" not in {group["name"] for group in model.parameter_groups()}
    loss, _ = model(replace(example(channels=3), member=1), generator())
    loss.backward()
    assert model.uncertainty[0].net.weight.grad is None
    assert model.uncertainty[1].net.weight.grad is not None
    assert not any(parameter.any() for parameter in model.stack.fixup_proj.parameters())


def test_parts_that_are_not_learned_stay_as_they_start():
    recipe = replace(DEFAULT, learn_kernel_correction=False, rates=Rates(width=0.0))
    model = objective(recipe)
    names = {group["name"] for group in model.parameter_groups()}
    assert names == {"keys", "temperature", "feature correction", "uncertainty"}
    with torch.no_grad():
        model(example(), generator())


def test_the_same_generator_gives_the_same_initial_weights():
    one, other = objective(PAPER).state_dict(), objective(PAPER).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_rates_rise_and_fall():
    assert DEFAULT.rate_factor(0.0) < 0.1
    assert DEFAULT.rate_factor(DEFAULT.warm_up) == pytest.approx(1, abs=0.01)
    assert DEFAULT.rate_factor(1.0) == pytest.approx(0, abs=1e-6)
    assert PAPER.rate_factor(0.0) == PAPER.rate_factor(1.0) == 1


def test_recipes_come_back_from_their_facts():
    for recipe in (DEFAULT, PAPER):
        assert recipe_from_facts(recipe.facts()) == recipe
    assert find_recipe("paper") is PAPER


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"downsampler": "median"}, "choose one of: blur, attention, box"),
        ({"views": 0}, "at least 1"),
        ({"max_zoom": 0.5}, "max_zoom is 0.5"),
        ({"clip": -1.0}, "not negative"),
        ({"warm_up": 1.0}, "fraction"),
        ({"rates": Rates(keys=float("nan"))}, "not negative"),
    ],
)
def test_impossible_recipes_are_refused(wrong, words):
    with pytest.raises(UpsamplerError, match=words):
        replace(DEFAULT, **wrong)


def test_unknown_recipes_are_refused():
    with pytest.raises(UpsamplerError, match="default, paper"):
        find_recipe("mine")
    with pytest.raises(UpsamplerError, match='unknown entry "colour"'):
        recipe_from_facts({"colour": 1})
