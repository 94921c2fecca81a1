"""The proposed threshold: between two groups of values, wherever they lie and whatever their sizes."""

from __future__ import annotations

import pytest
import torch

from featup_app.lenses import proposed_threshold


def brute_force(values: torch.Tensor) -> float:
    """The threshold between neighbouring values with the largest variance between the two means."""
    ordered = values.flatten().double().sort().values
    best, where = -1.0, 0.0
    for count in range(1, len(ordered)):
        low, high = ordered[:count], ordered[count:]
        between = len(low) * len(high) * float(high.mean() - low.mean()) ** 2
        if between > best:
            best, where = between, float(ordered[count - 1] + ordered[count]) / 2
    return where


def test_it_lies_in_the_middle_between_two_values():
    assert proposed_threshold(torch.tensor([[0.0, 0, 0], [0, 1, 1]])) == pytest.approx(0.5)
    assert proposed_threshold(torch.tensor([[-0.25, 0.75]])) == pytest.approx(0.25)


@pytest.mark.parametrize("share", [100, 500, 900])
def test_it_is_that_of_all_thresholds_tried_out(share):
    generator = torch.Generator().manual_seed(share)
    values = 0.12 * torch.randn(1000, generator=generator)
    values[:share] += 0.8
    assert proposed_threshold(values.view(20, 50)) == pytest.approx(brute_force(values), abs=0.01)


def test_it_moves_with_offset_and_scale_of_the_values():
    values = torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) ** 3
    assert proposed_threshold(5 * values - 2) == pytest.approx(5 * proposed_threshold(values) - 2, abs=1e-4)


def test_maps_without_contrast_or_values():
    assert proposed_threshold(torch.full((4, 5), 0.5)) == 0.5
    with pytest.raises(ValueError, match="without values"):
        proposed_threshold(torch.zeros(0, 4))
