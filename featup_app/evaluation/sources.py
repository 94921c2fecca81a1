"""The folders of an evaluation as a person names them, and the data sets that a task finds there. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from featup_app.errors import EvaluationError
from featup_app.evaluation.datasets import DEPTHS, Dataset
from featup_app.evaluation.layouts import AUTO, TRAIN, VAL, find_layout, open_dataset
from featup_app.evaluation.tasks import Task


@dataclass(frozen=True)
class Sources:
    """Where pictures lie.

    Attributes:
        data: those to measure on.
        train: those to fit on; None to find them beside the others where a data set has parts.
        layout: of both folders: a name, or ``auto``.
        per_metre: readings of depth files for one metre, a number or one for each scene; None for what is usual.
        limit: at most so many pictures of each; None for all.
    """

    data: Path
    train: Path | None = None
    layout: str = AUTO
    per_metre: Mapping[str, float] | float | None = None
    limit: int | None = None

    def open(self, task: Task) -> tuple[Dataset, Dataset | None]:
        """The pictures that a task measures on and those that it fits on.

        The latter are None for tasks that fit nothing, and for depths of which no other folder is given: there pictures are
        measured with what was fitted on others of the same folder.

        Raises:
            EvaluationError: if a folder is laid out differently, or there is nothing to fit on but what is measured.
        """
        data = self._opened(self.data, task, VAL)
        if not task.trains:
            return data, None
        parts = find_layout(data.layout).parts
        if self.train is None and data.kind == DEPTHS and not parts:
            return data, None
        if self.train is None and not parts:
            raise EvaluationError(
                f'The task {task.name} fits on training pictures, and "{self.data}" has no part for that; name their folder '
                "with --train."
            )
        train = self._opened(self.train or self.data, task, TRAIN)
        if {item.image_path.resolve() for item in train.items} & {item.image_path.resolve() for item in data.items}:
            raise EvaluationError(
                f'The pictures of "{self.data}" would be measured with what was fitted on them; give other ones with --train.'
            )
        return data, train

    def _opened(self, folder: Path, task: Task, part: str) -> Dataset:
        found = open_dataset(folder, layout=self.layout, kinds=task.kinds, part=part, per_metre=self.per_metre)
        return found.limited(self.limit)


def parse_depth_unit(text: str) -> Mapping[str, float] | float:
    """Readings for one metre as a person writes them: ``5000``, or ``scene=1000,other=5000``.

    Raises:
        EvaluationError: if that is not a positive number, or not one for each name.
    """
    units: dict[str, float] = {}
    for part in text.split(","):
        name, given, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if not value > 0 or value == float("inf") or (not given and "," in text):
            raise EvaluationError(
                f'The unit of depths "{text}" is not understood; give the readings for one metre, such as 1000 for millimetres, '
                "or one for each scene, such as kitchen=1000,office=5000."
            )
        units[name.strip()] = value
    return units.get("", units)
