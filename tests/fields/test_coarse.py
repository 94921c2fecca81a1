"""The low-resolution map that each field names as its own: of the same grid and the same space."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fit_fixtures import SOLVED

from featup_app.backbones import load_backbone
from featup_app.base.resources import resource
from featup_app.features import FeatureMap
from featup_app.fields import METHODS, Upsampler, upsample
from featup_app.fields.upsampler import NORM_EPSILON
from featup_app.fields.upsampler_files import network_class
from featup_app.images import image_from_array, load_image

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINED = [method.name for method in METHODS if method.takes_weights]
QUICK_OPTIONS = {"dip": {"steps": 1}, "implicit": {"recipe": SOLVED}, "jbu": {"kernel": "classical"}}


@pytest.fixture(scope="module")
def features() -> FeatureMap:
    """2 x 3 cells with 320 channels."""
    photo = image_from_array(load_image(resource("images", "coffee.jpg")).pixels[60:340:2, 120:530:2])
    return load_backbone("tf_efficientnet_lite0", device="cpu").extract(photo, size=(64, 96), layer="stage 4")


def weights(method: str, features: FeatureMap, *, norm: bool) -> Upsampler:
    """Weights that change nothing but what a norm changes, as far as the method can."""
    generator = torch.Generator().manual_seed(5)
    network = network_class(method)(features.channels).eval()
    scales = 1 + torch.rand(features.channels, generator=generator), torch.rand(features.channels, generator=generator)
    return Upsampler(network, features.channels, norm=scales if norm else None, method=method)


@pytest.mark.parametrize("method", [method.name for method in METHODS])
def test_without_a_norm_it_is_the_map_of_the_backbone(features, method):
    options = {"trained": False} if method in TRAINED else {}
    field = upsample(features, method=method, **QUICK_OPTIONS.get(method, options))
    assert field.coarse is features
    assert not field.coarse.normalised
    assert (field.channels, field.geometry) == (features.channels, features.geometry)


@pytest.mark.parametrize("method", TRAINED)
def test_weights_without_a_norm_leave_it_the_map_of_the_backbone(features, method):
    assert upsample(features, method=method, upsampler=weights(method, features, norm=False)).coarse is features


@pytest.mark.parametrize("method", TRAINED)
def test_with_a_norm_it_is_the_normalised_map(features, method):
    upsampler = weights(method, features, norm=True)
    field = upsample(features, method=method, upsampler=upsampler)
    assert field.coarse.normalised
    assert torch.equal(field.coarse.data, upsampler.normalised(features).data)
    assert replace(field.coarse, data=features.data, normalised=False) == features, "all else stays as it is"
    scale, offset = upsampler.norm
    mean, variance = features.data.mean(0), features.data.var(0, unbiased=False)
    centred = (features.data - mean) / (variance + NORM_EPSILON).sqrt()
    expected = centred * scale[:, None, None] + offset[:, None, None]
    torch.testing.assert_close(field.coarse.data, expected, rtol=1e-4, atol=1e-4)
