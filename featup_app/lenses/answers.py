"""From maps to an answer: how alike each pixel of a strip is to one query, and to several of them together.

The maps are those of :mod:`featup_app.lenses.grouping`: unit components after and before grouping, and commonness. Several
queries are one matrix product for all of them; their mean is a product with one direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from featup_app.lenses.queries import DIFFERENCE, MEAN, Combine

COMMONNESS = 0.8
"""How much of the commonness is subtracted."""

ALIKE = 0.8
"""Cosine before grouping from which a pixel comes first."""

ALIKE_WEIGHT = 4.0
"""How much each cosine above that adds."""

FIRST = 0.9
"""Similarities above share the range from here to 1, so that what comes first does not make the rest look alike."""

LARGEST = 1 + ALIKE_WEIGHT * (1 - ALIKE)
"""What a pixel gets for itself before that."""

Indices = NDArray[np.int64]

_BLOCK_BYTES = 2**23
"""Of maps and answers to single queries that are in use at once, which the cache of the processor holds."""

_SMALLEST = 1e-12


class Maps(NamedTuple):
    """A strip of the output: unit components (K, rows, W) after and before grouping, and commonness (rows, W).

    Where nothing is grouped, the first two are one tensor. Of queries they are (N, K), (N, K) and (N).
    """

    grouped: Tensor
    plain: Tensor
    common: Tensor

    @property
    def nbytes(self) -> int:
        once = 0 if self.plain is self.grouped else self.plain.nbytes
        return self.grouped.nbytes + once + self.common.nbytes

    def rows(self, chosen: slice) -> Maps:
        """Those of some rows."""
        return Maps(*(each[..., chosen, :] for each in self))

    def at(self, rows: Indices, columns: Indices) -> Maps:
        """Sums over some pixels, (1, K), (1, K) and (1), in memory of their own."""
        if len(rows) == 1:
            row, column = int(rows[0]), int(columns[0])
            return Maps(*(each[..., row, column].clone()[None] for each in self))
        chosen = torch.zeros(self.common.shape)
        chosen[torch.from_numpy(rows), torch.from_numpy(columns)] = 1
        inside = chosen.flatten().to(self.common)
        return Maps(*((each.flatten(-2) @ inside)[None] for each in self))

    def similarity(self, query: Maps, *, after_grouping: bool = False) -> Tensor:
        """(rows, W): how alike each pixel is to one query; see the top of :mod:`featup_app.lenses.grouping`.

        Args:
            query: (1, K), (1, K) and (1).
            after_grouping: leaves out what is almost the same before it; then from -1 to 1.
        """
        result = _product(query.grouped, self.grouped).sub_(self.common - query.common[0], alpha=COMMONNESS)
        if after_grouping:
            return result.clamp_(-1, 1)
        plain = _product(query.plain, self.plain)
        return in_range(result.add_(plain.sub_(ALIKE).clamp_(min=0), alpha=ALIKE_WEIGHT))

    def levels(self, queries: Maps, after_grouping: bool) -> Tensor:
        """(N, rows, W): what :meth:`similarity` has of each query before the commonness of the pixels and the range."""
        commonness = COMMONNESS * queries.common[:, None]
        result = torch.addmm(commonness, queries.grouped, self.grouped.flatten(1))
        if not after_grouping:
            least = result.new_full((1, 1), -ALIKE)
            plain = torch.addmm(least, queries.plain, self.plain.flatten(1)).clamp_(min=0)
            result.add_(plain, alpha=ALIKE_WEIGHT)
        return result.view(-1, *self.common.shape)

    def settled(self, levels: Tensor, after_grouping: bool) -> Tensor:
        """The similarities of levels, which rise with them; the memory of the levels is used."""
        values = levels.sub_(self.common, alpha=COMMONNESS)
        return values.clamp_(-1, 1) if after_grouping else in_range(values)


def in_range(similarity: Tensor) -> Tensor:
    """Similarities up to :data:`LARGEST` -> up to 1, the same below :data:`FIRST`."""
    return similarity.sub((similarity - FIRST).clamp_(min=0), alpha=(LARGEST - 1) / (LARGEST - FIRST))


def before_range(similarity: Tensor) -> Tensor:
    """The reverse of :func:`in_range`."""
    return similarity.add((similarity - FIRST).clamp_(min=0), alpha=(LARGEST - 1) / (1 - FIRST))


def _product(query: Tensor, maps: Tensor) -> Tensor:
    """(1, K) and (K, rows, W) -> (rows, W)."""
    return torch.einsum("k,khw->hw", query[0], maps)


def mean_direction(vectors: Tensor) -> Tensor:
    """(N, K) -> (1, K) of unit length; one vector stays as it is."""
    return vectors if len(vectors) == 1 else F.normalize(vectors.sum(0, keepdim=True), dim=1, eps=_SMALLEST)


def mean_of(sums: Sequence[Maps], count: int) -> Maps:
    """The query that sums over so many pixels make; one pixel stays as it is."""
    if count == 1:
        return sums[0]
    grouped, plain, common = (sum(parts[1:], parts[0]) for parts in zip(*sums, strict=True))
    grouped, plain = (F.normalize(each, dim=1, eps=_SMALLEST) for each in (grouped, plain))
    return Maps(grouped, plain, common / count)


def mean_query(queries: Maps) -> Maps:
    """The mean of queries as one."""
    return Maps(mean_direction(queries.grouped), mean_direction(queries.plain), queries.common.mean(0, keepdim=True))


def stacked(queries: Sequence[Maps]) -> Maps:
    """Queries one after the other."""
    return Maps(*(torch.cat(parts) for parts in zip(*queries, strict=True)))


def combined(scores: Tensor, positives: int, combine: Combine) -> Tensor:
    """Similarities to several queries as one, see :data:`featup_app.lenses.queries.FORMULAS`.

    Args:
        scores: (N, ...), those of the positive queries first; of the mean, one for each sign.
        positives: how many they are, at least one.
        combine: how.

    Returns:
        (...), in -2 .. 1.
    """
    positive, negative = scores[:positives], scores[positives:]
    if combine == DIFFERENCE:
        return positive.mean(0) - negative.mean(0) if len(negative) else positive.mean(0)
    return positive.amax(0) - negative.amax(0).clamp(min=0) if len(negative) else positive.amax(0)


@dataclass(frozen=True, eq=False)
class Asked:
    """Queries as maps see them, the positive ones first, and how their answers become one.

    Attributes:
        queries: of N queries; of a mean, one for each sign.
        positives: how many are positive, at least one.
        combine: how their answers become one.
    """

    queries: Maps
    positives: int
    combine: Combine

    @staticmethod
    def of(queries: Sequence[Maps], negative: Sequence[bool], combine: Combine) -> Asked:
        """Of the maps of each query, and whether it is negative; at least one is not."""
        pairs = list(zip(queries, negative, strict=True))
        signs = [[maps for maps, own in pairs if own is sign] for sign in (False, True)]
        if combine == MEAN:
            signs = [[mean_query(stacked(part))] if part else [] for part in signs]
        return Asked(stacked([*signs[0], *signs[1]]), len(signs[0]), combine)

    def answer(self, maps: Maps, *, after_grouping: bool = False) -> Tensor:
        """(rows, W): what a strip answers, in -2 .. 1.

        Args:
            maps: of the strip.
            after_grouping: as in :meth:`Maps.similarity`.
        """
        count = len(self.queries.common)
        if count == 1:
            return maps.similarity(self.queries, after_grouping=after_grouping)
        height, width = maps.common.shape
        rows = max(1, _BLOCK_BYTES // (4 * (count + 2 * len(maps.grouped)) * width))
        result = torch.empty_like(maps.common)
        for first in range(0, height, rows):
            chosen = slice(first, first + rows)
            result[chosen] = self._block(maps.rows(chosen), after_grouping)
        return result

    def _block(self, maps: Maps, after_grouping: bool) -> Tensor:
        """The answer of a few rows."""
        levels = maps.levels(self.queries, after_grouping)
        if self.combine == DIFFERENCE:
            return combined(maps.settled(levels, after_grouping), self.positives, self.combine)
        parts = [part.amax(0) for part in (levels[: self.positives], levels[self.positives :]) if len(part)]
        return combined(maps.settled(torch.stack(parts), after_grouping), 1, self.combine)
