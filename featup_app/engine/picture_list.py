"""The pictures that are open together: their order, which is shown, and what is known about their files. No Qt, no torch."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from featup_app.base.files import file_state
from featup_app.engine.exporting import pictures_of
from featup_app.images import Image, load_image, split_name

_KEPT_IMAGES = 3
"""The picture that is shown and both neighbours."""

LARGEST_KEPT = 50_000_000
"""Pixels beyond which a picture that was read is not kept: it alone would take 150 MB."""


class State(Enum):
    """What is known about the file of a picture."""

    UNKNOWN = "unknown"
    READABLE = "readable"
    BROKEN = "broken"


@dataclass(frozen=True)
class Picture:
    """An entry of the list.

    Attributes:
        path: the file, perhaps with a selection behind it (``stack.tif#page=3``).
        state: what is known about it.
        why: the sentence why it cannot be read, if it is broken.
    """

    path: Path
    state: State = State.UNKNOWN
    why: str = ""

    @property
    def name(self) -> str:
        """As the strip shows it."""
        return self.path.name

    @property
    def broken(self) -> bool:
        """Whether it could not be read."""
        return self.state is State.BROKEN


def natural_key(path: Path) -> tuple[object, ...]:
    """Sorts paths as people count: folder by folder, numbers in names by their value, capitals as small letters."""

    def parts(text: str) -> tuple[tuple[int, int, str], ...]:
        found = re.split(r"(\d+)", text.casefold())
        return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in found if part)

    return parts(str(path.parent)), parts(path.name), str(path)


def listed(places: Iterable[str | Path]) -> list[Path]:
    """The pictures that are meant by files and folders, in natural order, each once.

    Raises:
        ImageError: if a folder cannot be read or holds no pictures; not for files, which are looked at when they are shown.
    """
    found: dict[str, Path] = {}
    for place in places:
        for path in pictures_of(Path(place)):
            found.setdefault(_identity(path), path)
    return sorted(found.values(), key=natural_key)


def _identity(path: Path) -> str:
    """Equal for names of the same file with the same selection; links are not followed."""
    return os.path.normcase(os.path.abspath(path))


class PictureList:
    """Pictures in natural order, each once.

    Args:
        paths: of the pictures.

    Attributes:
        pictures: all entries.
        shown: index of the one that is shown; None if something else is shown.
        asked: index of the one that is being opened; None if none is.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        unique = {_identity(path): path for path in reversed(list(paths))}
        self.pictures: list[Picture] = [Picture(path) for path in sorted(unique.values(), key=natural_key)]
        self.shown: int | None = None
        self.asked: int | None = None
        self._last = -0.5  # where steps count from: an entry, or the gap between two of them

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def broken(self) -> int:
        """How many could not be read."""
        return sum(picture.broken for picture in self.pictures)

    def index(self, path: Path) -> int | None:
        """The index of an entry; None if it is not in the list."""
        wanted = _identity(path)
        return next((i for i, picture in enumerate(self.pictures) if _identity(picture.path) == wanted), None)

    def find(self, path: Path) -> int | None:
        """The index of a file, whatever is selected in it; the shown entry first. None if it is not in the list."""
        wanted = _identity(split_name(path)[0])
        found = [i for i, picture in enumerate(self.pictures) if _identity(split_name(picture.path)[0]) == wanted]
        return self.shown if self.shown in found else next(iter(found), None)

    # -- walking -----------------------------------------------------------------------------------------------------

    def step(self, by: int) -> int | None:
        """The index of the next entry (1) or the previous one (-1) that is not known to be broken; None at the end.

        Counts from the entry that is being opened, so that a key can be pressed faster than pictures open.
        """
        here = self._last if self.asked is None else self.asked
        return next(self._from(here, by), None)

    def after(self, index: int) -> int | None:
        """The next entry after another one that is not known to be broken; None at the end."""
        return next(self._from(index, 1), None)

    def end(self, by: int) -> int | None:
        """The index of the last entry (1) or the first (-1) that is not known to be broken; None if all are."""
        return next(self._from(len(self) if by > 0 else -1, -by), None)

    def _from(self, here: float, by: int) -> Iterator[int]:
        order = range(math.floor(here) + 1, len(self)) if by > 0 else range(math.ceil(here) - 1, -1, -1)
        return iter([index for index in order if not self.pictures[index].broken])

    def neighbours(self) -> list[int]:
        """The entries that may be asked for next: the next one, then the previous one. None while something else is shown."""
        if self.shown is None:
            return []
        found = (next(self._from(self.shown, by), None) for by in (1, -1))
        return [index for index in found if index is not None]

    # -- what became of them -----------------------------------------------------------------------------------------

    def arrived(self, index: int) -> None:
        """An entry is shown now."""
        self.shown = self._last = index
        self.asked = None
        self.mark(index)

    def failed(self, index: int, why: str) -> None:
        """An entry could not be opened; what is shown stays."""
        self.asked = None
        self.mark(index, why)

    def left(self) -> None:
        """Something else is shown now; the next step counts from the entry that was shown."""
        self.shown = None

    def mark(self, index: int, why: str = "") -> None:
        """Record that the file of an entry was read; or ``why`` it could not be."""
        state = State.BROKEN if why else State.READABLE
        self.pictures[index] = replace(self.pictures[index], state=state, why=why)

    def remove(self, index: int) -> None:
        """Take an entry off the list; its file stays. What is shown stays shown, and steps count from where it was."""
        del self.pictures[index]

        def after(other: int | None) -> int | None:
            return None if other is None or other == index else other - (other > index)

        self.shown, self.asked = after(self.shown), after(self.asked)
        self._last -= 0.5 if self._last == index else float(self._last > index)


class ReadImages:
    """The last few pictures that were read, so that one that was read ahead need not be read again.

    For one thread at a time: that which reads files.
    """

    def __init__(self) -> None:
        self._images: dict[tuple[Path, object], Image] = {}

    def read(self, path: Path) -> Image:
        """The picture of a file as it is now. Raises ImageError."""
        key = path, file_state(str(split_name(path)[0]))
        image = self._images.pop(key, None) or load_image(path)
        if image.size_hw[0] * image.size_hw[1] <= LARGEST_KEPT:
            self._images[key] = image
        for oldest in list(self._images)[:-_KEPT_IMAGES]:
            del self._images[oldest]
        return image
