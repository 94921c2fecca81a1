"""Query sets as files: safetensors with the vectors, and the queries as JSON in its metadata. Imports no torch.

The tensors are float32: ``feature``, ``cell`` and ``group``, (N, C) each, and ``commonness`` (N), as in
:class:`~featup_app.lenses.queries.QueryVectors`. The metadata has, under the key of all records of this program, schema and
version, the version of the program, name, measure, grouping and combination, the sources, and each query with the number of its
source.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featup_app.base.errors import LensError, MarkError
from featup_app.base.tensor_files import read_record, write_record
from featup_app.lenses.queries import (
    COMBINES,
    GROUPED,
    GROUPING,
    MEASURES,
    Query,
    QuerySource,
    QueryVectors,
    as_queries,
    query_from_json,
    query_to_json,
    source_from_json,
)

SCHEMA = "featup-app/queries"
VERSION = 1

_VECTORS, _COMMONNESS = ("feature", "cell", "group"), "commonness"


@dataclass(frozen=True)
class QuerySet:
    """Queries under a name, with how they are asked.

    Attributes:
        name: for titles and files.
        queries: each with its vectors, all of one width.
        measure, grouping, combine: as in :class:`~featup_app.lenses.SimilarityRequest`.
    """

    name: str
    queries: tuple[Query, ...]
    measure: str = GROUPED
    grouping: float = GROUPING
    combine: str | None = None


def write_query_set(path: Path, saved: QuerySet) -> None:
    """Write a set, whole or not at all; an older file of that name is replaced.

    Args:
        path: of the file, usually ``*.safetensors``.
        saved: the set; :func:`~featup_app.lenses.query_vectors.pinned` gives its queries their vectors.

    Raises:
        LensError: if a query has no vectors, their widths differ, there are too many, or the file cannot be written.
    """
    queries = as_queries(saved.queries)
    vectors = [query.vectors for query in queries if query.vectors is not None]
    if len(vectors) < len(queries) or len({each.source.channels for each in vectors}) > 1:
        raise LensError(f'The queries of "{saved.name}" cannot be saved: they need vectors, all of one width.')
    sources = list(dict.fromkeys(each.source for each in vectors))
    facts = {
        "name": saved.name,
        "measure": saved.measure,
        "grouping": saved.grouping,
        "combine": saved.combine,
        "sources": [dataclasses.asdict(source) for source in sources],
        "queries": [
            {**query_to_json(dataclasses.replace(query, vectors=None)), "source": sources.index(each.source)}
            for query, each in zip(queries, vectors, strict=True)
        ],
    }
    arrays = {name: np.array([getattr(each, name) for each in vectors], np.float32) for name in _VECTORS}
    arrays[_COMMONNESS] = np.array([each.commonness for each in vectors], np.float32)
    write_record(path, arrays, facts, schema=SCHEMA, version=VERSION, error=LensError)


def read_query_set(path: Path) -> QuerySet:
    """The set of a file of :func:`write_query_set`; nothing in the file is executed.

    Raises:
        LensError: if it is missing, damaged, no such file, or of another version of this program.
    """
    facts, arrays = read_record(
        path, (*_VECTORS, _COMMONNESS), schema=SCHEMA, version=VERSION, what="queries", error=LensError
    )
    try:
        entries, sources = facts["queries"], [source_from_json(each) for each in facts["sources"]]
        _check_arrays(arrays, len(entries))
        queries = as_queries([_query(entry, sources, arrays, index) for index, entry in enumerate(entries)])
        name, measure, grouping, combine = (facts[key] for key in ("name", "measure", "grouping", "combine"))
        known = measure in MEASURES and (combine is None or combine in COMBINES)
        if not isinstance(name, str) or not known or not 0 <= float(grouping) <= 1:
            raise ValueError("its settings are not understood")
    except (KeyError, TypeError, ValueError, IndexError, LensError, MarkError) as error:
        raise LensError(f'"{path}" holds no queries that can be read: {_reason(error)}; save them again.') from error
    return QuerySet(name, queries, measure, float(grouping), combine)


def _query(entry: dict[str, Any], sources: list[QuerySource], arrays: dict[str, NDArray[Any]], index: int) -> Query:
    values = dict(entry)
    source = sources[values.pop("source")]
    feature, cell, group = (tuple(arrays[name][index].tolist()) for name in _VECTORS)
    vectors = QueryVectors(feature, cell, group, float(arrays[_COMMONNESS][index]), source)
    return dataclasses.replace(query_from_json(values), vectors=vectors)


def _check_arrays(arrays: dict[str, NDArray[Any]], count: int) -> None:
    shapes = {arrays[name].shape for name in _VECTORS}
    one = len(shapes) == 1 and len(next(iter(shapes))) == 2 and next(iter(shapes))[0] == count
    if not one or arrays[_COMMONNESS].shape != (count,):
        raise ValueError("its vectors do not belong to its queries")


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError | IndexError):
        return f"{error} is missing"
    return str(error).rstrip(".")
