"""Linear probes: one functional of the features for each class, fitted in closed form or by maximum likelihood.

Both fits are convex, start at the same point and run in float64, so that the same data give the same digits. A probe is linear,
so it can be applied to a field of any size by ``field.project(probe.weights, probe.bias, size=...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featup_app.base.errors import EvaluationError
from featup_app.base.progress import Progress, silent
from featup_app.evaluation.statistics import mean_iou

STRENGTHS = tuple(10.0**exponent for exponent in range(-6, 2))
"""Ridge strengths to choose from, relative to the mean variance of a channel."""

KEPT_SAMPLES = 100_000
"""Number of samples of all training pictures that are kept, to choose the strength of ridges and to fit logistic probes."""

KEPT_PER_PICTURE = 50
"""Smallest number of samples that are kept of a picture."""

LOGISTIC_STRENGTH = 1e-3
LOGISTIC_STEPS = 150


@dataclass(frozen=True)
class LinearProbe:
    """Scores of K classes from C channels.

    Attributes:
        weights: (K, C) float32.
        bias: (K) float32.
        strength: strength of the penalty of its fit.
    """

    weights: Tensor
    bias: Tensor
    strength: float


class Moments:
    """Sums for a least-squares fit, so that samples need not be kept. The sums of several pictures can be added.

    Args:
        channels: number C of channels of the features.
        classes: number K of classes of the targets.
    """

    def __init__(self, channels: int, classes: int) -> None:
        self.samples = 0.0
        self.features = torch.zeros(channels, dtype=torch.float64)
        self.targets = torch.zeros(classes, dtype=torch.float64)
        self.features_features = torch.zeros(channels, channels, dtype=torch.float64)
        self.features_targets = torch.zeros(channels, classes, dtype=torch.float64)

    def add(self, features: Tensor, targets: Tensor, weights: Tensor) -> None:
        """Add samples.

        Args:
            features: (N, C). Products are computed in their dtype and summed over calls in float64.
            targets: (N, K).
            weights: (N) weight of each sample.
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
        ValueError: if the moments have no sample.
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
    """One part of the training pictures: their moments, and some of their samples, which serve to choose strengths.

    Args:
        channels, classes: C and K.
        kept: samples to keep of each picture; of more samples, a random choice.
        generator: random generator of this choice.
    """

    def __init__(self, channels: int, classes: int, *, kept: int, generator: torch.Generator) -> None:
        self.moments = Moments(channels, classes)
        self._kept = kept
        self._generator = generator
        self._samples: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, features: Tensor, targets: Tensor, weights: Tensor, *, part: float = 1.0) -> None:
        """Add samples of a picture.

        Args:
            features: (N, C).
            targets: (N, K) shares of the classes.
            weights: (N), zero for samples without a label.
            part: N as a share of all samples of the picture.
        """
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
        """(K, K) float64 weight of the kept samples by class (in shares) and by predicted class."""
        features, targets, weights = self.samples()
        chosen = (features @ probe.weights.T + probe.bias).argmax(1)
        counted = (targets * weights[:, None]).double()
        return counted.new_zeros(targets.shape[1], targets.shape[1]).index_add_(1, chosen, counted.T)

    def squared_error(self, probe: LinearProbe) -> Tensor:
        """() float64: weighted squared error of the kept samples."""
        features, targets, weights = self.samples()
        missed = (features @ probe.weights.T + probe.bias - targets).double().square().sum(1)
        return weights.double() @ missed


class TrainingFolds:
    """The folds of the training pictures: runs of neighbours of equal length, because frames of a film resemble their neighbours.

    Args:
        count: number of training pictures.
        folds: number of folds, at least two.
        classes: number K of classes of the targets.
        seed: seed of the choice of kept samples.

    Raises:
        EvaluationError: if there are fewer pictures than folds.
    """

    def __init__(self, count: int, folds: int, classes: int, seed: int) -> None:
        if not 2 <= folds <= count:
            raise EvaluationError(
                f"{count} training pictures cannot be parted into {folds} folds; at least two folds with a picture each "
                "are needed."
            )
        self._count, self._folds, self._classes = count, folds, classes
        self._generator = torch.Generator().manual_seed(seed)
        self._members: dict[int, Fold] = {}

    def of(self, index: int, channels: int) -> Fold:
        """The fold of the picture with this index."""
        number = self.number(index)
        if number not in self._members:
            kept = max(KEPT_PER_PICTURE, KEPT_SAMPLES // self._count)
            self._members[number] = Fold(channels, self._classes, kept=kept, generator=self._generator)
        return self._members[number]

    def number(self, index: int) -> int:
        """Number of the fold of the picture with this index."""
        return index * self._folds // self._count

    def all(self) -> list[Fold]:
        """Every fold. Raises EvaluationError if one has no labelled pixel."""
        if len(self._members) < self._folds or any(fold.empty for fold in self._members.values()):
            raise EvaluationError(
                "A probe cannot be fitted: a fold of the training pictures has no usable picture with labelled pixels; "
                "give more pictures, or fewer folds."
            )
        return list(self._members.values())


Judge = Callable[[Sequence[tuple["Fold", LinearProbe]]], float]
"""A function from folds, each with a probe fitted without it, to a score; higher is better."""


def left_out_iou(pairs: Sequence[tuple[Fold, LinearProbe]]) -> float:
    """Mean intersection over union of all folds together."""
    return float(mean_iou(torch.stack([fold.confusion(probe) for fold, probe in pairs]).sum(0).numpy()))


def left_out_error(pairs: Sequence[tuple[Fold, LinearProbe]]) -> float:
    """Squared error of all folds together, with a minus sign."""
    return -float(torch.stack([fold.squared_error(probe) for fold, probe in pairs]).sum())


def fit_ridge_folds(
    folds: Sequence[Fold], strengths: Sequence[float] = STRENGTHS, *, judge: Judge = left_out_iou
) -> list[LinearProbe]:
    """Fit a probe on all samples, then for each fold a probe on all samples outside the fold.

    All probes have the same strength: the one whose probes score best on the kept samples of the folds that they were fitted
    without. For classes the score is mean intersection over union. (The squared error that a ridge minimises prefers stronger
    penalties, with which rare classes are never predicted.)

    Args:
        folds: at least two, none of them empty.
        strengths: the strengths to choose from.
        judge: the score.
    """
    others = [_sum([fold.moments for fold in folds if fold is not left_out]) for left_out in folds]

    def score(strength: float) -> float:
        return judge([(fold, fit_ridge(other, strength)) for fold, other in zip(folds, others, strict=True)])

    best = max(sorted(strengths, reverse=True), key=score)
    return [fit_ridge(moments, best) for moments in [_sum([fold.moments for fold in folds]), *others]]


def fit_logistic_folds(folds: Sequence[Fold], *, progress: Progress = silent) -> list[LinearProbe]:
    """As :func:`fit_ridge_folds`, but by cross-entropy on the kept samples and with a fixed strength."""
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
        weights: (N) weight of each sample.
        strength: half of it multiplies the squared weights of the standardised channels.
        steps: greatest number of iterations.
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
