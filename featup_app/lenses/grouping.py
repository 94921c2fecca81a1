"""What a click asks: features seen from the mean of the picture, whitened, grouped with what is like them, less what is common.

Four steps on the coarse map of one picture prepare it, and one product answers each click:

1. Centring and whitening: the leading principal components, each divided by the square root of its singular value, so that the
   first few do not decide alone.
2. Grouping: every cell moves to the mean of the cells near it that are like it, several times (mean shift: Comaniciu and Meer,
   "Mean Shift: A Robust Approach Toward Feature Space Analysis", 2002), with a Gaussian of the distance between cells.
3. Commonness: the mean cosine of a cell with the part of the picture that is most like it. What is like much of the picture is
   like any query; it is subtracted, as in cross-domain similarity local scaling (Conneau et al., "Word Translation Without
   Parallel Data", 2018).
4. The field carries both to the output with its own weights.

Grouping belongs to the question, so that the features themselves, class maps and exports stay as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.features import Point, Region, Size
from featup_app.fields.attention import AttentionField
from featup_app.fields.field import FeatureField, LinearField
from featup_app.lenses.principal_components import fit_pca

COMPONENTS = 48
TEMPERATURES = (0.15, 0.1, 0.1)
"""Of the cosines in the weights of each round of grouping."""

NEAR = 5.0
"""Deviation of the Gaussian of distance between cells that are grouped, in cells."""

COMMON_SHARE = 0.13
"""Part of the cells that a cell's commonness is the mean over: those most like it."""

COMMONNESS = 0.8
"""How much of the commonness is subtracted."""

_BLOCK_VALUES = 2**22
_KEPT_BYTES = 2**28
_KEPT_QUESTIONS = 2
_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class _Cells:
    """The coarse map as a click sees it: (K, h, w) grouped components, and (1, h, w) their commonness.

    ``matrix`` (K, C) and ``offset`` (K) make components of features, and ``shift`` is what grouping adds to those of the cells.
    ``rounds`` are the components (K, N) that each round of grouping began with; none where nothing is grouped. ``carrier`` brings
    maps to the output where the field cannot; it keeps the colours of the picture for the next part.
    """

    components: Tensor
    commonness: Tensor
    shift: Tensor
    matrix: Tensor
    offset: Tensor
    rounds: tuple[Tensor, ...]
    carrier: AttentionField


@dataclass(frozen=True, eq=False)
class Prepared:
    """A field prepared for clicks at one output size and grouping."""

    field: FeatureField
    cells: _Cells
    size: Size
    kept: tuple[Tensor, Tensor] | None
    """Unit components (K, H, W) and commonness (H, W), where they are small enough to keep."""

    def part(self, region: Region, progress: Progress = silent) -> tuple[Tensor, Tensor]:
        """Unit components (K, rows, columns) and commonness (rows, columns) of a region."""
        if self.kept is not None:
            units, common = self.kept
            return units[:, region.rows, region.columns], common[region.rows, region.columns]
        return _drawn(self.field, self.cells, self.size, region, progress)

    def similarity(self, point: Point, progress: Progress = silent) -> Tensor:
        """(H, W): cosine to the pixel under the point, less the commonness beyond that pixel's; 1 at the pixel itself."""
        height, width = self.size
        row, column = self.field.geometry.pixel_of(point, self.size)
        units, common = self.part(Region(row, column, 1, 1), progress)
        query, own = units[:, 0, 0], common[0, 0]
        result = units.new_empty(self.size)
        rows = height if self.kept is not None else max(1, _KEPT_BYTES // (4 * len(query) * width * 4))
        for region in Region.split(self.size, rows, width):
            units, common = self.part(region, progress)
            cosines = torch.einsum("k,khw->hw", query, units)
            result[region.rows, region.columns] = cosines - COMMONNESS * (common - own)
        return result.clamp_(-1, 1)

    def group(self, point: Point, progress: Progress = silent) -> Tensor | None:
        """(H, W): the weights of the mean that the cell under a point moved to, over all rounds; the largest cell has 1.

        They do not depend on how far the cell moved there. None where nothing is grouped.
        """
        rounds, geometry = self.cells.rounds, self.field.geometry
        if not rounds:
            return None
        rows, columns = geometry.grid_hw
        column, row = geometry.image_to_cell(*point)
        own = min(max(int(row), 0), rows - 1) * columns + min(max(int(column), 0), columns - 1)
        places = _places((rows, columns), rounds[-1])
        weights = _shares(F.normalize(rounds[-1], dim=0), places, TEMPERATURES[-1], slice(own, own + 1))
        for number in reversed(range(len(rounds) - 1)):
            progress("finding the group", len(rounds) - 1 - number, len(rounds))
            units, later = F.normalize(rounds[number], dim=0), weights
            weights = torch.zeros_like(later)
            for chosen in _blocks(later.shape[1]):
                weights += later[:, chosen] @ _shares(units, places, TEMPERATURES[number], chosen)
        carrier = self.field if isinstance(self.field, LinearField) else self.cells.carrier
        return carrier.carry((weights / weights.max()).view(1, rows, columns), size=self.size, progress=progress)[0]


_Kept = tuple[_Cells, tuple[Tensor, Tensor] | None]

_known: WeakKeyDictionary[FeatureField, OrderedDict[tuple[Size, float], _Kept]] = WeakKeyDictionary()
"""What was prepared for a field; values must not refer to the field, or it would never be freed."""


def prepare(field: FeatureField, *, size: Size, grouping: float, progress: Progress = silent) -> Prepared | None:
    """The field prepared for clicks; made once for a size and grouping, and kept with the field.

    Args:
        field: of the features.
        size: (H, W) of the output.
        grouping: from 0, the cells as they are, to 1, each moved to the mean of its group.
        progress: may cancel.

    Returns:
        None if the features do not vary over the picture: then there is nothing to centre on.
    """
    known = _known.setdefault(field, OrderedDict())
    key = size, grouping
    if key not in known:
        cells = _cells(field, grouping, progress)
        if cells is None:
            return None
        kept = None
        if 4 * (len(cells.components) + 1) * size[0] * size[1] <= _KEPT_BYTES:
            kept = _drawn(field, cells, size, Region.whole(size), progress)
        known[key] = cells, kept
        while len(known) > _KEPT_QUESTIONS:
            known.popitem(last=False)
    known.move_to_end(key)
    cells, kept = known[key]
    return Prepared(field, cells, size, kept)


def _cells(field: FeatureField, grouping: float, progress: Progress) -> _Cells | None:
    features = field.coarse
    basis = fit_pca(features, components=COMPONENTS, progress=progress)
    varying = basis.varying()
    if not varying:
        return None
    shares = torch.tensor([basis.explained[index] for index in varying]).to(features.data)
    # Singular values go as the root of the variance; whitening divides by their root.
    matrix = basis.components[varying] / shares[:, None] ** 0.25
    offset = -(matrix @ basis.mean)
    plain = matrix @ features.data.flatten(1) + offset[:, None]
    grid = features.geometry.grid_hw
    grouped, rounds = plain, tuple[Tensor, ...]()
    if grouping > 0:
        mean, rounds = _grouped(plain, grid, progress)
        grouped = torch.lerp(plain, mean, grouping)
    return _Cells(
        components=grouped.view(-1, *grid),
        commonness=_commonness(grouped).view(1, *grid),
        shift=(grouped - plain).view(-1, *grid),
        matrix=matrix,
        offset=offset,
        rounds=rounds,
        carrier=AttentionField(features, features.image),
    )


def _grouped(cells: Tensor, grid: Size, progress: Progress) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(K, N) -> (K, N), each cell moved to the mean of its group; and the (K, N) that each round began with."""
    places, rounds = _places(grid, cells), []
    for number, temperature in enumerate(TEMPERATURES):
        progress("grouping", number, len(TEMPERATURES))
        rounds.append(cells)
        units = F.normalize(cells, dim=0)
        parts = [cells @ _shares(units, places, temperature, chosen).T for chosen in _blocks(cells.shape[1])]
        cells = torch.cat(parts, 1)
    return cells, tuple(rounds)


def _places(grid: Size, like: Tensor) -> Tensor:
    """(N, 2): row and column of each cell."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.stack([rows.flatten(), columns.flatten()], 1).to(like)


def _shares(units: Tensor, places: Tensor, temperature: float, chosen: slice) -> Tensor:
    """(n, N): the weights of all cells in the means that the chosen ones move to, of their directions (K, N)."""
    logits = (units[:, chosen].T @ units) / temperature
    logits -= torch.cdist(places[chosen], places).square_() / (2 * NEAR**2)
    return logits.softmax(1)


def _commonness(cells: Tensor) -> Tensor:
    """(K, N) -> (N): the mean cosine of each cell with the cells most like it."""
    units = F.normalize(cells, dim=0)
    nearest = max(1, round(COMMON_SHARE * cells.shape[1]))
    means = [(units[:, chosen].T @ units).topk(nearest, 1).values.mean(1) for chosen in _blocks(cells.shape[1])]
    return torch.cat(means)


def _blocks(count: int) -> list[slice]:
    step = max(1, _BLOCK_VALUES // count)
    return [slice(start, start + step) for start in range(0, count, step)]


def _drawn(field: FeatureField, cells: _Cells, size: Size, region: Region, progress: Progress) -> tuple[Tensor, Tensor]:
    """Unit components and commonness of a region, as the field carries them from its cells."""
    if isinstance(field, LinearField):
        both = field.carry(torch.cat([cells.components, cells.commonness]), size=size, region=region, progress=progress)
        return F.normalize(both[:-1], dim=0, eps=_SMALLEST), both[-1]
    # Any other field draws the components itself, and attention carries what grouping adds to them.
    components = field.project(cells.matrix, cells.offset, size=size, region=region, progress=progress)
    both = torch.cat([cells.shift, cells.commonness])
    added = cells.carrier.carry(both, size=size, region=region, progress=progress)
    return F.normalize(components + added[:-1], dim=0, eps=_SMALLEST), added[-1]
