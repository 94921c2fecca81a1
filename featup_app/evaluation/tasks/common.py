"""What all tasks share: jobs, and the walk over pictures that keeps each result as it comes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from featup_app.base.errors import EvaluationError, FeatUpError
from featup_app.base.progress import Progress, part_of
from featup_app.evaluation.datasets import Dataset, Item
from featup_app.evaluation.methods import PreparedMethod
from featup_app.evaluation.plan import Values
from featup_app.evaluation.records import Records

_WAIT_SECONDS = 0.2

Piece = TypeVar("Piece")

Failures = dict[str, str]
"""Why pictures were passed over, by name."""


@dataclass(frozen=True, eq=False)
class Job:
    """One row in the making.

    Attributes:
        method: whose fields are measured.
        protocol: how.
        key: name of the configuration in the records.
    """

    method: PreparedMethod
    protocol: str
    key: str


Measure = Callable[[Item, Sequence[Job], Progress], Iterator[tuple[Job, Values]]]
"""From a picture, and the jobs that have no values for it yet, to their values."""


def by_method(jobs: Sequence[Job]) -> list[tuple[PreparedMethod, list[Job]]]:
    """The jobs of each method together, so that its field, which may be costly to fit, is made once for a picture."""
    groups: dict[int, tuple[PreparedMethod, list[Job]]] = {}
    for job in jobs:
        groups.setdefault(id(job.method), (job.method, []))[1].append(job)
    return list(groups.values())


def measure_all(
    data: Dataset, jobs: Sequence[Job], records: Records, measure: Measure, progress: Progress
) -> tuple[dict[Job, list[Values]], Failures]:
    """The values of every job for the pictures for which all jobs have one, and why the others have not.

    Other processes may work on the same records: a picture is claimed while it is measured, and those that others have
    claimed are looked at again when nothing else is left.

    Args:
        data: the pictures.
        jobs: what is wanted of each.
        records: values that are there already are taken from here, and new ones kept.
        measure: called for each picture with the jobs that lack a value.
        progress: called within pictures; may cancel.

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
            if all(records.find(job.key, picture) is not None for job in jobs):
                return True
            with records.claimed(f"{picture} {' '.join(sorted(job.key for job in jobs))}") as mine:
                wanted = [job for job in jobs if records.find(job.key, picture) is None]
                if mine and wanted:
                    for job, values in measure(
                        item, wanted, part_of(progress, index, len(data.items), words=f"measuring {item.name}")
                    ):
                        records.keep(job.key, picture, values)
                return mine
        except FeatUpError as error:
            failures[item.name] = str(error)
            return True

    until_done(list(enumerate(data.items)), attempt, progress)
    found: dict[Job, list[Values]] = {job: [] for job in jobs}
    for item in data.items:
        if item.name not in failures:
            for job in jobs:
                kept = records.find(job.key, pictures[item.name])
                assert kept is not None
                found[job].append(kept)
    progress("measured", len(data.items), len(data.items))
    if len(failures) == len(data.items):
        raise EvaluationError(f"No picture could be measured; the first says: {next(iter(failures.values()))}")
    return found, failures


def until_done(pieces: Sequence[Piece], attempt: Callable[[Piece], bool], progress: Progress) -> None:
    """Go through pieces of work that other processes may be working on too, until all of them are done.

    Args:
        pieces: of work.
        attempt: does a piece, and says whether it is done; False if another process has claimed it.
        progress: called while there is nothing to do but wait; may cancel.
    """
    waiting = list(pieces)
    while waiting:
        left = [piece for piece in waiting if not attempt(piece)]
        if len(left) == len(waiting):
            progress("waiting for another process", len(pieces) - len(left), len(pieces))
            time.sleep(_WAIT_SECONDS)
        waiting = left


def fingerprint(item: Item) -> str:
    """Name of a picture with the hash of what its files hold.

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
    return f"{item.name} {digest.hexdigest()[:16]}"


def typical_seconds(found: Sequence[Values]) -> float:
    """Median over pictures of what a job took; of several jobs of one field the first counts the making of it."""
    return float(np.median([values["seconds"] for values in found]))
