"""What a click asks: features seen from the mean of the picture, whitened, grouped with what is like them, less what is common.

Four steps on the coarse map of one picture prepare it, and two products answer each click:

1. Centring and whitening: the leading principal components, each divided by the square root of its singular value, so that the
   first few do not decide alone.
2. Grouping: every cell moves to the mean of the cells near it that are like it, several times (mean shift: Comaniciu and Meer,
   "Mean Shift: A Robust Approach Toward Feature Space Analysis", 2002), with a Gaussian of the distance between cells.
3. Commonness: the mean cosine of a cell with the part of the picture that is most like it. What is like much of the picture is
   like any query; it is subtracted, as in cross-domain similarity local scaling (Conneau et al., "Word Translation Without
   Parallel Data", 2018).
4. The field carries both to the output with its own weights.
5. What is almost the same as the pixel before grouping comes first: grouping swallows what is smaller than a few cells, and this
   gives it back without changing the order of the rest.

Grouping belongs to the question, so that the features themselves, class maps and exports stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.features import Point, Region, Size
from featup_app.fields.attention import AttentionField
from featup_app.fields.field import DEFAULT_TILE_BUDGET, FeatureField, LinearField, times
from featup_app.lenses.answers import Asked, Maps, mean_of
from featup_app.lenses.principal_components import fit_pca
from featup_app.lenses.queries import Combine, Query, QueryVectors
from featup_app.lenses.remembering import Remember, remembered
from featup_app.marks import covered_pixels

COMPONENTS = 48
MAPS = 2 * COMPONENTS + 1
"""Maps of the output that answer a click, at most: components after and before grouping, and commonness."""

TEMPERATURES = (0.15, 0.1, 0.1)
"""Of the cosines in the weights of each round of grouping."""

NEAR = 5.0
"""Deviation of the Gaussian of distance between cells that are grouped, in cells."""

COMMON_SHARE = 0.13
"""Part of the cells that a cell's commonness is the mean over: those most like it."""

FOREIGN = 0.5
"""Part of the way that a query from another picture is moved to the mean of the cells that are like it, at full grouping."""

KEPT_BYTES = 2**29
"""Maps for the next clicks that are kept, at most, for one field, size and grouping."""

_BLOCK_VALUES = 2**22
_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class _Cells:
    """The coarse map as a click sees it: (K, h, w) grouped components, and (1, h, w) their commonness.

    ``matrix`` (K, C) and ``offset`` (K) make components of features, and ``shift`` is what grouping adds to those of the cells.
    ``rounds`` are the components (K, N) that each round of grouping began with; none where nothing is grouped, with a
    ``grouping`` of 0. ``carrier`` brings maps to the output where the field cannot; it keeps the colours of the picture for the
    next part.
    """

    components: Tensor
    commonness: Tensor
    shift: Tensor
    matrix: Tensor
    offset: Tensor
    rounds: tuple[Tensor, ...]
    grouping: float
    carrier: AttentionField

    @property
    def channels(self) -> int:
        """How many maps of the output answer a click."""
        return (2 if self.rounds else 1) * len(self.components) + 1

    def asked_with(self, vectors: QueryVectors) -> Maps:
        """A query that was made on another picture, as this one sees its features.

        After grouping it is moved towards the mean of the cells here that are like it, one round without distances: what is asked
        of a large collection in the same way is query expansion (Chum et al., "Total Recall", 2007).
        """
        cell, group = (self.matrix.new_tensor(each) for each in (vectors.cell, vectors.group))
        plain, grouped = (
            F.normalize(self.matrix @ each + self.offset, dim=0, eps=_SMALLEST)
            for each in (cell, torch.lerp(cell, group, self.grouping))
        )
        cells = self.components.flatten(1)
        shares = (F.normalize(cells, dim=0).T @ grouped / TEMPERATURES[-1]).softmax(0)
        here = F.normalize(cells @ shares, dim=0, eps=_SMALLEST)
        grouped = F.normalize(torch.lerp(grouped, here, FOREIGN * self.grouping), dim=0, eps=_SMALLEST)
        return Maps(grouped[None], plain[None], self.matrix.new_tensor([vectors.commonness]))

    def lengths(self, features: Tensor) -> Tensor:
        """(C, rows, columns) -> (rows, columns): the lengths of the components of features."""
        components = times(self.matrix, features) + self.offset[:, None, None]
        return torch.linalg.vector_norm(components, dim=0)  # type: ignore[no-any-return]

    def group_means(self, values: Tensor) -> Tensor:
        """(C, h, w) -> the same: the mean of values over the group of each cell, over all rounds."""
        means, places = values.flatten(1), _places((values.shape[1], values.shape[2]), values)
        for components, temperature in zip(self.rounds, TEMPERATURES, strict=bool(self.rounds)):
            means = _moved(means, components, places, temperature)
        return means.view_as(values)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A field prepared for clicks at one output size and grouping; ``kept`` are the maps of all strips, or None."""

    field: FeatureField
    cells: _Cells
    size: Size
    kept: tuple[Maps, ...] | None

    def similarity(self, queries: Sequence[Query], combine: Combine, progress: Progress = silent) -> Tensor:
        """(H, W): how alike each pixel is to the queries; for one point, 1 at its pixel.

        The same to the last bit whether the maps are kept or not.

        Args:
            queries: at least one positive one.
            combine: how their answers become one.
            progress: may cancel.

        Raises:
            MarkError: if a mark lies outside of the picture.
        """
        strips = self._strips()
        found, own = self._asked(queries, progress)
        asked = Asked.of(found, [query.negative for query in queries], combine)
        result = self.cells.components.new_empty(self.size)
        for number in sorted(range(len(strips)), key=lambda number: number not in own):  # what is there already
            maps = own[number] if number in own else self._maps(number, progress)
            own.clear()
            result[strips[number].rows] = asked.answer(maps)
        return result.clamp_(-1, 1)

    def _asked(self, queries: Sequence[Query], progress: Progress) -> tuple[list[Maps], dict[int, Maps]]:
        """The maps of each query; and by its number one strip, of those that were drawn for them."""
        found: list[list[Maps]] = [[] for _ in queries]
        counts, places = [0] * len(queries), []
        for number, query in enumerate(queries):
            vectors = query.vectors_for(self.field.coarse.image.sha256)
            if vectors is not None:
                vectors.source.check_fits(self.field.coarse)
                found[number].append(self.cells.asked_with(vectors))
                counts[number] = 1
                continue
            rows, columns = covered_pixels(query.mark, self.size, self.field.geometry.image_hw)
            places.append((number, rows, columns))
            counts[number] = len(rows)
        own: dict[int, Maps] = {}
        for index, strip in enumerate(self._strips()):
            inside = [
                (number, (rows >= strip.top) & (rows < strip.bottom), rows, columns) for number, rows, columns in places
            ]
            if not any(chosen.any() for _, chosen, _, _ in inside):
                continue
            maps = self._maps(index, progress)
            own = {index: maps}
            for number, chosen, rows, columns in inside:
                if chosen.any():
                    found[number].append(maps.at(rows[chosen] - strip.top, columns[chosen]))
        return [mean_of(parts, count) for parts, count in zip(found, counts, strict=True)], own

    def drawn(self, progress: Progress = silent) -> tuple[Maps, ...]:
        """The maps of all strips."""
        return tuple(self._maps(number, progress) for number in range(len(self._strips())))

    def _maps(self, number: int, progress: Progress) -> Maps:
        """Of one strip."""
        if self.kept is not None:
            return self.kept[number]
        return _drawn(self.field, self.cells, self.size, self._strips()[number], progress)

    def _strips(self) -> list[Region]:
        """The parts in which the output is computed, whatever memory there is."""
        count = self.cells.channels
        per_pixel = self.field.bytes_per_pixel(count) + 4 * count
        if not isinstance(self.field, LinearField):
            per_pixel += self.cells.carrier.bytes_per_pixel(count)
        width = self.size[1]
        return list(Region.split(self.size, max(1, int(DEFAULT_TILE_BUDGET / (per_pixel * width))), width))

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


@dataclass(eq=False)
class Question:
    """What was prepared for a field, size and grouping; it must not refer to the field.

    Attributes:
        cells: the coarse map as a click sees it; None if the features do not vary.
        maps: of all strips of the output, while they are kept.
    """

    cells: _Cells | None
    maps: tuple[Maps, ...] | None = None


def prepare(
    field: FeatureField,
    *,
    size: Size,
    grouping: float,
    spare_bytes: float = math.inf,
    remember: Remember | None = None,
    progress: Progress = silent,
) -> Prepared | None:
    """The field prepared for clicks; made once for a size and grouping.

    Args:
        field: of the features.
        size: (H, W) of the output.
        grouping: from 0, the cells as they are, to 1, each moved to the mean of its group.
        spare_bytes: maps that need more, or more than :data:`KEPT_BYTES`, are not kept, but drawn again for each click.
        remember: keeps the :class:`Question` for the next click, as in :func:`~featup_app.lenses.remembering.remembered`.
        progress: may cancel.

    Returns:
        None if the features do not vary over the picture: then there is nothing to centre on.
    """
    question = remembered(
        field, ("click", size, grouping), lambda: Question(_cells(field, grouping, progress)), remember
    )
    if question.cells is None:
        return None
    prepared = Prepared(field, question.cells, size, question.maps)
    needed = 4 * question.cells.channels * size[0] * size[1]
    if question.maps is None and needed <= min(KEPT_BYTES, spare_bytes):
        question.maps = prepared.drawn(progress)
        prepared = replace(prepared, kept=question.maps)
    return prepared


def whole_maps(field: FeatureField, *, size: Size, grouping: float, progress: Progress = silent) -> Maps | None:
    """The maps that answer a click on a field, of the whole output in one part; nothing is kept. As :func:`prepare`."""
    cells = _cells(field, grouping, progress)
    return None if cells is None else _drawn(field, cells, size, Region.whole(size), progress)


def _cells(field: FeatureField, grouping: float, progress: Progress) -> _Cells | None:
    features, data = field.coarse, field.coarse.data.float()
    basis = fit_pca(features, components=COMPONENTS, progress=progress)
    varying = basis.varying()
    if not varying:
        return None
    shares = torch.tensor([basis.explained[index] for index in varying]).to(data)
    # Singular values go as the root of the variance; whitening divides by their root.
    matrix = basis.components[varying] / shares[:, None] ** 0.25
    offset = -(matrix @ basis.mean)
    plain = matrix @ data.flatten(1) + offset[:, None]
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
        grouping=grouping,
        carrier=AttentionField(features, features.image),
    )


def _grouped(cells: Tensor, grid: Size, progress: Progress) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(K, N) -> (K, N), each cell moved to the mean of its group; and the (K, N) that each round began with."""
    places, rounds = _places(grid, cells), []
    for number, temperature in enumerate(TEMPERATURES):
        progress("grouping", number, len(TEMPERATURES))
        rounds.append(cells)
        cells = _moved(cells, cells, places, temperature)
    return cells, tuple(rounds)


def _moved(values: Tensor, cells: Tensor, places: Tensor, temperature: float) -> Tensor:
    """(C, N) -> (C, N): means of values, with the weights of a round of grouping that begins with cells (K, N)."""
    units = F.normalize(cells, dim=0)
    parts = [values @ _shares(units, places, temperature, chosen).T for chosen in _blocks(cells.shape[1])]
    return torch.cat(parts, 1)


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


def _drawn(field: FeatureField, cells: _Cells, size: Size, region: Region, progress: Progress) -> Maps:
    """The maps of a region, as the field carries them from its cells."""
    count = len(cells.components)
    if isinstance(field, LinearField):
        values = [cells.components, cells.commonness, *([cells.components - cells.shift] if cells.rounds else [])]
        drawn = field.carry(torch.cat(values), size=size, region=region, progress=progress)
        grouped = _as_units(drawn[:count])
        return Maps(grouped, _as_units(drawn[count + 1 :]) if cells.rounds else grouped, drawn[count].clone())
    # Any other field draws the components itself, and attention carries what grouping adds to them.
    plain = field.project(cells.matrix, cells.offset, size=size, region=region, progress=progress).float()
    added = cells.carrier.carry(torch.cat([cells.shift, cells.commonness]), size=size, region=region, progress=progress)
    units = _as_units(plain)
    return Maps(_as_units(added[:-1].add_(plain)) if cells.rounds else units, units, added[-1].clone())


def _as_units(components: Tensor) -> Tensor:
    """(K, rows, columns), each pixel divided by its length, without memory of other maps that the argument is a part of."""
    return F.normalize(components, dim=0, eps=_SMALLEST)
