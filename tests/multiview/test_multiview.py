"""Views, downsamplers and losses: against the published ones, against plain references, and what they keep in memory."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from featup_app.multiview import (
    AttentionDownsampler,
    BlurDownsampler,
    Jitter,
    UncertaintyHead,
    box_average,
    conditional_random_field_loss,
    identity_jitter,
    magnitude_loss,
    patch_starts,
    random_jitter,
    random_projection,
    reconstruction_loss,
    sampled_views,
    total_variation,
)
from featup_app.multiview.patches import patch_sum
from featup_app.multiview.view_patches import weighted_views

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "multiview.npz"


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    if not GOLDEN.is_file():
        pytest.skip("needs multiview.npz of the reference tensors in ../shared/golden, which is not there")
    with np.load(GOLDEN, allow_pickle=False) as data:
        return {key: torch.from_numpy(np.asarray(data[key])) for key in data.files}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def attention(
    channels: int, kernel_size: int, *, dtype: torch.dtype = torch.float64, strength: float = 5
) -> AttentionDownsampler:
    """An attention downsampler in evaluation mode whose weights are far from equal."""
    module = AttentionDownsampler(channels, kernel_size, torch.Generator().manual_seed(3)).to(dtype).eval()
    with torch.no_grad():
        module.attention_net[1].weight.mul_(strength)
    return module


def blurred(features: torch.Tensor) -> torch.Tensor:
    places = torch.arange(-2, 3, dtype=features.dtype)
    profile = torch.exp(-places.square() / 2)
    profile = profile / profile.sum()
    kernel = torch.outer(profile, profile).expand(features.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(features, [2] * 4, mode="reflect"), kernel, groups=features.shape[1])


def cut_out(features: torch.Tensor, size: int, grid: tuple[int, int]) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, n_h, n_w, k, k), every patch a copy."""
    rows, columns = patch_starts(features.shape[2], size, grid[0]), patch_starts(features.shape[3], size, grid[1])
    return torch.stack(
        [torch.stack([features[:, :, y : y + size, x : x + size] for x in columns], dim=2) for y in rows], dim=2
    )


def published_attention(module: AttentionDownsampler, features: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Blur everything, cut everything out, weigh: the published order of things."""
    cut = cut_out(blurred(features), module.kernel_size, grid)
    linear = module.attention_net[1]
    saliency = torch.einsum("bcpqrs,c->bpqrs", cut, linear.weight[0]) + linear.bias
    logits = saliency * module.w + module.b
    weights = logits.flatten(-2).softmax(-1).view_as(logits)
    return torch.einsum("bcpqrs,bpqrs->bcpq", cut, weights)


@pytest.mark.parametrize("view", range(4))
@pytest.mark.parametrize("what", ["image", "features"])
def test_views_are_the_published_ones(published, view, what):
    padding, zoom, top, left, flip = published[f"jitter{view}/params"].tolist()
    jitter = Jitter((41, 41), int(padding), zoom, int(top), int(left), bool(flip))
    expected = published[f"jitter{view}/{what}"]
    torch.testing.assert_close(jitter.pixels(published[what]), expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(jitter.sample(published[what], (41, 41)), expected, atol=2e-5, rtol=1e-4)


def test_a_view_by_hand():
    image = torch.tensor([[[0.0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]])
    view = Jitter((3, 4), padding=1, zoom=1.0, top=0, left=2, flip=True)
    expected = torch.tensor([[[12.0, 13, 12, 11], [2, 3, 2, 1], [12, 13, 12, 11]]])
    torch.testing.assert_close(view.pixels(image), expected)
    torch.testing.assert_close(view.sample(image, (3, 4)), expected)
    torch.testing.assert_close(view.coordinates((3, 4))[0, :, 0] * 4, torch.tensor([2.5, 3.5, 2.5, 1.5]))
    torch.testing.assert_close(view.coordinates((3, 4))[:, 0, 1] * 3, torch.tensor([1.5, 0.5, 1.5]))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"padding": 3}, "mirrored"),
        ({"padding": -1}, "mirrored"),
        ({"zoom": 0.9}, "zoom"),
        ({"zoom": math.nan}, "zoom"),
        ({"top": 5}, "leaves"),
        ({"left": -1}, "leaves"),
    ],
)
def test_views_that_do_not_fit_are_refused(changes, complaint):
    arguments = {"size_hw": (3, 8), "padding": 2, "zoom": 1.0, "top": 4, "left": 4, "flip": False}
    Jitter(**arguments)
    with pytest.raises(ValueError, match=complaint):
        Jitter(**(arguments | changes))
    with pytest.raises(ValueError, match="does not fit"):
        Jitter(**arguments).pixels(torch.zeros(1, 8, 3))


def test_chance_is_as_published(generator):
    views = [random_jitter(generator, (20, 31), max_padding=5, max_zoom=1.8) for _ in range(2000)]
    assert {view.padding for view in views} == {5}
    assert {view.top for view in views if view.zoom == 1} == set(range(11))
    assert {view.left for view in views if view.zoom == 1} == set(range(11))
    for share in (sum(view.flip for view in views), sum(view.zoom > 1 for view in views)):
        assert 900 < share < 1100
    zooms = [view.zoom for view in views if view.zoom > 1]
    assert max(zooms) <= 1.8
    assert abs(sum(zooms) / len(zooms) - 1.4) < 0.03
    again = torch.Generator().manual_seed(7)
    assert [random_jitter(again, (20, 31), max_padding=5, max_zoom=1.8) for _ in range(2000)] == views
    assert random_jitter(generator, (3, 40), max_padding=20, max_zoom=1).padding == 2
    for wrong in ({"max_padding": -1, "max_zoom": 1}, {"max_padding": 1, "max_zoom": 0.5}):
        with pytest.raises(ValueError, match="negative"):
            random_jitter(generator, (20, 31), **wrong)


def test_looking_up_passes_gradients_to_the_map(generator):
    view = random_jitter(generator, (12, 17), max_padding=4, max_zoom=1.5)
    features = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda source: view.sample(source, (4, 7)), features)
    assert view.sample(features.detach().half(), (4, 7)).dtype == torch.float16


@pytest.mark.parametrize("kernel_size", [8, 11])
def test_what_patches_see_of_views_is_computed_without_drawing_the_views(generator, kernel_size):
    size, grid = (30, 44), (3, 4)
    jitters = [random_jitter(generator, size, max_padding=6, max_zoom=1.8) for _ in range(8)]
    maps = torch.randn(5, 30, 44, generator=generator, dtype=torch.float64)
    extra = torch.randn(2, 30, 44, generator=generator, dtype=torch.float64)
    for module in (BlurDownsampler(kernel_size).double(), attention(5, kernel_size)):
        leaf = maps.clone().requires_grad_()
        views = [sampled_views(leaf, [jitter], size) for jitter in jitters]
        drawn = torch.cat([module(view, grid) for view in views])
        along = torch.randn(drawn.shape, generator=generator, dtype=torch.float64)
        wanted = torch.autograd.grad((drawn * along).sum(), [leaf, *module.parameters()])
        seen = module.of_views(leaf, jitters, size, grid)
        torch.testing.assert_close(seen, drawn, atol=1e-6, rtol=1e-5)
        found = torch.autograd.grad((seen * along).sum(), [leaf, *module.parameters()])
        for mine, dense in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, dense, atol=1e-5, rtol=1e-5)
    beside = module.of_views(maps, jitters, size, grid, channels=extra)
    saliency = module.saliency(maps)
    for view, jitter in zip(beside, jitters, strict=True):
        plane, shown = (sampled_views(each, [jitter], size) for each in (saliency, extra))
        torch.testing.assert_close(view, module(shown, grid, plane)[0], atol=1e-6, rtol=1e-5)


def test_sums_over_patches_of_views_have_the_gradients_of_their_values(generator):
    jitters = [random_jitter(generator, (9, 12), max_padding=3, max_zoom=1.8) for _ in range(2)]
    features = torch.randn(2, 6, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda maps, taps: weighted_views(maps, jitters, taps, (9, 12), border=1), (features, weights)
    )


def test_the_blur_is_the_published_one(published):
    module = BlurDownsampler(5)
    module.load_state_dict({"kernel_params": published["simple/kernel_params"]})
    grid = (int(published["simple/final_size"]),) * 2
    result = module(published["features"], grid)
    torch.testing.assert_close(result, published["simple/output"], atol=2e-5, rtol=1e-4)


def test_the_blur_kernel_is_positive_and_sums_to_one():
    module = BlurDownsampler(3)
    with torch.no_grad():
        module.kernel_params.copy_(torch.linspace(-1, 2, 9).view(3, 3))
    kernel = module.kernel()
    assert kernel.shape == (3, 3)
    assert kernel.min() >= 0
    assert float(kernel.detach().sum()) == pytest.approx(1)
    features = torch.randn(4, 9, 12)
    cut = cut_out(features[None], 3, (3, 5))
    torch.testing.assert_close(module(features, (3, 5)), torch.einsum("bcpqrs,rs->cpq", cut, kernel))


@pytest.mark.parametrize(
    ("size", "kernel_size", "grid"),
    [
        ((32, 48), 8, (4, 6)),
        ((41, 30), 7, (5, 9)),
        ((25, 37), 9, (3, 1)),
        ((20, 20), 20, (1, 1)),
        ((16, 16), 16, (2, 3)),
        ((30, 43), 13, (4, 3)),
    ],
)
def test_attention_equals_blurring_and_unfolding_everything(size, kernel_size, grid):
    module = attention(6, kernel_size)
    features = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    result, expected = module(features, grid), published_attention(module, features, grid)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(module(features[1], grid), expected[1])
    leaves = [features, *module.parameters()]
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((result * weight).sum(), leaves)
    for gradient, reference in zip(gradients, torch.autograd.grad((expected * weight).sum(), leaves), strict=True):
        torch.testing.assert_close(gradient, reference)


def test_projected_features_with_their_saliency_give_the_projected_result(generator):
    module = attention(9, 5)
    features = torch.randn(9, 22, 31, dtype=torch.float64)
    matrix = random_projection(generator, 9, 4).double()
    projected = torch.einsum("kc,chw->khw", torch.cat([matrix, module.saliency_direction()[None]]), features)
    result = module(projected[:4], (4, 6), projected[4:])
    torch.testing.assert_close(result, torch.einsum("kc,chw->khw", matrix, module(features, (4, 6))))
    with pytest.raises(ValueError, match="9 channels"):
        module(projected[:4], (4, 6))
    with pytest.raises(ValueError, match="do not fit"):
        attention(9, 40)(features, (2, 2))
    with pytest.raises(ValueError, match="too small"):
        AttentionDownsampler(9, 2)(torch.zeros(9, 2, 30), (1, 2))


def test_the_attention_can_be_looked_at():
    module = attention(3, 6, dtype=torch.float32)
    features = torch.randn(3, 18, 24)
    weights = module.weights(module.saliency(features), (3, 4))
    assert weights.shape == (3, 4, 6, 6)
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(3, 4))
    cut = cut_out(blurred(features[None]), 6, (3, 4))
    torch.testing.assert_close(torch.einsum("bcpqrs,pqrs->cpq", cut, weights), module(features, (3, 4)))


def test_only_training_is_random_and_the_generator_decides():
    module = attention(20, 4, dtype=torch.float32, strength=20)
    features = torch.randn(20, 40, 40)

    def run(seed: int) -> torch.Tensor:
        return module(features, (10, 10), generator=torch.Generator().manual_seed(seed)).detach()

    state = torch.random.get_rng_state()
    assert torch.equal(run(1), run(2))
    assert torch.equal(module(features, (10, 10)), run(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    module.train()
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(module(features, (10, 10)), module(features, (10, 10)))


def test_in_training_a_fifth_of_patches_and_of_channels_is_dropped():
    module = attention(500, 3, dtype=torch.float32).train()
    generator = torch.Generator().manual_seed(0)
    weights = module.weights(torch.randn(1, 150, 150), (50, 50), generator=generator)
    plain = module.b.flatten().softmax(0).view(3, 3)
    share = (weights - plain).abs().amax((-1, -2)).lt(1e-6).float().mean()
    assert 0.17 < float(share) < 0.23
    direction = module.saliency_direction(generator).detach()
    original = module.attention_net[1].weight[0].detach()
    dropped = direction == 0
    assert 0.14 < float(dropped.float().mean()) < 0.26
    torch.testing.assert_close(direction[~dropped], original[~dropped] / 0.8)


def test_published_downsampler_states_load_unchanged():
    module = AttentionDownsampler(12, 16)
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == {
        "w": (16, 16),
        "b": (16, 16),
        "attention_net.1.weight": (1, 12),
        "attention_net.1.bias": (1,),
    }
    assert {name: tuple(value.shape) for name, value in UncertaintyHead(12).state_dict().items()} == {
        "net.weight": (1, 12, 1, 1),
        "net.bias": (1,),
    }


@pytest.mark.parametrize("grid", [(3, 4), (2, 3), (1, 1)])
def test_the_gradient_of_the_patch_sum(grid):
    features = torch.randn(1, 2, 8, 10, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, *grid, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(patch_sum, (features, weights))
    assert torch.autograd.gradgradcheck(patch_sum, (features, weights))


@pytest.mark.parametrize("size", [(112, 112), (117, 131)])
def test_nothing_of_the_size_of_all_patches_is_kept(size):
    channels, kernel_size, grid = 24, 29, (7, 7)
    module = attention(channels, kernel_size, dtype=torch.float32).train()
    features = torch.randn(channels, *size, requires_grad=True)
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        result = module(features, grid)
    pixels = 4 * size[0] * size[1]
    taps = 4 * grid[0] * grid[1] * (kernel_size + 4) ** 2
    assert max(kept.values()) < 1.2 * channels * pixels
    assert sum(kept.values()) < 2.3 * channels * pixels + 12 * taps
    assert sum(kept.values()) < 0.25 * channels * taps * 4
    result.sum().backward()


def test_boxes_are_averages_over_areas():
    features = torch.rand(3, 12, 20, dtype=torch.float64)
    torch.testing.assert_close(box_average(features, (4, 5)), F.avg_pool2d(features, (3, 4)))
    fine = features.repeat_interleave(5, 1).repeat_interleave(7, 2)
    torch.testing.assert_close(box_average(features, (5, 7)), F.avg_pool2d(fine, (12, 20)))
    torch.testing.assert_close(box_average(features[None], (5, 7))[0], box_average(features, (5, 7)))
    torch.testing.assert_close(
        box_average(features, (24, 40)), features.repeat_interleave(2, 1).repeat_interleave(2, 2)
    )


def test_patches_reach_from_edge_to_edge():
    assert patch_starts(224, 16, 14) == tuple(range(0, 224, 16))
    assert patch_starts(224, 29, 14) == tuple(range(0, 196, 15))
    assert patch_starts(10, 3, 4) == (0, 2, 5, 7)
    assert patch_starts(10, 3, 1) == (3,)
    for wrong in ((10, 11, 2), (10, 3, 0), (10, 0, 2)):
        with pytest.raises(ValueError, match="do not fit"):
            patch_starts(*wrong)


def test_the_reconstruction_loss_is_the_likelihood_of_a_normal_distribution():
    predicted, target = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    scale = torch.rand(3, 4) + 0.2
    expected = -torch.distributions.Normal(predicted, scale).log_prob(target).mean() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(reconstruction_loss(predicted, target, scale), expected)
    batched = scale.expand(2, 1, 3, 4)
    torch.testing.assert_close(reconstruction_loss(predicted, target, batched), expected)
    plain = reconstruction_loss(predicted, target, torch.ones(3, 4))
    torch.testing.assert_close(reconstruction_loss(predicted, target), plain)
    with pytest.raises(ValueError, match="no target"):
        reconstruction_loss(predicted, target[:1])


def test_the_uncertainty_head_learns_the_true_scale(generator):
    truth = torch.tensor([[0.3, 2.0]])
    features = torch.stack([torch.ones(1, 2), truth.log()])
    head = UncertaintyHead(2, generator)
    start = head(features)
    assert start.shape == (1, 2)
    assert (start.log() - 0.1).abs().max() < 0.2
    assert head(features[None]).shape == (1, 1, 1, 2)
    errors = truth * torch.randn(4000, 1, 2, generator=generator)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        reconstruction_loss(errors, torch.zeros_like(errors), head(features)).backward()
        optimizer.step()
    torch.testing.assert_close(head(features), truth, atol=0, rtol=0.05)
    with torch.no_grad():
        head.net.bias.fill_(-100)
    assert float(head(features).detach().min()) == pytest.approx(1e-4)


def test_the_total_variation_is_the_published_one(published):
    magnitude = torch.linalg.vector_norm(published["features"], dim=1, keepdim=True)
    torch.testing.assert_close(total_variation(magnitude), published["tv/magnitude"], atol=2e-5, rtol=1e-4)


def test_small_losses_by_hand():
    assert float(total_variation(torch.tensor([[[0.0, 1], [3, 3]]]))) == pytest.approx((9 + 4 + 1 + 0) / 4)
    target = torch.tensor([[[3.0, 0]], [[4.0, 1]]])
    assert float(magnitude_loss(torch.tensor([[4.0, 3]]), target)) == pytest.approx((1 + 4) / 2)
    assert float(magnitude_loss(torch.tensor([[[[4.0, 3]]]]), target[None])) == pytest.approx((1 + 4) / 2)


def test_the_smoothness_term_is_the_published_sum_over_pairs(generator):
    features, guidance = torch.randn(2, 4, 15, 15), torch.randn(2, 3, 15, 15)
    state = generator.get_state()
    result = conditional_random_field_loss(features, guidance, generator, points=60)
    drawn = torch.randint(225, (60,), generator=generator.set_state(state))
    places = torch.stack([drawn // 15, drawn % 15]) / 15

    def pairs(values: torch.Tensor) -> torch.Tensor:
        return (values.unsqueeze(-1) - values.unsqueeze(-2)).square().sum(-3)

    near, alike = pairs(places), pairs(guidance.flatten(2)[..., drawn])
    weight = 10 * torch.exp(-near / 0.2 - alike / 0.3) + 3 * torch.exp(-near / 0.01)
    torch.testing.assert_close(result, (weight * pairs(features.flatten(2)[..., drawn])).mean(), atol=1e-5, rtol=1e-4)
    assert float(conditional_random_field_loss(torch.ones(4, 15, 15), guidance[0], generator)) == pytest.approx(0)
    with pytest.raises(ValueError, match="do not pair up"):
        conditional_random_field_loss(features, guidance[..., :14], generator)


def test_directions_have_length_one(generator):
    rows = random_projection(generator, 384, 30)
    assert rows.shape == (30, 384)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(30))


def test_the_view_that_changes_nothing():
    image = torch.rand(2, 3, 9, 14)
    assert torch.equal(identity_jitter((9, 14)).pixels(image), image)
    torch.testing.assert_close(identity_jitter((9, 14)).sample(image, (9, 14)), image)
