"""Label-free scores: each moves the way it should when a field is blurred, sharpened, shifted or guided."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from known_field import KnownField

from featup_app import lenses
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import METHODS, upsample
from featup_app.images import image_from_array
from featup_app.lenses.calibration import uncertainty_calibration
from featup_app.lenses.quality import detection_area, quality_reference, quality_scores
from featup_app.lenses.score_names import SCORES
from featup_app.multiview import box_average

pytestmark = pytest.mark.usefixtures("one_thread")

GRID, CELL = (10, 14), 8


def scene(offset: tuple[float, float] = (0.0, 0.0)) -> tuple[FeatureMap, torch.Tensor]:
    """A disc and a band on a ground, whose features are their colours, mixed: (coarse map, fine features (C, H, W))."""
    height, width = GRID[0] * CELL, GRID[1] * CELL
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    kinds = ((rows - 38) ** 2 + (columns - 70) ** 2 < 27**2).long()
    kinds[(columns + rows // 3 > 12) & (columns + rows // 3 < 33)] = 2
    colours = torch.tensor([[40.0, 60, 50], [200, 170, 60], [70, 90, 220]])
    noise = torch.randn(height, width, 3, generator=torch.Generator().manual_seed(1))
    pixels = (colours[kinds] + noise).round().clamp(0, 255).byte().numpy()
    mix = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    fine = (colours[kinds] / 100 @ mix.T + 3).permute(2, 0, 1).contiguous()
    geometry = Geometry((height, width), (height, width), GRID, offset)
    return FeatureMap(box_average(fine, GRID), geometry, "layer", image_from_array(pixels)), fine


def scored(field, features):
    return quality_scores(field, quality_reference(features, pixels=80 * 112))


def scores_of(method: str, **options: object):
    features, _ = scene()
    return scored(upsample(features, method=method, **options), features)


def test_guided_fields_find_the_edges_of_the_image_and_unguided_ones_do_not():
    nearest, linear = scores_of("lowres"), scores_of("bilinear")
    guided = scores_of("jbu", kernel="classical")
    features, fine = scene()
    truth = scored(KnownField(features, fine), features)
    assert 0.4 < nearest.edge_alignment < 0.7
    assert nearest.edge_alignment < linear.edge_alignment < guided.edge_alignment - 0.05
    assert truth.edge_alignment > 0.97


def test_a_shifted_field_misses_the_edges_and_drifts():
    features, fine = scene()
    true = scored(KnownField(features, fine), features)
    shifted = scored(KnownField(features, fine.roll((5, 5), (1, 2))), features)
    assert shifted.edge_alignment < true.edge_alignment - 0.2
    assert shifted.preservation_error > 0.05
    assert shifted.preservation_cosine < true.preservation_cosine


def test_preservation_is_perfect_for_what_averages_back_and_falls_with_blur():
    features, fine = scene()
    for score in (scores_of("lowres"), scored(KnownField(features, fine), features)):
        assert score.preservation_error < 1e-9
        assert score.preservation_cosine == pytest.approx(1, abs=1e-6)
    linear = scores_of("bilinear")
    blurred = torch.nn.functional.avg_pool2d(fine[None], 41, 1, 20, count_include_pad=False)[0]
    far = scored(KnownField(features, blurred), features)
    assert 0.001 < linear.preservation_error < 0.1 < far.preservation_error < 1
    flat = fine.mean((1, 2), keepdim=True).expand_as(fine)
    assert scored(KnownField(features, flat), features).preservation_error == pytest.approx(1, abs=1e-4)


def test_sharpening_makes_halos_and_convex_combinations_have_none():
    features, fine = scene()
    for method in ("lowres", "bilinear"):
        assert scores_of(method).halo_share == 0
        assert scores_of(method).halo_size < 1e-5, "rounding"
    smooth = torch.nn.functional.avg_pool2d(fine[None], 9, 1, 4, count_include_pad=False)[0]
    known = [scored(KnownField(features, smooth + gain * (fine - smooth)), features) for gain in (1, 3, 6)]
    assert known[0].halo_size < 0.2 * known[1].halo_size < 0.2 * known[2].halo_size
    assert known[1].halo_share > 0.02
    bicubic = torch.nn.functional.interpolate(features.data[None], fine.shape[1:], mode="bicubic")[0]
    assert 0 < scored(KnownField(features, bicubic), features).halo_size < known[2].halo_size


def test_scores_do_not_depend_on_rotation_or_scale_of_the_features():
    features, _ = scene()
    first = scored(upsample(features, method="bilinear"), features)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(3)))[0]
    turned = FeatureMap(
        (7 * turn @ features.data.flatten(1)).view_as(features.data), features.geometry, "layer", features.image
    )
    second = scored(upsample(turned, method="bilinear"), turned)
    for score in SCORES[:8]:
        assert getattr(second, score.key) == pytest.approx(getattr(first, score.key), rel=1e-3, abs=1e-4), score.key
    assert first.explained == pytest.approx(1, abs=1e-6)


def test_grids_that_look_beside_their_cells_are_compared_where_they_look():
    features, _ = scene(offset=(0.4, -0.3))
    nearest = scored(upsample(features, method="lowres"), features)
    assert nearest.preservation_error < 1e-9
    assert nearest.halo_share == scored(upsample(features, method="bilinear"), features).halo_share == 0


@pytest.mark.parametrize("method", [method.name for method in METHODS if method.quick])
def test_every_quick_method_is_scored_and_cancelled(method):
    features, _ = scene()
    field = upsample(features, method=method)
    reference = quality_reference(field.coarse)
    values = quality_scores(field, reference)
    assert 0 <= values.edge_alignment <= 1
    assert values.preservation_error >= 0
    assert -1 <= values.preservation_cosine <= 1

    def stop(words, done, total, stage=None):
        raise InterruptedError(words)

    with pytest.raises(InterruptedError, match="scoring"):
        quality_scores(field, reference, progress=stop)


def test_what_is_not_defined_is_not_a_number():
    features, _ = scene()
    grey = image_from_array(np.full((80, 112, 3), 90, np.uint8))
    on_grey = FeatureMap(features.data, features.geometry, "layer", grey)
    values = scored(upsample(on_grey, method="bilinear"), on_grey)
    assert math.isnan(values.edge_alignment)
    assert math.isnan(values.haze)
    assert math.isnan(values.lettering)
    assert values.mottling == pytest.approx(0, abs=1e-4), "a field can be mottled on a flat picture too"
    assert values.preservation_error > 0
    constant = FeatureMap(torch.ones_like(features.data), features.geometry, "layer", features.image)
    values = scored(upsample(constant, method="bilinear"), constant)
    assert math.isnan(values.preservation_error)
    assert math.isnan(values.halo_share)
    assert math.isnan(values.haze)
    assert math.isnan(values.mottling)
    assert math.isnan(values.lettering)


def test_other_channels_do_not_fit():
    features, _ = scene()
    fewer = FeatureMap(features.data[:4], features.geometry, "layer", features.image)
    with pytest.raises(ValueError, match="4 channels"):
        quality_scores(upsample(fewer, method="bilinear"), quality_reference(features))


def test_the_detection_area_is_the_share_of_ordered_pairs():
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, 6, (40,), generator=generator).float() + 1
    two = torch.randint(0, 6, (60,), generator=generator).float()
    pairs = one[:, None] - two
    expected = float(((pairs > 0).float() + 0.5 * (pairs == 0).float()).mean())
    assert detection_area(one, two) == pytest.approx(expected)
    assert math.isnan(detection_area(one, two[:0]))


def test_every_score_that_is_named_exists_and_explains_itself():
    features, _ = scene()
    values = scored(upsample(features, method="bilinear"), features)
    for score in SCORES:
        assert score.key == "held_out_error" or hasattr(values, score.key)
        assert score.meaning.endswith(".")
    assert lenses.SCORES is SCORES
    assert lenses.quality_scores is quality_scores


def test_calibrated_uncertainty_is_told_from_useless_one():
    generator = np.random.default_rng(0)
    scales = np.exp(generator.normal(0, 0.8, 20_000))
    residuals = scales * generator.normal(0, 1, scales.shape)
    true = uncertainty_calibration(scales, residuals)
    assert true.standardised == pytest.approx(1, abs=0.02)
    assert true.binned_error < 0.05
    assert true.rank_correlation > 0.4
    assert len(true.bins) == 10
    bold = uncertainty_calibration(scales / 3, residuals)
    assert bold.standardised == pytest.approx(3, abs=0.1)
    assert bold.rank_correlation == pytest.approx(true.rank_correlation), "ranks do not see a factor"
    shuffled = uncertainty_calibration(generator.permutation(scales), residuals)
    assert abs(shuffled.rank_correlation) < 0.03
    assert shuffled.binned_error > 5 * true.binned_error
    exact = uncertainty_calibration(scales, scales)
    assert (exact.rank_correlation, exact.correlation, exact.binned_error) == pytest.approx((1, 1, 0))
    assert math.isnan(uncertainty_calibration([1, 1, 1], [1, 2, 3]).rank_correlation)


@pytest.mark.parametrize(
    ("scales", "residuals"), [([1], [1]), ([1, 2], [1]), ([1, 0], [1, 1]), ([1, 2], [1, math.nan])]
)
def test_numbers_that_cannot_be_compared_are_refused(scales, residuals):
    with pytest.raises(ValueError, match="scales"):
        uncertainty_calibration(scales, residuals)
