"""The proposed threshold: where the region of high values changes least."""

from __future__ import annotations

import pytest
import torch

from featup_app.lenses import proposed_threshold
from featup_app.lenses.threshold import HIGHEST, LEVELS, MARGIN


def test_it_separates_two_groups_of_values_whatever_their_sizes():
    for share in (100, 500, 800):
        values = 0.05 * torch.randn(1000, generator=torch.Generator().manual_seed(share))
        values[:share] += 0.8
        threshold = proposed_threshold(values.view(20, 50))
        assert float((values[:share] >= threshold).float().mean()) > 0.98
        assert float((values[share:] >= threshold).float().mean()) < 0.02


def test_a_region_with_a_soft_rim_ends_in_the_rim():
    distance = torch.arange(100).float()[:, None].expand(100, 40)
    values = ((60 - distance) / 10).clamp(0, 1) + 0.02 * (100 - distance) / 100
    threshold = proposed_threshold(values)
    inside = int((values[:, 0] >= threshold).sum())
    assert 49 <= inside <= 60


def test_it_moves_with_offset_and_scale_of_the_values():
    values = torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) ** 3
    assert proposed_threshold(5 * values - 2) == pytest.approx(5 * proposed_threshold(values) - 2, abs=1e-4)


@pytest.mark.parametrize("steps", [0, 10])  # with many equal values, some of them levels
def test_areas_are_those_of_the_pixels_at_or_above_each_level(steps):
    values = torch.rand(30, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 2
    values = (values * steps).round() / steps if steps else values
    middle, high = (float(values.min()) + float(values.max())) / 2, float(values.max())
    levels = [middle + (high - middle) * HIGHEST * number / (LEVELS - 1) for number in range(LEVELS)]
    areas = [max(1, int((values >= level).sum())) for level in levels]
    changes = {
        number: (areas[number - MARGIN] - areas[number + MARGIN]) / areas[number]
        for number in range(MARGIN, LEVELS - MARGIN)
    }
    assert proposed_threshold(values) == pytest.approx(levels[min(changes, key=changes.__getitem__)])


def test_maps_without_contrast_or_values():
    assert proposed_threshold(torch.full((4, 5), 0.5)) == 0.5
    with pytest.raises(ValueError, match="without values"):
        proposed_threshold(torch.zeros(0, 4))
