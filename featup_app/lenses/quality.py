"""Label-free scores of an upsampled field: how true it stays to the backbone, and how well it follows the image.

No ground truth is needed, so any photo can be scored. Everything is measured on the leading principal components of the
low-resolution features (Fu, Hamilton et al., ICLR 2024, judge by such pictures), which a field draws at the cost of those
channels alone; what varies outside of them is not seen, and ``explained`` says how much of the variance they hold.

The scores answer different questions and must be read together: a blurred field preserves perfectly and misses every edge, a
field that copies the image's texture finds every edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.base.progress import Progress, part_of, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.field import FeatureField, output_positions
from featup_app.images import resized
from featup_app.lenses.artefacts import ArtefactReference, Artefacts, artefact_reference
from featup_app.lenses.principal_components import fit_pca
from featup_app.multiview import box_average
from featup_app.ops.resampling import bilinear, nearest

COMPONENTS = 32
"""Leading components that are scored."""

LARGEST_FACTOR = 16
PIXELS = 512 * 512
"""Fields are drawn at the largest whole multiple of their grid, up to 16 times, that has no more pixels than this."""

EDGE_SHARE = 0.1
"""The strongest tenth of the image's gradients are its edges, the weaker half is not; what is between is left out."""

FLAT_SHARE = 0.5
HALO_TOLERANCE = 0.05
"""Overshoot that counts, in standard deviations of its component: about three of the 255 levels of a PCA picture."""

_BLUR = 1.0
_BLOCK = 8


@dataclass(frozen=True)
class QualityScores:
    """What one field scores on one image; NaN where a score is not defined (a flat image, features without variation).

    Attributes:
        edge_alignment: area under the ROC curve (Hanley and McNeil 1982) of the field's gradient magnitude as a detector of
            the image's edges, among the pixels where the coarse features change more than in the median cell. 0 .. 1, higher
            is better, 0.5 is chance: nearest cells change at cell borders, wherever the image does.
        preservation_error: the field averaged over each cell's area against the coarse map: squared difference divided by the
            coarse map's variance over positions. 0 and up, lower is better, 1 is as wrong as the mean feature.
        preservation_cosine: mean over cells of the cosine between the two, seen from the mean feature (raw cosines are all
            near 1, since features share a large mean). -1 .. 1, higher is better.
        halo_share: part of all (pixel, component) values that lie outside of the range of the 3 x 3 coarse cells around them
            by more than :data:`HALO_TOLERANCE` deviations. 0 .. 1, lower is better; convex combinations of neighbours have
            none. Zero is not the ideal for details smaller than a cell, whose features no cell has.
        halo_size: root of the mean squared overshoot, in standard deviations of the coarse map. 0 and up, lower is better.
        haze: what leaks over edges of the photo. At the crest of each edge where the coarse features change, the field is read on
            both sides a quarter of a cell off the edge and a cell off it. The difference of the two, along the difference between
            the coarse cells one cell off on both sides, is what has leaked from the other side; negative parts count as zero. The
            score is its sum as a share of the squared differences between the cells. Sides on which the colour changes between
            the two pixels are left out. 0 and up, lower is better: 0 for a field that switches at the edge, 0.25 for a ramp from
            centre to centre of two cells whose border is the edge.
        mottling: in cells where the coarse features change less than in the median cell, and so does the photo: the root of the
            field's variance within cells beyond that of the bilinear interpolation, in deviations of the coarse map. Cells with
            less variance count as zero. 0 and up, lower is better; 0 for bilinear interpolation and for nearest cells.
        lettering: in the other cells where the coarse features change less than in the median cell: the part of the field's
            difference to the bilinear interpolation that the photo's luminance explains by linear regression in each cell, after
            the planes through both have been removed, less what the same luminance turned by a right angle explains, which is
            chance; in deviations of the coarse map. 0 and up, lower is better: the neighbouring cells agree, so letters and grain
            of the photo should not stand in the features.
        explained: share of the variance that the scored components hold, 0 .. 1.
    """

    edge_alignment: float
    preservation_error: float
    preservation_cosine: float
    halo_share: float
    halo_size: float
    haze: float
    mottling: float
    lettering: float
    explained: float


@dataclass(frozen=True, eq=False)
class QualityReference:
    """What fields of one image are compared with; made once and shared by all methods.

    Attributes:
        features: the coarse map, in the space of the fields.
        components: (K, C) orthonormal rows.
        offset: (K), minus the mean feature's components.
        size: (H, W) at which fields are drawn, a whole multiple of the grid.
        edges, flats: (H, W) masks of the image's edges and of what is none, among the pixels where coarse features change.
        artefacts: where haze, mottling and lettering are looked for.
        explained: share of the variance that the components hold.
    """

    features: FeatureMap
    components: Tensor
    offset: Tensor
    size: Size
    edges: Tensor
    flats: Tensor
    artefacts: ArtefactReference
    explained: float


def quality_reference(
    features: FeatureMap, *, components: int = COMPONENTS, pixels: int = PIXELS, progress: Progress = silent
) -> QualityReference:
    """Prepare the comparison for an image.

    Args:
        features: the coarse map, in the space of the fields that will be scored (of fields behind a channel norm, the
            normalised map).
        components: how many leading components are scored; fewer if fewer vary.
        pixels: about how many pixels fields are drawn at.
        progress: may cancel.
    """
    rows, columns = features.geometry.grid_hw
    factor = max(1, min(LARGEST_FACTOR, math.isqrt(pixels // (rows * columns))))
    size = rows * factor, columns * factor
    basis = fit_pca(features, components=components, progress=progress)
    # Features without variation have no components; their scores are not defined.
    matrix = basis.components[basis.varying()]
    offset = -(matrix @ basis.mean)
    progress("looking for edges in the image", 0, 1)
    values = (matrix @ features.data.flatten(1)).view(-1, rows, columns)
    smooth = bilinear(values, *output_positions(size, Region.whole(size), features.geometry))
    change = F.avg_pool2d(_gradient(smooth)[None], factor)[0]
    changing = (change >= change.flatten().median()).repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    colours = _colours(features, size)
    gradient = _gradient(colours)
    edges, flats = _edges(gradient, changing)
    artefacts = artefact_reference(colours, gradient, edges, change)
    return QualityReference(features, matrix, offset, size, edges, flats, artefacts, sum(basis.explained))


def quality_scores(field: FeatureField, reference: QualityReference, *, progress: Progress = silent) -> QualityScores:
    """Score a field of the image of a reference.

    Args:
        field: of the same features.
        reference: from :func:`quality_reference`.
        progress: called for each block of components; may cancel.

    Raises:
        ValueError: if the field has other channels than the reference.
    """
    count, size = reference.components.shape[0], reference.size
    if field.channels != reference.features.channels:
        raise ValueError(f"the field has {field.channels} channels, the reference {reference.features.channels}")
    geometry = reference.features.geometry
    data = reference.features.data.flatten(1)
    rows, columns = output_positions(size, Region.whole(size), geometry)
    energy = data.new_zeros(size)
    averaged, expected = [], []
    outside, overshoot, artefacts = 0, 0.0, Artefacts(reference.artefacts)
    for start in range(0, count, _BLOCK):
        progress("scoring the field", start, count)
        chosen = slice(start, start + _BLOCK)
        matrix, offset = reference.components[chosen], reference.offset[chosen]
        drawn = field.project(
            matrix, offset, size=size, progress=part_of(progress, start, count, words="scoring the field")
        )
        coarse = (matrix @ data + offset[:, None]).view(-1, *geometry.grid_hw)
        energy += _squared_gradient(drawn)
        averaged.append(box_average(drawn, geometry.grid_hw))
        cells = nearest(coarse, rows, columns)
        expected.append(box_average(cells, geometry.grid_hw))
        artefacts.add(drawn, cells, bilinear(coarse, rows, columns))
        highest = nearest(F.max_pool2d(coarse, 3, stride=1, padding=1), rows, columns)
        lowest = nearest(-F.max_pool2d(-coarse, 3, stride=1, padding=1), rows, columns)
        beyond = torch.maximum(drawn - highest, lowest - drawn).clamp_(min=0)
        deviation = coarse.flatten(1).std(1, correction=0)
        outside += int((beyond > HALO_TOLERANCE * deviation[:, None, None]).sum())
        overshoot += float(beyond.double().square().sum())
    progress("scoring the field", count, count)
    return _scores(reference, energy, averaged, expected, outside, overshoot, artefacts)


def _scores(
    reference: QualityReference,
    energy: Tensor,
    averaged: list[Tensor],
    expected: list[Tensor],
    outside: int,
    overshoot: float,
    artefacts: Artefacts,
) -> QualityScores:
    if not averaged:
        return QualityScores(*(math.nan,) * 8, 0.0)
    found, truth = torch.cat(averaged).double().flatten(1), torch.cat(expected).double().flatten(1)
    variance = float(truth.square().sum())  # the components' mean over positions is zero
    pixels = reference.size[0] * reference.size[1]
    return QualityScores(
        edge_alignment=detection_area(energy[reference.edges], energy[reference.flats]),
        preservation_error=float((found - truth).square().sum()) / variance,
        preservation_cosine=float(F.cosine_similarity(found, truth, dim=0).mean()),
        halo_share=outside / (len(truth) * pixels),
        halo_size=math.sqrt(overshoot / pixels / (variance / truth.shape[1])),
        haze=artefacts.haze(),
        mottling=artefacts.mottling(variance / truth.shape[1]),
        lettering=artefacts.lettering(variance / truth.shape[1]),
        explained=reference.explained,
    )


def detection_area(positives: Tensor, negatives: Tensor) -> float:
    """Area under the ROC curve: how often a positive's value exceeds a negative's, ties counting half.

    Args:
        positives, negatives: (N), (M) values.

    Returns:
        0 .. 1; NaN if one of them is empty.
    """
    if not len(positives) or not len(negatives):
        return math.nan
    _, places, counts = torch.unique(torch.cat([positives, negatives]), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[places]
    count = len(positives)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / (count * len(negatives)))


def _colours(features: FeatureMap, size: Size) -> Tensor:
    """(3, H, W) of the image, 0 .. 1, a little blurred."""
    pixels = np.array(resized(features.image.pixels, size))
    return _blurred(torch.from_numpy(pixels).to(features.data.device).permute(2, 0, 1).float() / 255)


def _edges(gradient: Tensor, changing: Tensor) -> tuple[Tensor, Tensor]:
    """Two (H, W) masks, inside of ``changing``: the image's strongest gradients, and the weaker half of them."""
    inside = gradient[changing].sort().values
    high = inside[int((1 - EDGE_SHARE) * (len(inside) - 1))]
    low = inside[int(FLAT_SHARE * (len(inside) - 1))]
    if not high > low:
        return torch.zeros_like(changing), torch.zeros_like(changing)
    return changing & (gradient >= high), changing & (gradient <= low)


def _blurred(values: Tensor) -> Tensor:
    """(C, H, W), Gaussian of one pixel: single noisy pixels are no edges."""
    radius = math.ceil(3 * _BLUR)
    taps = torch.exp(-torch.arange(-radius, radius + 1, device=values.device).float().square() / (2 * _BLUR**2))
    taps = taps / taps.sum()
    padded = F.pad(values[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, taps[None, None, :, None]), taps[None, None, None])[:, 0]


def _gradient(values: Tensor) -> Tensor:
    """(C, H, W) -> (H, W): length of the gradient over all channels."""
    return _squared_gradient(values).sqrt()


def _squared_gradient(values: Tensor) -> Tensor:
    if not len(values):
        return values.new_zeros(values.shape[1:])
    padded = F.pad(values[None], (1, 1, 1, 1), mode="replicate")[0]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return across.square_().add_(down.square_()).sum(0) / 4
