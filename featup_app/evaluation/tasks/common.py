"""What all tasks share: jobs, and the walk over pictures that keeps each result as it comes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from featup_app.errors import EvaluationError, FeatUpError
from featup_app.evaluation.datasets import Dataset, Item
from featup_app.evaluation.methods import PreparedMethod
from featup_app.evaluation.plan import Values
from featup_app.evaluation.records import Records
from featup_app.progress import Progress

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
    found: dict[Job, list[Values]] = {job: [] for job in jobs}
    for index, item in enumerate(data.items):
        progress(f"measuring {item.name}", index, len(data.items))
        try:
            picture = fingerprint(item)
            wanted = [job for job in jobs if records.find(job.key, picture) is None]
            if wanted:
                for job, values in measure(item, wanted, _kept(progress, item, index, len(data.items))):
                    records.keep(job.key, picture, values)
        except FeatUpError as error:
            failures[item.name] = str(error)
            continue
        for job in jobs:
            kept = records.find(job.key, picture)
            assert kept is not None
            found[job].append(kept)
    progress("measured", len(data.items), len(data.items))
    if len(failures) == len(data.items):
        raise EvaluationError(f"No picture could be measured; the first says: {next(iter(failures.values()))}")
    return found, failures


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


def _kept(progress: Progress, item: Item, index: int, count: int) -> Progress:
    """Inside a picture the person keeps seeing its number; cancelling still works at every step."""
    return lambda stage, done, total: progress(f"measuring {item.name}", index, count)
