"""The cosine distance between the features of two fields."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app.base.errors import LensError
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import upsample
from featup_app.images import image_from_array
from featup_app.lenses import cosine_distance

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 37, 45


def feature_map(seed: int, channels: int = 20) -> FeatureMap:
    generator = torch.Generator().manual_seed(seed)
    image = image_from_array(torch.randint(0, 255, (40, 50, 3), generator=generator, dtype=torch.uint8).numpy())
    data = torch.randn(channels, 4, 5, generator=generator)
    return FeatureMap(data, Geometry((40, 50), (40, 50), (4, 5)), "block 1", image, backbone_name="random")


@given(st.integers(0, 1000), st.sampled_from(["lowres", "attention", "guided_filter"]))
@settings(max_examples=10, deadline=None)
def test_it_is_a_distance_of_directions(seed, method):
    features = feature_map(seed)
    one, other = upsample(features, method="bilinear"), upsample(features, method=method)
    found = cosine_distance(one, other, size=SIZE)
    expected = 1 - torch.cosine_similarity(one.features(size=SIZE), other.features(size=SIZE), dim=0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.equal(found, cosine_distance(other, one, size=SIZE)), "symmetric"
    assert not cosine_distance(one, one, size=SIZE).any(), "nothing differs from itself, to the last bit"
    longer = upsample(replace(features, data=3 * features.data), method=method)
    assert float(cosine_distance(other, longer, size=SIZE).max()) < 1e-6, "lengths do not count"


def test_tiles_change_nothing():
    features = feature_map(7)
    one, other = upsample(features, method="bilinear"), upsample(features, method="attention")
    regions = []
    features_of = other.features
    other.features = lambda **given: regions.append(given["region"]) or features_of(**given)
    found = cosine_distance(one, other, size=SIZE, memory_budget=1)
    assert len(regions) > 5
    torch.testing.assert_close(found, cosine_distance(one, other, size=SIZE), atol=1e-6, rtol=0)


def test_features_without_a_direction():
    features = feature_map(8)
    half = features.data.clone()
    half[:, :, :2] = 0
    none = replace(features, data=torch.zeros_like(half))
    one, other = (upsample(replace(features, data=data), method="lowres") for data in (half, none.data))
    found = cosine_distance(one, other, size=(4, 5))
    assert np.array_equal(found[:, :2], np.zeros((4, 2)))
    assert np.array_equal(found[:, 2:], np.ones((4, 3)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"layer": "block 2"},
            "Features of random, layer block 1, 20 channels cannot be compared with .* the layer block 2",
        ),
        ({"backbone_name": "another"}, "the backbone another, not random"),
        ({"provenance": {"weights_sha256": "1"}}, "other weights of the backbone"),
        ({"normalised": True}, "normalised otherwise"),
    ],
)
def test_features_that_do_not_mean_the_same_have_no_difference(changes, sentence):
    features = feature_map(9)
    one, other = upsample(features, method="lowres"), upsample(replace(features, **changes), method="lowres")
    with pytest.raises(LensError, match=sentence):
        cosine_distance(one, other, size=SIZE)
    with pytest.raises(LensError, match="10 channels, not 20"):
        cosine_distance(one, upsample(feature_map(9, channels=10), method="lowres"), size=SIZE)
