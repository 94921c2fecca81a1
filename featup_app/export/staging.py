"""Files that appear together or not at all: written under temporary names, renamed when all of them are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from featup_app.base.errors import ExportError
from featup_app.base.files import keep_inputs, partial_name
from featup_app.base.words import human_bytes


class Staging:
    """A set of files under way::

        with Staging() as files:
            part = files.add(Path("out/cat.npz"))   # write to ``part``, a hidden name in the same folder

    When the block ends, the files get their names, in the order in which they were added. When it ends by any
    exception, whatever was written is removed, with the folders that were made for it, and files of the same names are
    as before.

    Args:
        overwrite: whether files that are already there may be replaced.
        inputs: files that are never replaced, because they are read.
    """

    def __init__(self, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> None:
        self._overwrite = overwrite
        self._inputs = tuple(inputs)
        self._parts: dict[Path, Path] = {}
        self._folders: list[Path] = []

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._rename()
                self._folders.clear()
        finally:
            self._clean_up()

    def add(self, target: Path) -> Path:
        """The temporary name under which this file is to be written. Makes its folder where there is none.

        Raises:
            ExportError: if the file is there already and may not be replaced, is asked for twice, or its folder cannot
                be made.
        """
        self.check(target)
        with explained(target):
            self._make_folder(target.parent)
        part = partial_name(target)
        self._parts[target] = part
        return part

    def check(self, target: Path) -> None:
        """Raises ExportError if the file is there and may not be replaced, is read, or is a part of this export already."""
        if target in self._parts:
            raise ExportError(f'Two files of this export would have the name "{target}"; ask for each view once.')
        keep_inputs(target, self._inputs, ExportError)
        with explained(target):
            if target.is_dir():
                raise ExportError(f'Cannot write "{target}": it is a folder; choose another name.')
            if not self._overwrite and os.path.lexists(target):
                raise ExportError(
                    f'"{target}" is already there; choose another folder or name, or say that it may be overwritten.'
                )

    def need_space(self, target: Path, needed: int) -> None:
        """Check the free space of the disk that a file goes to.

        Raises:
            ExportError: if there is less than ``needed`` bytes.
        """
        with explained(target):
            free = shutil.disk_usage(target.parent).free
        if free < needed:
            raise ExportError(
                f'The file "{target}" needs {human_bytes(needed)}, but only {human_bytes(free)} are free there; '
                "choose a smaller output size, float16, or another disk."
            )

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.exists() and folder != folder.parent:
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            if path.is_symlink():
                raise ExportError(
                    f'Cannot write into "{path}": it is a link to "{os.readlink(path)}", which is not there; make that folder.'
                )
            path.mkdir(exist_ok=True)
            self._folders.append(path)

    def _rename(self) -> None:
        several = len(self._parts) > 1
        renamed: list[tuple[Path, Path | None]] = []
        try:
            for target, part in self._parts.items():
                with explained(target):
                    # One file is replaced in a single step. Of several, the old ones are kept until all are in place.
                    old = part.with_suffix(".old") if several and os.path.lexists(target) else None
                    if old is not None:
                        os.replace(target, old)
                    renamed.append((target, old))
                    os.replace(part, target)
        except BaseException:
            for target, old in reversed(renamed):
                if old is not None:
                    os.replace(old, target)
                elif not self._parts[target].exists():
                    target.unlink(missing_ok=True)
            raise
        for _, old in renamed:
            if old is not None:
                with suppress(OSError):
                    old.unlink()

    def _clean_up(self) -> None:
        for part in self._parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)
        for folder in reversed(self._folders):
            with suppress(OSError):  # not empty: someone else put something into it
                folder.rmdir()
        self._parts.clear()
        self._folders.clear()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write a file into a sentence."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error) or type(error).__name__).strip().rstrip(".")
        raise ExportError(f'Cannot write "{path}": {reason[:1].lower() + reason[1:]}.') from error
