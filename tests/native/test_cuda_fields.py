"""Features on a CUDA device are those on the processor: backbones, upsamplers and fits, with their bundled weights."""

from __future__ import annotations

import pytest
import torch

from featup_app.backbones import load_backbone
from featup_app.base.resources import resource
from featup_app.fields import upsample
from featup_app.images import load_image

SIZE = (120, 160)
TOLERANCE = {"bilinear": 1e-4, "jbu": 2e-3, "implicit": 2e-3}
"""Relative to the features' norm. Window weights are float16, and kept components are."""


@pytest.fixture(scope="module")
def maps():
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    image = load_image(resource("images", "cat.jpg"))
    return [
        load_backbone("tf_efficientnet_lite0", device=device).extract(image, size="160") for device in ("cpu", "cuda")
    ]


def difference(there: torch.Tensor, here: torch.Tensor) -> float:
    return float((there.cpu() - here).norm() / here.norm())


def test_a_backbone_gives_the_same_features(maps):
    here, there = maps
    assert there.data.is_cuda
    assert difference(there.data, here.data) < 1e-4


@pytest.mark.parametrize("method", TOLERANCE)
def test_a_method_gives_the_same_features(maps, method):
    options = {"steps": 1} if method == "implicit" else {}
    here, there = (upsample(features, features.image, method, **options).features(size=SIZE) for features in maps)
    assert there.is_cuda
    assert difference(there, here) < TOLERANCE[method]
