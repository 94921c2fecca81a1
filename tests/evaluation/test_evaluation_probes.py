"""Figures, footprints and probes against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featup_app.evaluation import statistics
from featup_app.evaluation.footprints import label_shares
from featup_app.evaluation.probes import Fold, Moments, fit_logistic, fit_logistic_folds, fit_ridge, fit_ridge_folds
from featup_app.multiview import box_average
from featup_app.multiview.patches import area_shares


def samples(count=200, channels=5, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, channels, generator=generator, dtype=torch.float64) + 2
    truth = torch.randn(channels, classes, generator=generator, dtype=torch.float64)
    chosen = ((features - 2) @ truth).argmax(1)
    weights = torch.rand(count, generator=generator)
    return features, torch.nn.functional.one_hot(chosen, classes).float(), weights, chosen


def test_confusion_and_its_figures():
    labels = np.array([0, 0, 1, 1, -1, 0])
    predicted = np.array([0, 1, 1, 1, 2, 0])
    confusion = statistics.confusion_matrix(predicted, labels, 3)
    assert confusion.tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
    iou = statistics.class_iou(confusion)
    assert iou[:2] == pytest.approx([2 / 3, 2 / 3])
    assert np.isnan(iou[2]), "no labelled pixel has this class"
    assert float(statistics.mean_iou(confusion)) == pytest.approx(2 / 3)
    assert float(statistics.pixel_accuracy(confusion)) == pytest.approx(4 / 5)
    assert statistics.mean_iou(np.stack([confusion, confusion])).shape == (2,)


def test_confusion_figures_are_those_of_another_program():
    metrics = pytest.importorskip("torchmetrics", reason="the package torchmetrics is not installed")
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(-1, 5, (40, 60)), generator.integers(0, 5, (40, 60))
    confusion = statistics.confusion_matrix(predicted, labels, 5)
    truth, chosen = torch.from_numpy(labels).flatten(), torch.from_numpy(predicted).flatten()
    settings = {"num_classes": 5, "ignore_index": -1}
    expected = metrics.functional.classification.multiclass_confusion_matrix(chosen, truth, **settings)
    assert np.array_equal(confusion, expected.numpy())
    shares = metrics.functional.classification.multiclass_jaccard_index(chosen, truth, average="none", **settings)
    assert statistics.class_iou(confusion) == pytest.approx(shares.numpy(), rel=1e-5)
    assert float(statistics.mean_iou(confusion)) == pytest.approx(float(shares.mean()), rel=1e-5)
    right = metrics.functional.classification.multiclass_accuracy(chosen, truth, average="micro", **settings)
    assert float(statistics.pixel_accuracy(confusion)) == pytest.approx(float(right), rel=1e-5)


def test_resamples_are_the_same_for_the_same_seed_and_keep_the_number():
    counts = statistics.resample_counts(7, seed=3, resamples=50)
    assert counts.shape == (50, 7)
    assert (counts.sum(1) == 7).all()
    assert np.array_equal(counts, statistics.resample_counts(7, seed=3, resamples=50))
    low, high = statistics.interval(np.arange(101.0))
    assert (low, high) == pytest.approx((2.5, 97.5))
    assert statistics.spread(np.array([1.0])) == 0


@pytest.mark.parametrize(("cells", "pixels"), [(3, 12), (5, 12), (4, 3), (1, 7)])
def test_overlaps_share_each_pixel_out(cells, pixels):
    matrix = area_shares(pixels, cells)
    assert torch.allclose(matrix.sum(1), torch.ones(cells, dtype=torch.float64))
    assert torch.allclose(matrix.sum(0), torch.full((pixels,), cells / pixels, dtype=torch.float64))
    if pixels % cells == 0:
        values = torch.rand(2, pixels, pixels)
        assert torch.allclose(
            box_average(values, (cells, cells)), torch.nn.functional.avg_pool2d(values, pixels // cells), atol=1e-6
        )


def test_label_shares_leave_out_what_is_not_labelled():
    labels = torch.tensor([[0, 1, -1, -1], [1, 1, -1, -1]], dtype=torch.int16)
    shares, labelled = label_shares(labels, (1, 2), 2)
    assert torch.allclose(shares, torch.tensor([[0.25, 0.75], [0.0, 0.0]]))
    assert torch.allclose(labelled, torch.tensor([1.0, 0.0]))
    shares, labelled = label_shares(labels, (2, 4), 2)
    assert shares[0].tolist() == [1, 0]
    assert shares[2].tolist() == [0, 0]
    assert labelled.tolist() == [1, 1, 0, 0, 1, 1, 0, 0]


def test_moments_give_the_ridge_of_the_samples():
    features, targets, weights, _ = samples()
    moments = Moments(5, 3)
    for part in (slice(0, 70), slice(70, 200)):
        moments.add(features[part], targets[part], weights[part])
    strength = 0.3
    probe = fit_ridge(moments, strength)
    root = weights.double().sqrt()[:, None]
    mean = (weights.double() @ features) / weights.double().sum()
    centred = features - mean
    penalty = strength * ((weights.double()[:, None] * centred.square()).sum(0) / weights.double().sum()).mean()
    target_mean = (weights.double() @ targets.double()) / weights.double().sum()
    stacked = torch.cat([root * centred, (penalty * weights.double().sum()).sqrt() * torch.eye(5, dtype=torch.float64)])
    aims = torch.cat([root * (targets.double() - target_mean), torch.zeros(5, 3, dtype=torch.float64)])
    expected = torch.linalg.lstsq(stacked, aims).solution.T
    torch.testing.assert_close(probe.weights.double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(probe.bias.double(), target_mean - expected @ mean, rtol=1e-4, atol=1e-5)


def test_a_probe_needs_samples():
    with pytest.raises(ValueError, match="at least one"):
        fit_ridge(Moments(2, 2), 1e-3)


def folds(kept=1000, seed=5):
    generator = torch.Generator().manual_seed(seed)
    result = []
    for number in range(3):
        fold = Fold(5, 3, kept=kept, generator=generator)
        features, targets, weights, _ = samples(seed=0)
        part = slice(number * 60, number * 60 + 60)
        fold.add(features[part], targets[part], weights[part])
        result.append(fold)
    return result


@pytest.mark.parametrize("fit", [fit_ridge_folds, fit_logistic_folds])
def test_folds_give_one_probe_of_all_and_one_without_each(fit):
    probes = fit(folds())
    assert len(probes) == 4
    features, targets, weights, _ = samples()
    if fit is fit_ridge_folds:
        moments = Moments(5, 3)
        moments.add(features[60:180], targets[60:180], weights[60:180])
        torch.testing.assert_close(probes[1].weights, fit_ridge(moments, probes[0].strength).weights)
    again = fit(folds())
    assert all(torch.equal(one.weights, two.weights) for one, two in zip(probes, again, strict=True))


def test_a_fold_keeps_a_seeded_draw_and_nothing_unlabelled():
    one, two = folds(kept=10)[0].samples(), folds(kept=10)[0].samples()
    assert one[0].shape == (10, 5)
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[0], folds(kept=10, seed=6)[0].samples()[0])
    fold = Fold(5, 3, kept=10, generator=torch.Generator().manual_seed(0))
    fold.add(torch.rand(4, 5), torch.zeros(4, 3), torch.zeros(4))
    assert fold.empty


def test_logistic_finds_the_minimum_and_the_same_digits():
    features, targets, weights, chosen = samples()
    probe = fit_logistic(features, targets, weights, strength=1e-2)
    scores = features.float() @ probe.weights.T + probe.bias
    assert float((scores.argmax(1) == chosen).float().mean()) > 0.93
    again = fit_logistic(features, targets, weights, strength=1e-2)
    assert torch.equal(probe.weights, again.weights)
    assert torch.equal(probe.bias, again.bias)
    parts = weights.double() / weights.double().sum()
    gradient = (parts[:, None] * (torch.softmax(scores.double(), 1) - targets)).sum(0)
    assert float(gradient.abs().max()) < 1e-4, "at the minimum, classes are predicted as often as they occur"
