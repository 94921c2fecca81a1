"""Methods of class maps against their definitions, and what a request of the lens may say."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from test_lenses import random_map

from featup_app.base.errors import LensError
from featup_app.fields import METHODS, upsample
from featup_app.lenses import CAMRequest, lookup_table, parse_views
from featup_app.lenses.evidence import carried, eigencam_weights, gradcam_weights, hirescam, layercam
from featup_app.lenses.masking import MaskedProbability, mask_of, masked_probability
from featup_app.lenses.pictures import DIVERGING, decimals, symmetric_limits

pytestmark = pytest.mark.usefixtures("one_thread")


def gradients_of(features: torch.Tensor, score) -> list[torch.Tensor]:
    leaf = features.clone().requires_grad_()
    return [torch.autograd.grad(score(leaf), leaf)[0]]


def test_all_gradient_methods_agree_with_cam_where_a_linear_layer_reads_the_average():
    features, row = random_map(12).data, torch.randn(12, generator=torch.Generator().manual_seed(3))
    found = gradients_of(features, lambda values: row @ values.mean(dim=(1, 2)))
    plain = torch.einsum("c,chw->hw", row, features)
    cells = features.shape[1] * features.shape[2]
    assert torch.allclose(cells * hirescam(features, found)[0], plain, atol=1e-5)
    assert torch.allclose(cells * gradcam_weights(found)[0], row, atol=1e-6)


def test_hirescam_adds_up_to_the_score_where_it_is_a_sum_over_cells_and_grad_cam_does_not():
    features = random_map(6).data
    mask = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    found = gradients_of(features, lambda values: (values * mask).sum())
    assert torch.allclose(hirescam(features, found).sum(), (features * mask).sum(), rtol=1e-4)
    averaged = torch.einsum("kc,chw->khw", gradcam_weights(found), features).sum()
    assert not torch.allclose(averaged, (features * mask).sum(), rtol=1e-2)


def test_layercam_is_the_positive_part_of_positive_gradients():
    features = random_map(6).data
    found = gradients_of(features, lambda values: (values**3).sum() - values.sum())
    cells = layercam(features, found)
    assert (cells >= 0).all()
    expected = (torch.relu(3 * features**2 - 1) * features).sum(0).relu()
    assert torch.allclose(cells[0], expected, rtol=1e-4, atol=1e-5)


def test_eigencam_is_the_first_right_singular_vector_with_a_positive_mean():
    features = random_map(10).data
    for sign in (1, -1):
        weights = eigencam_weights(sign * features)
        first = torch.linalg.svd(features.flatten(1).T.double(), full_matrices=False)[2][0]
        assert abs(float(weights[0].double() @ first)) == pytest.approx(1, abs=1e-6)
        assert float((weights @ (sign * features).flatten(1)).mean()) > 0
    assert torch.isfinite(eigencam_weights(torch.zeros(3, 2, 2))).all()


@pytest.mark.parametrize("method", [method.name for method in METHODS if method.quick])
def test_every_field_brings_maps_of_cells_to_the_output(method):
    features = random_map(8)
    field = upsample(features, features.image, method)
    cells = torch.stack([torch.ones(8, 12), torch.linspace(0, 1, 96).view(8, 12)])
    maps = carried(field, features, cells, size=(30, 45))
    assert maps.shape == (2, 30, 45)
    assert torch.allclose(maps[0], torch.ones(30, 45), atol=2e-3)
    assert -0.2 < float(maps[1].min()) < float(maps[1].max()) < 1.2


def test_a_difference_has_its_middle_colour_at_zero():
    assert symmetric_limits(np.array([[-2.0, 1.0]], np.float32)) == (-2.0, 2.0)
    low, high = symmetric_limits(np.zeros((2, 2), np.float32))
    assert low == -high < 0
    table = lookup_table(DIVERGING).astype(int)
    assert (table[[127, 128]] > 240).all()
    assert table[0, 2] > table[0, 0]
    assert table[-1, 0] > table[-1, 2]


def test_small_values_are_read_with_more_digits():
    assert [decimals((0, each)) for each in (120.0, 1.0, 0.2, 0.04, 0.0015, 0.0)] == [2, 2, 2, 3, 4, 2]
    assert decimals((-0.03, 0.001)) == 3


# -- requests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cam:espresso:minus=teapot", CAMRequest("espresso", against="teapot")),
        ("cam:espresso : minus = great shark :METHOD=HiResCAM", CAMRequest("espresso", method="hirescam", against="great shark")),
        ('cam:"lynx, catamount":minus="a, b":drop=yes', CAMRequest("lynx, catamount", against="a, b", drop=True)),
        ("cam:method=eigencam", CAMRequest(method="eigencam")),
        ("cam:minus='504'", CAMRequest(against="504")),
        ("cam:target=picture", CAMRequest(target="picture")),
        ("cam:drop=no", CAMRequest()),
        ("cam:ratio 3:4", CAMRequest("ratio 3:4")),
    ],
)  # fmt: skip
def test_settings_behind_a_class_on_the_command_line(text, expected):
    assert parse_views(text) == (expected,)
    assert parse_views(f"pca,{text}, cam")[1:] == (expected, CAMRequest()) if expected != CAMRequest() else True


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cam:espresso:methd=layercam", 'given "methd" but knows no such setting; its settings are: minus, method'),
        ("cam:drop=yes:drop=no", 'given "drop" twice'),
        ("cam:drop=maybe", 'drop=yes or drop=no, not "maybe"'),
        ("cam:minus=", "is not understood"),
    ],
)
def test_settings_that_are_none_get_a_sentence(text, sentence):
    with pytest.raises(LensError, match=re.escape(sentence)):
        parse_views(text)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (CAMRequest(method="scorecam"), 'no method "scorecam" of class maps; choose one of: cam, gradcam, hirescam'),
        (CAMRequest(target="query"), 'cannot explain "query"; choose one of: class, picture'),
        (CAMRequest("espresso", method="eigencam"), "EigenCAM has no class; leave out the classes"),
        (CAMRequest(against=3, method="eigencam"), "EigenCAM has no class"),
        (CAMRequest(drop=True, target="picture"), "picture as a whole has no class"),
        (CAMRequest(method="cam", target="picture"), "CAM explains classes by the rows of a head"),
        (CAMRequest(method="eigencam", target="picture"), "EigenCAM explains neither class nor picture"),
    ],
)
def test_requests_that_make_no_sense_get_a_sentence(request_, sentence):
    with pytest.raises(LensError, match=re.escape(sentence)):
        request_.check_image(random_map(3).image)


def test_what_decides_about_the_numbers_of_a_class_map():
    base = CAMRequest(1)
    others = [
        CAMRequest(1, method="cam"),
        CAMRequest(1, against=2),
        CAMRequest(1, drop=True),
        CAMRequest(target="picture"),
    ]
    assert len({each.computation() for each in (base, *others)}) == 5
    assert CAMRequest(1, "grey", (0, 1)).computation() == base.computation()


# -- masks ---------------------------------------------------------------------------------------------------------------


def test_the_drop_is_the_lost_share_and_never_negative():
    assert MaskedProbability(0.8, 0.2).drop == pytest.approx(0.75)
    assert MaskedProbability(0.2, 0.8).drop == 0
    assert MaskedProbability(0.0, 0.0).drop == 0


def test_masks_of_any_size_act_on_the_picture_at_the_size_of_the_classifier():
    class Bright:
        """A classifier with the mean brightness of the left half as the score of class 0."""

        class_size = 32

        def resized(self, image, size=None, *, default=None):
            return torch.ones(3, 32, 32)

        def logits(self, image, *, size=None):
            assert size == (32, 32)
            return torch.tensor([image.pixels[:, :16].mean() / 255 * 4, 0.0])

    image, left = random_map(3).image, torch.zeros(10, 20)
    left[:, :10] = 5
    kept = masked_probability(Bright(), image, 0, left)
    lost = masked_probability(Bright(), image, 0, left.flip(1) - left)
    assert kept.drop == pytest.approx(0, abs=0.03)
    assert lost.drop > 0.4
    assert masked_probability(Bright(), image, 0, torch.ones(7, 7)).drop == 0
    assert mask_of(-torch.ones(2, 2), hard=False).sum() == 0
