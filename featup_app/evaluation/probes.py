"""Linear probes: one functional of the features for each class, fitted in closed form or by its likelihood.

Both are convex problems started from the same place and solved in float64, so that the same data give the same digits. A
probe is linear, so it is applied to a field of any size by ``field.project(probe.weights, probe.bias, size=...)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featup_app.evaluation.statistics import mean_iou
from featup_app.progress import Progress, silent

STRENGTHS = tuple(10.0**exponent for exponent in range(-6, 2))
"""Ridge strengths to choose from, relative to the mean variance of a channel."""

LOGISTIC_STRENGTH = 1e-3
LOGISTIC_STEPS = 150


@dataclass(frozen=True)
class LinearProbe:
    """Scores of K classes from C channels.

    Attributes:
        weights: (K, C) float32.
        bias: (K) float32.
        strength: of the penalty that it was fitted with.
    """

    weights: Tensor
    bias: Tensor
    strength: float


class Moments:
    """Sums from which a least-squares fit follows, so that samples need not be kept. They add up over images.

    Args:
        channels: C of the features.
        classes: K of the targets.
    """

    def __init__(self, channels: int, classes: int) -> None:
        self.samples = 0.0
        self.features = torch.zeros(channels, dtype=torch.float64)
        self.targets = torch.zeros(classes, dtype=torch.float64)
        self.features_features = torch.zeros(channels, channels, dtype=torch.float64)
        self.features_targets = torch.zeros(channels, classes, dtype=torch.float64)

    def add(self, features: Tensor, targets: Tensor, weights: Tensor) -> None:
        """Count samples in.

        Args:
            features: (N, C). Products are taken in their type and summed over calls in float64.
            targets: (N, K).
            weights: (N), how much each sample counts.
        """
        targets, weights = targets.to(features), weights.to(features)
        weighted = features * weights[:, None]
        self.samples += float(weights.double().sum())
        self.features += weighted.double().sum(0).cpu()
        self.targets += (targets * weights[:, None]).double().sum(0).cpu()
        self.features_features += (weighted.T @ features).double().cpu()
        self.features_targets += (weighted.T @ targets).double().cpu()

    def __add__(self, other: Moments) -> Moments:
        result = Moments(len(self.features), len(self.targets))
        result.samples = self.samples + other.samples
        result.features = self.features + other.features
        result.targets = self.targets + other.targets
        result.features_features = self.features_features + other.features_features
        result.features_targets = self.features_targets + other.features_targets
        return result


def fit_ridge(moments: Moments, strength: float) -> LinearProbe:
    """Least squares with a penalty of ``strength`` times the channels' mean variance on squared weights; none on the bias.

    Raises:
        ValueError: if the moments count no sample.
    """
    if not moments.samples > 0:
        raise ValueError("a probe needs at least one labelled sample")
    mean, target_mean = moments.features / moments.samples, moments.targets / moments.samples
    covariance = moments.features_features / moments.samples - torch.outer(mean, mean)
    crossed = moments.features_targets / moments.samples - torch.outer(mean, target_mean)
    penalty = strength * covariance.diagonal().mean().clamp(min=1e-30)
    covariance.diagonal().add_(penalty)
    weights = torch.linalg.solve(covariance, crossed).T
    return LinearProbe(weights.float(), (target_mean - weights @ mean).float(), strength)


class Fold:
    """One part of the training pictures: their moments, and some of their samples, by which strengths are chosen.

    Args:
        channels, classes: C and K.
        kept: samples of each picture that are kept, drawn by chance where there are more.
        generator: of the draw.
    """

    def __init__(self, channels: int, classes: int, *, kept: int, generator: torch.Generator) -> None:
        self.moments = Moments(channels, classes)
        self._kept = kept
        self._generator = generator
        self._samples: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, features: Tensor, targets: Tensor, weights: Tensor, *, part: float = 1.0) -> None:
        """Count samples in: (N, C), (N, K) shares of the classes and (N), ``part`` of the samples of a picture."""
        labelled = weights > 0
        if not bool(labelled.any()):
            return
        self.moments.add(features, targets, weights)
        rows = labelled.nonzero()[:, 0]
        limit = max(1, round(self._kept * part))
        if len(rows) > limit:
            rows = rows[torch.randperm(len(rows), generator=self._generator)[:limit]]
        self._samples.append((features[rows].float().cpu(), targets[rows].float().cpu(), weights[rows].float().cpu()))

    @property
    def empty(self) -> bool:
        """Whether it holds no labelled sample."""
        return not self._samples

    def samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """The kept samples: (N, C), (N, K), (N) float32."""
        features, targets, weights = (torch.cat(column) for column in zip(*self._samples, strict=True))
        return features, targets, weights

    def confusion(self, probe: LinearProbe) -> Tensor:
        """(K, K) float64 of the kept samples by class (shares count in parts) and by the probe's choice."""
        features, targets, weights = self.samples()
        chosen = (features @ probe.weights.T + probe.bias).argmax(1)
        counted = (targets * weights[:, None]).double()
        return counted.new_zeros(targets.shape[1], targets.shape[1]).index_add_(1, chosen, counted.T)


def fit_ridge_folds(folds: Sequence[Fold], strengths: Sequence[float] = STRENGTHS) -> list[LinearProbe]:
    """The probe of all samples, then for each fold the probe of all samples but the fold's.

    The strength is the one whose probes have the best mean intersection over union on the kept samples of the folds that
    they have not seen; the same for all probes. (The squared error that a ridge minimises prefers stronger penalties, under
    which rare classes vanish.)

    Args:
        folds: at least two, none of them empty.
    """
    others = [_sum([fold.moments for fold in folds if fold is not left_out]) for left_out in folds]

    def score(strength: float) -> float:
        pairs = zip(folds, others, strict=True)
        confusion = torch.stack([fold.confusion(fit_ridge(other, strength)) for fold, other in pairs]).sum(0)
        return float(mean_iou(confusion.numpy()))

    best = max(sorted(strengths, reverse=True), key=score)
    return [fit_ridge(moments, best) for moments in [_sum([fold.moments for fold in folds]), *others]]


def fit_logistic_folds(folds: Sequence[Fold], *, progress: Progress = silent) -> list[LinearProbe]:
    """As :func:`fit_ridge_folds`, by cross-entropy on the kept samples and with a fixed strength."""
    probes = []
    for left_out in (None, *folds):
        members = [fold.samples() for fold in folds if fold is not left_out]
        features, targets, weights = (torch.cat(column) for column in zip(*members, strict=True))
        probes.append(fit_logistic(features, targets, weights, progress=progress))
    return probes


def _sum(moments: Sequence[Moments]) -> Moments:
    total = moments[0]
    for other in moments[1:]:
        total = total + other
    return total


def fit_logistic(
    features: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    strength: float = LOGISTIC_STRENGTH,
    steps: int = LOGISTIC_STEPS,
    progress: Progress = silent,
) -> LinearProbe:
    """Softmax cross-entropy over all samples at once, by L-BFGS from zero until the gradient vanishes or the steps are used up.

    Args:
        features: (N, C).
        targets: (N, K) shares of the classes.
        weights: (N), how much each sample counts.
        strength: half of it multiplies the squared weights of the standardised channels.
        steps: at most so many iterations.
        progress: called at each evaluation; may cancel.
    """
    values, shares, counted = features.double(), targets.double(), weights.double() / weights.double().sum()
    mean = counted @ values
    deviation = (counted @ (values - mean).square()).sqrt().clamp(min=1e-12)
    values = (values - mean) / deviation
    matrix = values.new_zeros(shares.shape[1], values.shape[1], requires_grad=True)
    bias = values.new_zeros(shares.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [matrix, bias],
        max_iter=steps,
        history_size=20,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )
    evaluations = 0

    def loss() -> Tensor:
        nonlocal evaluations
        progress("fitting the probe", min(evaluations, steps), steps)
        evaluations += 1
        optimizer.zero_grad()
        scores = torch.log_softmax(values @ matrix.T + bias, dim=1)
        value = -(counted @ (scores * shares).sum(1)) + 0.5 * strength * matrix.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    scaled = matrix.detach() / deviation
    return LinearProbe(scaled.float(), (bias.detach() - scaled @ mean).float(), strength)
