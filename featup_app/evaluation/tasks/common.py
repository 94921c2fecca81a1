"""Shared by all tasks: configurations, the loop over pictures that keeps each result at once, and the comparison to bilinear."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from featup_app.base.errors import EvaluationError, FeatUpError
from featup_app.base.progress import Progress, part_of
from featup_app.evaluation import statistics
from featup_app.evaluation.datasets import Dataset, Item
from featup_app.evaluation.methods import BASELINE, PreparedMethod
from featup_app.evaluation.plan import Values
from featup_app.evaluation.records import Records

_WAIT_SECONDS = 0.2

Piece = TypeVar("Piece")

Failures = dict[str, str]
"""Why pictures or methods were skipped, by name."""


@dataclass(frozen=True, eq=False)
class Configuration:
    """What one row of a table measures.

    Attributes:
        method: the method whose fields are measured.
        protocol: the way of measuring.
        key: its name in the records.
    """

    method: PreparedMethod
    protocol: str
    key: str


Measure = Callable[[Item, Sequence[Configuration], Progress], Iterator[tuple[Configuration, Values]]]
"""A function from a picture, and the configurations without values for it, to these values."""


def by_method(configurations: Sequence[Configuration]) -> list[tuple[PreparedMethod, list[Configuration]]]:
    """The configurations grouped by method, so that its field, which may be expensive, is computed once for a picture."""
    groups: dict[int, tuple[PreparedMethod, list[Configuration]]] = {}
    for configuration in configurations:
        groups.setdefault(id(configuration.method), (configuration.method, []))[1].append(configuration)
    return list(groups.values())


def measure_all(
    data: Dataset, configurations: Sequence[Configuration], records: Records, measure: Measure, progress: Progress
) -> tuple[dict[Configuration, list[Values]], Failures]:
    """Measure every picture under every configuration.

    Other processes may work on the same records: a picture is claimed while it is measured. Pictures that others have claimed
    are visited again when nothing else is left.

    Args:
        data: the pictures.
        configurations: what to measure of each picture.
        records: the store of values: existing ones are used, new ones are kept.
        measure: called for each picture with the configurations that lack a value.
        progress: called within pictures; may cancel.

    Returns:
        For each configuration the values of the pictures that could be measured, in the order of the data set, and the reasons
        why the other pictures could not.

    Raises:
        EvaluationError: if no picture could be measured.
    """
    failures: Failures = {}
    pictures: dict[str, str] = {}

    def attempt(piece: tuple[int, Item]) -> bool:
        index, item = piece
        progress(f"measuring {item.name}", index, len(data.items))
        try:
            picture = pictures[item.name] = fingerprint(item)
            if all(records.find(configuration.key, picture) is not None for configuration in configurations):
                return True
            with records.claimed(
                f"{picture} {' '.join(sorted(configuration.key for configuration in configurations))}"
            ) as mine:
                wanted = [
                    configuration
                    for configuration in configurations
                    if records.find(configuration.key, picture) is None
                ]
                if mine and wanted:
                    for configuration, values in measure(
                        item, wanted, part_of(progress, index, len(data.items), words=f"measuring {item.name}")
                    ):
                        records.keep(configuration.key, picture, values)
                return mine
        except FeatUpError as error:
            failures[item.name] = str(error)
            return True

    until_done(list(enumerate(data.items)), attempt, progress)
    found: dict[Configuration, list[Values]] = {configuration: [] for configuration in configurations}
    for item in data.items:
        if item.name not in failures:
            for configuration in configurations:
                kept = records.find(configuration.key, pictures[item.name])
                assert kept is not None
                found[configuration].append(kept)
    progress("measured", len(data.items), len(data.items))
    check_some_measured(data, failures)
    return found, failures


def check_some_measured(data: Dataset, failures: Failures) -> None:
    """Raises EvaluationError if every picture failed."""
    if len(failures) == len(data.items):
        raise EvaluationError(f"No picture could be measured; the first reason: {next(iter(failures.values()))}")


def until_done(pieces: Sequence[Piece], attempt: Callable[[Piece], bool], progress: Progress) -> None:
    """Repeat pieces of work that other processes may also do, until all of them are done.

    Args:
        pieces: the pieces of work.
        attempt: does a piece. Returns whether the piece is done; False if another process has claimed it.
        progress: called while waiting for other processes; may cancel.
    """
    waiting = list(pieces)
    while waiting:
        left = [piece for piece in waiting if not attempt(piece)]
        if len(left) == len(waiting):
            progress("waiting for another process", len(pieces) - len(left), len(pieces))
            time.sleep(_WAIT_SECONDS)
        waiting = left


def fingerprint(item: Item) -> str:
    """Name of a picture with the hash of the contents of its files, and of what is read of them.

    Raises:
        EvaluationError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in (item.image_path, item.target_path):
        if path is None:
            continue
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise EvaluationError(f'Cannot read "{path}": {error.strerror or error}; check its permissions.') from error
    if item.selection:
        digest.update(str(item.selection).encode())
    return f"{item.name} {digest.hexdigest()[:16]}"


def baseline_of(configuration: Configuration, configurations: Iterable[Configuration]) -> Configuration | None:
    """The configuration of bilinear upsampling under the same protocol; None if it is this one or there is none."""
    for other in configurations:
        if other.protocol == configuration.protocol and other.method.label == BASELINE:
            return None if other is configuration else other
    return None


def paired(
    values: statistics.Floats, baseline: statistics.Floats | None, *, seed: int
) -> tuple[float | None, tuple[float, float] | None]:
    """The mean difference to the baseline on the same pictures, and its 95 % bootstrap interval over pictures.

    Args:
        values, baseline: (N) values of the pictures; without a baseline there is neither.
        seed: seed of the bootstrap.
    """
    if baseline is None:
        return None, None
    difference = values - baseline
    counts = statistics.resample_counts(len(difference), seed=seed)
    return float(difference.mean()), statistics.interval(counts @ difference / len(difference))


def typical_seconds(found: Sequence[Values]) -> float:
    """Median over pictures of the seconds of a configuration.

    Where several configurations use one field, the seconds of the first include the time to compute the field.
    """
    return float(np.median([values["seconds"] for values in found]))
