"""The restoration of the coarse map: what it does to a field, how it is kept in files, and that the solution is the best one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_upsamplers import CHANNELS, make_features, make_norm, make_stack
from training_fixtures import PatchBackbone, pictures

from featup_app.base.errors import UpsamplerError
from featup_app.features import Region
from featup_app.fields import Upsampler, load_upsampler, save_upsampler, upsample
from featup_app.fields.restoration import Restoration, at_grid, detail
from featup_app.training import save_training, train_upsampler
from featup_app.training.cache import Preparation, prepare_pictures
from featup_app.training.chain import pyramid
from featup_app.training.examples import TrainingSet
from featup_app.training.held_out import relative_errors
from featup_app.training.learners import StackLearner
from featup_app.training.recipes import DEFAULT
from featup_app.training.restoration import MARGIN, MOST, Sums, solve_detail
from featup_app.training.trainer import Trainer

SIZE = (20, 28)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def restoration(channels: int = CHANNELS, factor: float = 1.0) -> Restoration:
    return Restoration(factor * draw(channels, channels, seed=2), draw(channels, 4, 4, seed=3))


def upsampler(how: Restoration, **options) -> Upsampler:
    return Upsampler(make_stack(), CHANNELS, restoration=how, **options)


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (2, 3), (9, 12)])
def test_detail_is_linear_and_vanishes_where_neighbours_are_alike(grid):
    one, other = draw(4, *grid), draw(4, *grid, seed=1)
    torch.testing.assert_close(detail(2 * one - other), 2 * detail(one) - detail(other))
    torch.testing.assert_close(detail(torch.full((4, *grid), 7.0)), torch.zeros(4, *grid), atol=1e-5, rtol=0)
    assert detail(one).shape == one.shape


def test_detail_is_the_same_for_each_map_of_a_batch():
    maps = draw(3, 4, 5, 6)
    torch.testing.assert_close(detail(maps), torch.stack([detail(each) for each in maps]))


def test_a_matrix_says_how_much_of_the_detail_is_added():
    features, nowhere = draw(4, 6, 5), torch.zeros(4, 1, 1)
    assert torch.equal(Restoration(torch.zeros(4, 4), nowhere)(features), features)
    torch.testing.assert_close(Restoration(0.5 * torch.eye(4), nowhere)(features), features + 0.5 * detail(features))


def test_the_place_in_the_frame_is_taken_out_before_detail_is_added():
    features, how = draw(2, 4, 6, 5), restoration(4)
    plain = features - at_grid(how.positional, (6, 5))
    torch.testing.assert_close(how.without_position(features), plain)
    expected = plain + torch.einsum("dc,bchw->bdhw", how.detail, detail(plain))
    torch.testing.assert_close(how(features), expected)
    torch.testing.assert_close(how(features)[0], how(features[0]))


def test_a_scaled_one_restores_scaled_features():
    features, how = draw(4, 6, 5), restoration(4)
    torch.testing.assert_close(how.scaled(3.0)(3 * features), 3 * how(features))


def test_numbers_in_half_precision_do_nearly_the_same():
    features, how = draw(4, 6, 5), restoration(4)
    halved = how.to(torch.float16)
    assert halved.detail.dtype == halved.positional.dtype == torch.float16
    assert halved(features).dtype == torch.float32
    torch.testing.assert_close(halved(features), how(features), atol=5e-3, rtol=5e-3)
    assert how.numel() == halved.numel() == 16 + 64


def test_a_field_upsamples_the_restored_map_and_projections_are_those_of_all_channels():
    features, how = make_features(), restoration(factor=0.3)
    field = upsample(features, method="jbu", upsampler=upsampler(how))
    full = field.features(size=SIZE)
    sharper = replace(features, data=how(features.data))
    expected = upsample(sharper, method="jbu", upsampler=Upsampler(make_stack(), CHANNELS)).features(size=SIZE)
    torch.testing.assert_close(full, expected, atol=1e-5, rtol=1e-5)
    assert field.coarse is features, "components and yardsticks read the backbone's own map"
    probe, bias = draw(3, CHANNELS, seed=4), draw(3, seed=5)
    wanted = torch.einsum("kc,chw->khw", probe, full) + bias[:, None, None]
    torch.testing.assert_close(field.project(probe, bias, size=SIZE), wanted, atol=1e-5, rtol=1e-4)
    part = Region(3, 5, 7, 9)
    torch.testing.assert_close(field.project(probe, bias, size=SIZE, region=part), wanted[:, part.rows, part.columns])


def test_a_restoration_follows_the_norm():
    features, how = make_features(), restoration(factor=0.3)
    with_norm = upsampler(how, norm=make_norm())
    field = upsample(features, method="jbu", upsampler=with_norm)
    plain = upsample(with_norm.normalised(features), method="jbu", upsampler=upsampler(how))
    torch.testing.assert_close(field.features(size=SIZE), plain.features(size=SIZE))


def test_files_keep_it_and_say_so(tmp_path):
    how, path = restoration(), tmp_path / "mine.safetensors"
    save_upsampler(path, make_stack(corrected=False), restoration=how, provenance={"backbone": "patches"})
    found = load_upsampler(path)
    assert found.restoration is not None
    assert torch.equal(found.restoration.detail, how.detail)
    assert torch.equal(found.restoration.positional, how.positional)
    assert (found.channels, found.universal) == (CHANNELS, False)
    assert found.facts()["restoration"]
    assert not found.facts()["fixup"], "a correction of zero is none"
    with pytest.raises(UpsamplerError, match="trained for the backbone patches"):
        found.check_fits("another", None, CHANNELS)
    assert found.stages_alone().restoration is None
    assert found.stages_alone().universal
    assert load_upsampler(path).facts()["fixup"] is False


def test_files_of_earlier_versions_take_nothing_out(tmp_path):
    how, path = restoration(), tmp_path / "mine.safetensors"
    save_upsampler(path, make_stack(corrected=False), restoration=how, provenance={})
    rewrite(path, lambda tensors: tensors.pop("upsampler.restoration.positional"))
    found = load_upsampler(path).restoration
    assert found is not None
    assert torch.equal(found.detail, how.detail)
    assert not found.positional.any()
    features = draw(CHANNELS, 5, 4)
    assert torch.equal(found.without_position(features), features)


def rewrite(path, change) -> None:
    with safe_open(path, "pt") as stored:
        metadata, tensors = stored.metadata(), {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, path, metadata)


def test_a_correction_beside_it_is_kept(tmp_path):
    path, stack = tmp_path / "both.safetensors", make_stack()
    save_upsampler(path, stack, restoration=restoration(), provenance={})
    found = load_upsampler(path)
    assert torch.equal(found.stack.fixup_proj[1].weight, stack.fixup_proj[1].weight)
    assert found.facts()["fixup"] is True


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    how = restoration()
    save_upsampler(path, make_stack(), restoration=replace(how, detail=draw(CHANNELS, CHANNELS + 1)), provenance={})
    with pytest.raises(UpsamplerError, match=r"restoration\.weight has the shape 6x7 instead of 6x6"):
        load_upsampler(path)
    with pytest.raises(UpsamplerError, match="nor a restoration"):
        save_upsampler(path, make_stack(corrected=False), restoration=restoration(1), provenance={"channels": None})
    save_upsampler(path, make_stack(), restoration=replace(how, positional=draw(CHANNELS, 3, 2)), provenance={})
    with pytest.raises(UpsamplerError, match=r"restoration\.positional has the shape 6x3x2 instead of 6x2x2"):
        load_upsampler(path)
    save_upsampler(path, make_stack(), restoration=how, provenance={})
    rewrite(path, lambda tensors: tensors.pop("upsampler.restoration.weight"))
    with pytest.raises(UpsamplerError, match=r"lacks the tensor restoration\.weight"):
        load_upsampler(path)
    broken = replace(how, detail=torch.full((CHANNELS, CHANNELS), torch.nan))
    with pytest.raises(UpsamplerError, match=r"restoration\.weight holds numbers that are not finite"):
        save_upsampler(path, make_stack(), restoration=broken, provenance={})


# -- solving -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return prepare_pictures(
        pictures(5), PatchBackbone(), preparation=Preparation(size=32, views=4), folder=tmp_path_factory.mktemp("cache")
    )


@pytest.fixture(scope="module")
def learner(patches):
    made = StackLearner([patches.channels], DEFAULT, torch.Generator().manual_seed(0))
    made.stack.eval()
    return made


def solved(learner, patches, weight: float | None) -> torch.Tensor:
    start = Restoration.nothing(patches.channels)
    scaled = lambda features: features / patches.scale  # noqa: E731
    return solve_detail(learner.upsample, patches, patches, scaled, start, weight).detail


def errors(learner, patches, matrix: torch.Tensor | None) -> tuple[float, float]:
    """The squared error of the views, and that of the coarse maps, both summed over channels, by the plain way."""
    from featup_app.multiview import box_views

    views = own = 0.0
    with torch.no_grad():
        for picture in patches.pictures:
            features = picture.features() / patches.scale
            changed = features if matrix is None else Restoration(matrix, torch.zeros(len(matrix), 1, 1))(features)
            levels = pyramid(picture.guidance()[None])
            drawn = learner.upsample(torch.eye(patches.channels), changed[None], levels)[0]
            targets = picture.view_features(range(len(picture.jitters))) / patches.scale
            views += float(
                (box_views(drawn, picture.jitters, picture.grid_hw) - targets).square().mean((0, 2, 3)).sum()
            )
            averaged = torch.nn.functional.avg_pool2d(drawn, 16)
            own += float((averaged - features).square().mean((1, 2)).sum())
    return views / len(patches.pictures), own / len(patches.pictures)


def test_the_solution_explains_views_better_and_keeps_the_map(learner, patches):
    matrix = solved(learner, patches, 0.3)
    assert matrix.shape == (patches.channels, patches.channels)
    torch.testing.assert_close(matrix, matrix.T)
    before, after = errors(learner, patches, None), errors(learner, patches, matrix)
    assert after[0] < 0.8 * before[0]
    assert after[1] < 0.8 * before[1]


def test_no_other_amounts_explain_views_better(learner, patches):
    matrix = solved(learner, patches, 1e-9)
    amounts, directions = torch.linalg.eigh(matrix)
    best = errors(learner, patches, matrix)[0]
    for index, amount in enumerate(amounts.tolist()):
        for change in (-0.1, 0.1):
            if 0 < amount + change < MOST:
                other = matrix + change * torch.outer(directions[:, index], directions[:, index])
                assert errors(learner, patches, other)[0] > best - 1e-7


def test_a_larger_weight_keeps_the_map_better_and_explains_views_less(learner, patches):
    found = [errors(learner, patches, solved(learner, patches, weight)) for weight in (1e-6, 1.0, 100.0)]
    assert found[0][0] <= found[1][0] <= found[2][0]
    assert found[0][1] >= found[1][1] >= found[2][1]
    assert found[0][1] > found[2][1]


def told_errors(learner, patches, matrix: torch.Tensor | None) -> float:
    """The error of the views as the yardstick has it; of bilinear interpolation where there is no matrix."""
    from featup_app.multiview import box_views

    found: list[float] = []
    with torch.no_grad():
        for picture in patches.pictures:
            features = picture.features() / patches.scale
            if matrix is None:
                drawn = torch.nn.functional.interpolate(features[None], scale_factor=16, mode="bilinear")[0]
            else:
                changed = Restoration(matrix, torch.zeros(len(matrix), 1, 1))(features)
                levels = pyramid(picture.guidance()[None])
                drawn = learner.upsample(torch.eye(patches.channels), changed[None], levels)[0]
            targets = picture.view_features(range(len(picture.jitters))) / patches.scale
            found += relative_errors(box_views(drawn, picture.jitters, picture.grid_hw), targets).tolist()
    return sum(found) / len(found)


def test_the_balance_is_as_sharp_as_the_error_of_bilinear_interpolation_allows(learner, patches):
    balanced = solved(learner, patches, None)
    allowed = (1 - MARGIN) * told_errors(learner, patches, None)
    strengths = [float(solved(learner, patches, weight).trace()) for weight in (1e-3, 1e3)]
    found = told_errors(learner, patches, balanced)
    assert found <= allowed * (1 + 1e-4)
    at_its_end = float(balanced.trace()) > strengths[1] - 1e-3
    assert at_its_end or found == pytest.approx(allowed, rel=1e-3)


@pytest.mark.parametrize(("bilinear", "expected"), [(0.2, -0.5), (0.5, -0.0025), (1.0, 0.363), (9.0, 1.0)])
def test_detail_is_as_large_as_the_error_allows(bilinear, expected):
    """The identity asks for 1, the views for -.5; the error of the views is .5 + amount + amount^2."""
    entries = {"views": (-0.5, 1.0), "own": (1.0, 1.0), "variance": (1.0,), "told": (0.5, -0.5, 1.0)}
    values = [value for group in entries.values() for value in group]
    sums = Sums(*(torch.tensor([value], dtype=torch.float64) for value in (*values, bilinear)))
    amount = float(sums.balanced_amounts(sums))
    allowed = (1 - MARGIN) * bilinear
    if expected > 0:
        assert sums.error(sums.balanced_amounts(sums)) <= allowed * (1 + 1e-6)
    assert amount == pytest.approx(expected, abs=4e-3)


def test_detail_is_made_smaller_by_no_more_than_it_takes():
    """Two directions whose errors are .25 + (amount + .5)^2: without a change .5 each."""
    values = (-0.5, 1.0, 0.0, 1.0, 1.0, 0.5, -0.5, 1.0)
    entries = [torch.tensor([value, value], dtype=torch.float64) for value in values]
    sums = Sums(*entries, torch.full((2,), 0.45 / (1 - MARGIN), dtype=torch.float64))
    amounts = sums.balanced_amounts(sums)
    assert sums.error(amounts) == pytest.approx(0.9)
    assert amounts.tolist() == pytest.approx([0.2**0.5 - 0.5] * 2)


def test_detail_is_not_made_smaller_where_a_weight_is_given():
    sums = Sums(
        *(torch.tensor([value], dtype=torch.float64) for value in (-0.2, 0.4, 0.0, 0.5, 1.0, 1.0, 0.0, 0.0, 1.0))
    )
    assert sums.amounts(1.0) == 0


def test_directions_without_variance_are_left_alone():
    values = (0.2, 0.4, 0.1, 0.5, 1.0, 1.0, 0.0, 0.0, 1.0)
    sums = Sums(*(torch.tensor([value, 0.0], dtype=torch.float64) for value in values))
    amounts = sums.amounts(0.5)
    assert amounts[0] > 0
    assert amounts[1] == 0


def test_training_leaves_one_for_a_single_backbone_unless_the_recipe_has_none(tmp_path):
    options = {"steps": 2, "size": 32, "views": 3, "measure_every": 2, "cache": tmp_path / "cache"}
    quick = replace(DEFAULT, directions=0, views=2)
    result = train_upsampler(pictures(6), PatchBackbone(), quick, **options)
    assert result.restoration is not None
    assert not result.universal
    weights, _, _ = save_training(result, tmp_path / "mine.safetensors")
    kept = load_upsampler(weights).restoration
    assert kept is not None
    assert result.restoration.detail.dtype == torch.float16
    assert torch.equal(kept.detail, result.restoration.detail.float())
    assert torch.equal(kept.positional, result.restoration.positional.float())
    without = train_upsampler(pictures(6), PatchBackbone(), replace(quick, restoration=0.0), **options)
    assert without.restoration is None
    assert without.universal
    both = [PatchBackbone(), PatchBackbone("other", channels=4, seed=1)]
    assert train_upsampler(pictures(6), both, quick, **options).restoration is None


def test_the_told_error_is_that_of_the_restored_field(tmp_path):
    """The error of the saved weights, taken in the plain way on unscaled features, is the one that was measured."""
    from featup_app.multiview import box_views

    sets = [
        prepare_pictures(part, PatchBackbone(), preparation=Preparation(size=32, views=3), folder=tmp_path)
        for part in (pictures(4)[:3], pictures(4)[3:])
    ]
    result = Trainer([TrainingSet(*sets)], replace(DEFAULT, directions=0)).run(steps=2, measure_every=2)
    found: list[float] = []
    with torch.no_grad():
        for picture in sets[1].pictures:
            features = result.restoration(picture.features())[None]
            drawn = result.stack(features, pyramid(picture.guidance()[None])[-1][..., 3:-3, 3:-3])[0]
            targets = picture.view_features(range(3))
            found += relative_errors(box_views(drawn, picture.jitters, picture.grid_hw), targets).tolist()
    assert result.figures["stack"] == pytest.approx(sum(found) / len(found), rel=1e-3)


@pytest.mark.parametrize(("amount", "reported"), [(0.3, True), (-0.05, False), (0.0, False)])
def test_only_amplified_detail_is_reported(amount, reported, tmp_path):
    sets = [
        prepare_pictures(part, PatchBackbone(), preparation=Preparation(size=32, views=3), folder=tmp_path)
        for part in (pictures(4)[:3], pictures(4)[3:])
    ]
    result = Trainer([TrainingSet(*sets)], replace(DEFAULT, directions=0)).run(steps=1)
    changed = replace(result.restoration, detail=amount * torch.eye(CHANNELS, dtype=torch.float16))
    assert replace(result, restoration=changed).restores_detail is reported
