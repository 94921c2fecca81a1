"""What a click asks: the same thing is alike wherever it lies, what is common counts less, and the features stay as they are."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from featup_app.base.errors import LensError
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import upsample
from featup_app.images import image_from_array
from featup_app.lenses import cosine, grouping, proposed_threshold, similarity

SIZE = (64, 96)


def two_things(noise: float = 0.4) -> FeatureMap:
    """A square of one feature on a ground of another, both noisy, in a picture with the same square."""
    generator = torch.Generator().manual_seed(1)
    data = noise * torch.randn(16, 8, 12, generator=generator) + 2  # a large mean, as of real features
    data[0, 2:6, 3:7] += 2
    data[1] -= 1
    data[1, 2:6, 3:7] += 2
    pixels = np.full((64, 96, 3), 90, np.uint8)
    pixels[16:48, 24:56] = 200
    return FeatureMap(data, Geometry((64, 96), (112, 168), (8, 12)), "layer", image_from_array(pixels), None, {})


def square() -> torch.Tensor:
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[16:48, 24:56] = True
    return inside


@pytest.mark.parametrize("method", ["attention", "bilinear", "jbu", "guided_filter", "lowres"])
def test_the_pixel_itself_is_one_and_nothing_leaves_the_range(method):
    found = similarity(upsample(two_things(), method=method), (40.5, 30.5), size=SIZE)
    assert found.shape == SIZE
    assert float(found[30, 40]) == pytest.approx(1, abs=1e-5)
    assert float(found.min()) >= -1
    assert float(found.max()) <= 1


def test_a_click_finds_the_thing_and_the_proposed_threshold_its_region():
    found = similarity(upsample(two_things(), method="attention"), (40, 32), size=SIZE)
    region = found >= proposed_threshold(found)
    overlap = float((region & square()).sum() / (region | square()).sum())
    assert overlap > 0.95


def test_grouping_makes_a_thing_more_even_and_zero_leaves_the_cells():
    field = upsample(two_things(0.8), method="attention")
    spread = [float(similarity(field, (40, 32), size=SIZE, grouping=share)[square()].std()) for share in (0, 0.5, 1)]
    assert spread[0] > spread[1] > spread[2]


def test_features_do_not_change_and_the_plain_cosine_is_that_of_the_features():
    field = upsample(two_things(), method="attention")
    before = field.features(size=SIZE)
    similarity(field, (40, 32), size=SIZE)
    torch.testing.assert_close(field.features(size=SIZE), before, rtol=0, atol=0)
    expected = torch.nn.functional.cosine_similarity(before, before[:, 32, 40, None, None], dim=0)
    torch.testing.assert_close(cosine(field, (40, 32), size=SIZE), expected, atol=1e-5, rtol=0)


def test_large_outputs_are_answered_in_parts_with_the_same_values(monkeypatch):
    field = upsample(two_things(), method="attention")
    whole = similarity(field, (40, 32), size=SIZE)
    monkeypatch.setattr(grouping, "_KEPT_BYTES", 50_000)
    grouping._known.clear()
    torch.testing.assert_close(similarity(field, (40, 32), size=SIZE), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("data", [torch.full((5, 4, 6), 3.0), torch.zeros(5, 4, 6), torch.ones(5, 1, 1)])
def test_features_that_do_not_vary(data):
    rows, columns = data.shape[1:]
    geometry = Geometry((64, 96), (rows * 14, columns * 14), (rows, columns))
    image = image_from_array(np.zeros((64, 96, 3), np.uint8))
    found = similarity(upsample(FeatureMap(data, geometry, "layer", image, None, {})), (3, 3), size=SIZE)
    assert bool(found.isfinite().all())


def test_a_field_is_freed_with_what_was_prepared_for_it():
    field = upsample(two_things(), method="bilinear")
    similarity(field, (40, 32), size=SIZE)
    gone = weakref.ref(field)
    del field
    gc.collect()
    assert gone() is None


def test_grouping_out_of_range():
    with pytest.raises(LensError, match="from 0 to 1"):
        similarity(upsample(two_things()), (3, 3), size=SIZE, grouping=1.5)
