"""The folders that a person names, and the data sets that each task uses of them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from featup_app.base.errors import EvaluationError
from featup_app.evaluation.datasets import DEPTHS, LABELS, PHOTOS, REGIONS, Dataset
from featup_app.evaluation.layouts import AUTO, TRAIN, VAL, detect_layout, find_layout, open_dataset
from featup_app.evaluation.tasks import TASKS, Task
from featup_app.images import Selection


@dataclass(frozen=True)
class Sources:
    """The folders of pictures.

    Of several folders, each task uses the first with the labels or depths that it needs. Tasks that need neither use a folder of
    plain pictures if there is one, else the first folder.

    Attributes:
        data: folders to measure on, one or several.
        train: folders to fit on, none, one or several; without one, the training part of ``data`` where a data set has parts.
        layout: layout of the folders that can have it: a name, or ``auto``.
        per_metre: readings of depth files for one metre, a number or one for each scene; None for the default.
        limit: greatest number of pictures of each folder; None for all. Or such numbers by the name of a task, by ``train`` for
            the pictures to fit on, and by the empty name for everything else.
        selection: page, channels and range that are read of every picture.
    """

    data: Path | tuple[Path, ...]
    train: Path | tuple[Path, ...] | None = None
    layout: str = AUTO
    per_metre: Mapping[str, float] | float | None = None
    limit: Mapping[str, int] | int | None = None
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        for folder in (*_several(self.data), *_several(self.train)) if len(_several(self.data)) > 1 else ():
            if not folder.is_dir():
                raise EvaluationError(f'There is no folder "{folder}"; check its name.')

    def open(self, task: Task) -> tuple[Dataset, Dataset | None]:
        """The pictures that a task measures on, and the pictures that it fits on.

        The latter are None for tasks that fit nothing, and for depths without a folder to fit on: then pictures are measured with
        probes fitted to other pictures of the same folder.

        Raises:
            EvaluationError: if a folder has another layout, or there are no other pictures to fit on.
        """
        data = self._opened(self._folder(task), task, VAL, task.name)
        if not task.trains:
            return data, None
        folder = self._training_folder(data)
        parts = find_layout(data.layout).parts
        if folder is None and data.kind == DEPTHS and not parts:
            return data, None
        if folder is None and not parts:
            raise EvaluationError(
                f'The task {task.name} fits on training pictures, and "{data.folder}" has no part for that; name their folder '
                "with --train."
            )
        train = self._opened(folder or data.folder, task, TRAIN, TRAIN)
        if {item.image_path.resolve() for item in train.items} & {item.image_path.resolve() for item in data.items}:
            raise EvaluationError(
                f'The pictures of "{data.folder}" would be measured with what was fitted on them; give other ones with --train.'
            )
        return data, train

    def _folder(self, task: Task) -> Path:
        """The folder that a task measures on. Raises EvaluationError if none of several has what it needs."""
        folders = _several(self.data)
        if len(folders) == 1:
            return folders[0]
        for kind in task.kinds:
            for folder in folders:
                if self._kind(folder) == kind:
                    return folder
        if PHOTOS in task.kinds:
            return folders[0]
        wanted = " or ".join(_KNOWN[kind] for kind in task.kinds)
        raise EvaluationError(
            f"The task {task.name} needs pictures with {wanted} of their pixels, and none of the {len(folders)} folders has "
            "them; name one that has with another --data."
        )

    def _training_folder(self, data: Dataset) -> Path | None:
        """The folder to fit on. With several folders, the first of the same kind as the data; None if there is none."""
        folders = _several(self.train)
        if len(folders) == 1 and len(_several(self.data)) == 1:
            return folders[0]
        return next((folder for folder in folders if self._kind(folder) == data.kind), None)

    def _kind(self, folder: Path) -> str | None:
        """The kind of the data set in a folder; None if it holds no pictures."""
        try:
            return detect_layout(folder).kind
        except EvaluationError:
            return None

    def _opened(self, folder: Path, task: Task, part: str, limited_by: str) -> Dataset:
        layout, per_metre = self.layout, self.per_metre
        if len(_several(self.data)) > 1:  # then the layout and the unit may belong to other folders
            if layout != AUTO and find_layout(layout).kind != self._kind(folder):
                layout = AUTO
            if self._kind(folder) != DEPTHS:
                per_metre = None
        found = open_dataset(folder, layout=layout, kinds=task.kinds, part=part, per_metre=per_metre)
        return found.limited(self._limit(task, limited_by)).with_selection(self.selection)

    def _limit(self, task: Task, name: str) -> int | None:
        if not isinstance(self.limit, Mapping):
            return self.limit
        return self.limit.get(name, self.limit.get(task.name, self.limit.get("")))


_KNOWN = {LABELS: "classes", REGIONS: "regions", DEPTHS: "depths", PHOTOS: "nothing"}


def _several(folders: Path | tuple[Path, ...] | None) -> tuple[Path, ...]:
    """The folders as a tuple."""
    if folders is None:
        return ()
    return (folders,) if isinstance(folders, Path) else folders


def parse_limits(text: str) -> Mapping[str, int]:
    """Parse numbers of pictures: ``16``, or ``16,quality=8,train=60``.

    Returns:
        Numbers by the name of a task or ``train``; the empty name is for everything else.

    Raises:
        EvaluationError: if a number is not a whole number of at least one, or a name is unknown.
    """
    names = ("", TRAIN, *(task.name for task in TASKS))
    limits: dict[str, int] = {}
    for part in text.split(","):
        name, given, number = (piece.strip() for piece in part.rpartition("="))
        if name not in names or (given and not name) or not number.isascii() or not number.isdigit() or int(number) < 1:
            raise EvaluationError(
                f'The limit "{text}" is not understood; give a number of pictures, or numbers for single tasks, such as '
                f"16,quality=8 ({', '.join(names[1:])})."
            )
        limits[name] = int(number)
    return limits


def parse_depth_unit(text: str) -> Mapping[str, float] | float:
    """Parse the readings of depth files for one metre: ``5000``, or ``scene=1000,other=5000``.

    Returns:
        One number, or numbers by the name of the scene.

    Raises:
        EvaluationError: if a number is not positive, or there are several without names.
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
