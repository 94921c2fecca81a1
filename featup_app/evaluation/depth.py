"""Linear-probe depth: the distance of every pixel, predicted from the features of a field.

Targets are readings of a depth camera in metres; pixels without a reading do not count. Scale and shift of depth cannot be
inferred from a single picture, and cameras differ in both, so the score ignores them (Ranftl et al. 2020, "MiDaS"; FeatUp section
4.2 uses its loss). Probes are fitted on depths that are normalised to mean 0 and deviation 1 in each picture. Before a prediction
is scored, it is aligned with the readings of its picture: scale (not negative) and shift come from least squares. The *metric*
protocol omits both steps: it fits metres and scores them directly.

Kinds of probes: ``ridge`` is least squares in closed form with a penalty, whose strength is chosen on left-out folds.
``gradient`` minimises MiDaS's scale- and shift-invariant squared error with half its gradient term over four scales, on the
backbone's grid, by Adam over all training pictures at once with a cosine schedule down to zero; its penalty is also chosen on
left-out folds.

Figures are computed for each picture and averaged over pictures: root mean squared error in metres, the share of pixels with
max(d / p, p / d) > 1.25 for depth d and prediction p, and the mean of |p - d| / d.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from featup_app.base.errors import EvaluationError
from featup_app.base.progress import Progress, silent
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import Item
from featup_app.evaluation.plan import FOLDS
from featup_app.evaluation.probes import LinearProbe, TrainingFolds, fit_ridge_folds, left_out_error
from featup_app.evaluation.segmentation import ProbeSet, in_frame, pixel_samples
from featup_app.evaluation.statistics import Floats
from featup_app.features import FeatureMap, Size
from featup_app.multiview import box_average

if TYPE_CHECKING:
    from featup_app.backbones import Backbone
    from featup_app.fields import FeatureField

FIGURES = ("RMSE (m)", "above 1.25 (%)", "absolute relative error")
THRESHOLD = 1.25

GRADIENT_STEPS = 500
GRADIENT_RATE = 1e-2
GRADIENT_SCALES = 4
GRADIENT_TERM = 0.5
GRADIENT_STRENGTHS = (1e-3, 1e-1, 1.0, 10.0)
"""Strengths of the penalty to choose from. Half of a strength multiplies the squared weights of the standardised channels, for
predictions of deviation 1. (The loss ignores the scale of predictions, so a plain penalty would only shrink the weights.)"""

_NEAREST = 0.01
"""Smallest prediction in metres: ratios need depths greater than zero."""

_SMALLEST_SHARE = 0.25
"""Share of a cell that must have readings: a few pixels at its border do not represent the cell."""


@dataclass(frozen=True)
class DepthFrame:
    """A picture with its depths and its low-resolution features.

    Attributes:
        name: name of the picture.
        features: (C, h, w) and geometry.
        target: (H, W) float32 metres, of the picture's size; 0 where there is no reading.
    """

    name: str
    features: FeatureMap
    target: Tensor


@dataclass(frozen=True)
class DepthScore:
    """Errors of probes against the readings.

    Attributes:
        figures: (N, P, 3) for N pictures and P probes of a set, in the order of :data:`FIGURES`.
    """

    figures: Floats

    @property
    def means(self) -> Floats:
        """(P, 3) means over pictures; the first is the probe of all training pictures."""
        result: Floats = self.figures.mean(0)
        return result

    def bootstrapped(self, *, seed: int) -> Floats:
        """Errors in metres of resampled sets of pictures, the same sets for the same seed and number of pictures."""
        counts = statistics.resample_counts(len(self.figures), seed=seed)
        result: Floats = counts @ self.figures[:, 0, 0] / len(self.figures)
        return result


def load_depth_frame(item: Item, backbone: Backbone, *, size: str | Size | None, layer: str | None) -> DepthFrame:
    """Decode a picture and its depths and run the backbone.

    Raises:
        FeatUpError: if a file is missing or damaged, the depths have another size than the picture, or there is no reading.
    """
    depths, image = torch.from_numpy(item.depths()), item.image()
    item.check_size("depths", tuple(depths.shape), image.size_hw)
    if not bool((depths > 0).any()):
        raise EvaluationError(f'The depths "{item.target_path}" hold no reading; leave out this picture.')
    return DepthFrame(item.name, backbone.extract(image, size=size, layer=layer), depths)


def cell_depths(depths: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Mean reading of each cell of a grid: (h, w) metres (0 without readings) and (h, w) share of its area with readings.

    A cell with readings in less than a quarter of its area counts as without readings.
    """
    valid = (depths > 0).double()
    share = box_average(valid[None], size)[0]
    mean = box_average(depths[None].double(), size)[0] / share.clamp(min=1e-12)
    share = torch.where(share >= _SMALLEST_SHARE, share, 0.0)
    return torch.where(share > 0, mean, 0.0).float(), share.float()


def fit_lowres_depth(
    frames: Iterable[DepthFrame],
    *,
    count: int,
    folds: int = FOLDS,
    seed: int = 0,
    kind: str = "ridge",
    metric: bool = False,
    progress: Progress = silent,
) -> ProbeSet:
    """Fit probes on the backbone's cells, each weighted by the share of its area with readings.

    Args:
        frames: the training pictures, one after the other.
        count: number of training pictures.
        folds: number of folds, at least two.
        seed: seed of the samples of large pictures, and of the initial weights of gradient descent.
        kind: ``ridge`` or ``gradient``.
        metric: whether to fit metres instead of depths with mean 0 and deviation 1; for ridges only.
        progress: called for each frame and step; may cancel.

    Raises:
        EvaluationError: if there are fewer frames than folds, or no readings.
    """
    members = TrainingFolds(count, folds, 1, seed)
    kept: list[tuple[int, Tensor, Tensor, Tensor]] = []
    for index, frame in enumerate(frames):
        progress(f"learning from {frame.name}", index, count)
        target, share = cell_depths(frame.target, frame.features.geometry.grid_hw)
        target = target if metric else normalised(target, share)
        data = frame.features.data.cpu()
        fold = members.of(index, data.shape[0])
        fold.add(data.flatten(1).T.double(), target.flatten()[:, None], share.flatten())
        if kind == "gradient":
            kept.append((members.number(index), data, target, share))
    parts = members.all()
    if kind == "ridge":
        return ProbeSet(tuple(fit_ridge_folds(parts, judge=left_out_error)), 1, "low-res features, ridge")
    probes = fit_gradient_folds(kept, folds, seed=seed, progress=progress)
    return ProbeSet(tuple(probes), 1, "low-res features, gradient descent")


def fit_upsampled_depth(
    factory: Callable[[FeatureMap], FeatureField],
    frames: Iterable[DepthFrame],
    *,
    count: int,
    folds: int = FOLDS,
    seed: int = 0,
    progress: Progress = silent,
) -> ProbeSet:
    """Fit ridges on a method's own features at half the resolution of the depths, on every pixel with a reading.

    Args:
        factory: function from a feature map to the method's field.
        frames, count, folds, seed, progress: as in :func:`fit_lowres_depth`.

    Raises:
        EvaluationError: if there are fewer frames than folds, or no readings.
    """
    members = TrainingFolds(count, folds, 1, seed)
    for index, frame in enumerate(frames):
        size = max(1, frame.target.shape[0] // 2), max(1, frame.target.shape[1] // 2)
        target, share = cell_depths(frame.target, size)
        target, share = normalised(target, share).flatten(), share.flatten()
        field = factory(frame.features)
        fold = members.of(index, field.channels)
        for pixels, samples, part in pixel_samples(field, size, in_frame(progress, frame.name, index, count)):
            fold.add(samples.cpu(), target[pixels, None], share[pixels], part=part)
    return ProbeSet(tuple(fit_ridge_folds(members.all(), judge=left_out_error)), 1, "upsampled features, ridge")


def normalised(depths: Tensor, weights: Tensor) -> Tensor:
    """Depths of one picture, shifted and scaled to weighted mean 0 and deviation 1; zeros if all depths are equal."""
    values, counted = depths.double(), weights.double() / weights.double().sum().clamp(min=1e-12)
    values = values - (counted * values).sum()
    deviation = (counted * values.square()).sum().sqrt()
    return torch.where(weights > 0, values / deviation.clamp(min=1e-6), 0.0).float()


def aligned(predicted: Tensor, depths: Tensor, weights: Tensor) -> Tensor:
    """Predictions, scaled (not negative) and shifted to fit the depths by weighted least squares.

    Args:
        predicted: (..., N).
        depths: (..., N).
        weights: (..., N).

    Returns:
        (..., N); the mean depth throughout where predictions do not increase with the depths.
    """
    counted = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
    centre, middle = (counted * predicted).sum(-1, keepdim=True), (counted * depths).sum(-1, keepdim=True)
    moved = predicted - centre
    variance = (counted * moved.square()).sum(-1, keepdim=True)
    scale = ((counted * moved * (depths - middle)).sum(-1, keepdim=True) / variance.clamp(min=1e-12)).clamp(min=0)
    return scale * moved + middle


def fit_gradient_folds(
    pictures: Sequence[tuple[int, Tensor, Tensor, Tensor]], folds: int, *, seed: int = 0, progress: Progress = silent
) -> list[LinearProbe]:
    """Fit a probe on all pictures, then for each fold a probe on all pictures outside the fold.

    All probes have the same strength of the penalty: the one with the lowest loss of the folds' probes on the pictures of their
    folds; the stronger one of equals.

    Args:
        pictures, seed, progress: as in :func:`fit_by_gradient`.
        folds: number of folds.

    Raises:
        EvaluationError: if the pictures outside a fold have no readings.
    """
    best: tuple[float, float, list[LinearProbe]] | None = None
    for strength in sorted(GRADIENT_STRENGTHS, reverse=True):
        probes = [
            fit_by_gradient(
                [part for part in pictures if part[0] != left_out], strength=strength, seed=seed, progress=progress
            )
            for left_out in range(folds)
        ]
        missed = [
            float(invariant_loss(_predicted(probes[number], data)[None], depths[None], weights[None]))
            for number, data, depths, weights in pictures
            if bool((weights > 0).any())
        ]
        if best is None or sum(missed) < best[0]:
            best = sum(missed), strength, probes
    assert best is not None
    return [fit_by_gradient(pictures, strength=best[1], seed=seed, progress=progress), *best[2]]


def _predicted(probe: LinearProbe, data: Tensor) -> Tensor:
    """(h, w) predictions of a probe for (C, h, w) features."""
    return torch.einsum("c,chw->hw", probe.weights[0], data) + probe.bias[0]


def fit_by_gradient(
    pictures: Sequence[tuple[int, Tensor, Tensor, Tensor]],
    *,
    strength: float = GRADIENT_STRENGTHS[0],
    seed: int = 0,
    steps: int = GRADIENT_STEPS,
    progress: Progress = silent,
) -> LinearProbe:
    """Minimise the scale- and shift-invariant loss of MiDaS over the cells of all pictures at once.

    Args:
        pictures: number of the fold, (C, h, w) features, (h, w) depths and (h, w) weights of each.
        strength: strength of the penalty, see :data:`GRADIENT_STRENGTHS`.
        seed: seed of the initial weights. These must not be zero, because a constant prediction has no scale.
        steps: steps of Adam; the rate falls to zero along a cosine.
        progress: called for each step; may cancel.

    Raises:
        EvaluationError: if no picture has readings.
    """
    pictures = [part for part in pictures if bool((part[3] > 0).any())]
    if not pictures:
        raise EvaluationError("A probe cannot be fitted: no training picture has readings; give more pictures.")
    samples = torch.cat([data.flatten(1).T for _, data, _, _ in pictures]).double()
    mean, deviation = samples.mean(0), samples.std(0).clamp(min=1e-6)
    generator = torch.Generator().manual_seed(seed)
    weights = (0.01 * torch.randn(samples.shape[1], generator=generator)).requires_grad_()
    batches = _same_grids(pictures, mean, deviation)
    optimizer = torch.optim.Adam([weights], lr=GRADIENT_RATE)
    with torch.enable_grad():
        for step in range(steps):
            progress("fitting the probe", step, steps)
            for group in optimizer.param_groups:
                group["lr"] = GRADIENT_RATE * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            losses, variances = [], []
            for data, targets, shares in batches:
                predicted = torch.einsum("c,nchw->nhw", weights, data)
                losses.append(invariant_loss(predicted, targets, shares))
                variances.append(_variances(predicted, shares))
            penalty = weights.square().sum() / torch.cat(variances).mean().clamp(min=1e-12)
            loss = torch.cat(losses).mean() + 0.5 * strength * penalty
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    scaled = weights.detach().double() / deviation
    return LinearProbe(scaled.float()[None], (-(scaled @ mean)).float()[None], strength)


def _variances(predicted: Tensor, weights: Tensor) -> Tensor:
    """(N) weighted variance of the predictions in each picture; predictions and weights are (N, h, w)."""
    counted = weights / weights.sum((1, 2), keepdim=True)
    centre = (counted * predicted).sum((1, 2), keepdim=True)
    return (counted * (predicted - centre).square()).sum((1, 2))


def _same_grids(
    pictures: Sequence[tuple[int, Tensor, Tensor, Tensor]], mean: Tensor, deviation: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Standardised features (N, C, h, w), depths (N, h, w) and weights (N, h, w), for each size of grids."""
    groups: dict[Size, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for _, data, target, share in pictures:
        standard = (data - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1)
        groups.setdefault((data.shape[1], data.shape[2]), []).append((standard.float(), target, share))
    return [
        (torch.stack(data), torch.stack(targets), torch.stack(shares))
        for data, targets, shares in (zip(*group, strict=True) for group in groups.values())
    ]


def invariant_loss(predicted: Tensor, depths: Tensor, weights: Tensor) -> Tensor:
    """(N) MiDaS's loss of each picture: half the squared error after alignment, plus half the gradient term over four scales.

    Args:
        predicted: (N, h, w).
        depths: (N, h, w), of mean 0 and deviation 1.
        weights: (N, h, w), zero where there is no reading.
    """
    fitted = aligned(predicted.flatten(1), depths.flatten(1), weights.flatten(1)).view_as(predicted)
    missed = fitted - depths
    loss = 0.5 * (weights * missed.square()).sum((1, 2)) / weights.sum((1, 2))
    for scale in range(GRADIENT_SCALES):
        step = 2**scale
        coarse, there = missed[:, ::step, ::step], weights[:, ::step, ::step]
        jumps = (torch.minimum(there[:, 1:], there[:, :-1]) * (coarse[:, 1:] - coarse[:, :-1]).abs()).sum((1, 2))
        sideways = torch.minimum(there[:, :, 1:], there[:, :, :-1]) * (coarse[:, :, 1:] - coarse[:, :, :-1]).abs()
        loss = loss + GRADIENT_TERM * (jumps + sideways.sum((1, 2))) / there.sum((1, 2)).clamp(min=1e-6)
    return loss


def depth_figures(
    field: FeatureField,
    probes: ProbeSet,
    depths: Tensor,
    *,
    metric: bool = False,
    progress: Progress = silent,
) -> Floats:
    """(P, 3) figures of one picture for each probe, at the size of its depths.

    Args:
        field: field of the picture.
        probes: P probes.
        depths: (H, W) metres, 0 where there is no reading.
        metric: whether predictions are metres; else they are first aligned with the picture's readings.
        progress: called within the field; may cancel.
    """
    size = int(depths.shape[0]), int(depths.shape[1])
    matrix = torch.cat([probe.weights for probe in probes.probes])
    bias = torch.cat([probe.bias for probe in probes.probes])
    scores = field.project(matrix, bias, size=size, progress=progress).cpu()
    valid = depths > 0
    truth, predicted = depths[valid].double(), scores[:, valid].double()
    if not metric:
        predicted = aligned(predicted, truth, torch.ones_like(truth))
    predicted = predicted.clamp(min=_NEAREST)
    missed = predicted - truth
    ratio = torch.maximum(predicted / truth, truth / predicted)
    columns = (
        missed.square().mean(1).sqrt(),
        100 * (ratio > THRESHOLD).double().mean(1),
        (missed.abs() / truth).mean(1),
    )
    result: Floats = np.stack([column.numpy() for column in columns], axis=1)
    return result
