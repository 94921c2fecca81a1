"""Writing files whole or not at all, and facts in the types that JSON knows."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import socket
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from featup_app.base.errors import FeatUpError

PROVENANCE = "provenance"
"""Key of the JSON text about its origin in files that have room for it: in the metadata of safetensors, in archives of NumPy."""

_numbers = itertools.count(1)
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_PARTIAL = re.compile(rf"\..+\.{_HOST}-(\d+)-\d+\.part")
_swept: set[Path] = set()


def partial_name(target: Path) -> Path:
    """A hidden name beside a file, under which it is written; no other process and no other call has it.

    Files of this kind that lie in the folder are removed if the process that wrote them was killed. Numbers of processes mean
    nothing on other computers, so that files of those stay.
    """
    folder = target.parent
    if folder not in _swept:
        _swept.add(folder)
        _sweep(folder)
    return folder / f".{target.name[:40]}.{_HOST}-{os.getpid()}-{next(_numbers)}.part"


def _sweep(folder: Path) -> None:
    import psutil

    with contextlib.suppress(OSError):  # what cannot be removed disturbs nobody
        for name in os.listdir(folder):
            found = _PARTIAL.fullmatch(name)
            if found is not None and not psutil.pid_exists(int(found[1])):
                (folder / name).unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step; an older one of that name is replaced, and its folder is made if there is none.

    Raises:
        OSError: if it cannot be written; an older file is then as it was.
    """
    part = partial_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def replace_or_raise(path: Path, content: bytes, error: type[FeatUpError]) -> None:
    """:func:`replace_file`, whose failure is an error of this type with a sentence for a person."""
    try:
        replace_file(path, content)
    except OSError as failure:
        raise error(f'Cannot write "{path}": {reason_of(failure)}; choose another name or folder.') from failure


def keep_inputs(target: Path, inputs: Iterable[Path], error: type[FeatUpError]) -> None:
    """Refuse to write a file that is read, under whatever name: a link, other letters on a disk that knows no case.

    Raises:
        FeatUpError: of the given type, if ``target`` is one of ``inputs``.
    """
    if not os.path.lexists(target):
        return
    name = os.path.abspath(target)
    for path in inputs:
        same = os.path.abspath(path) == name
        if not same:
            with contextlib.suppress(OSError, ValueError):  # an input that is not there is no reason to refuse
                same = os.path.samefile(path, target)
        if same:
            raise error(f'Cannot write "{target}": it is an input of this command; choose another name or folder.')


def file_state(path: str) -> tuple[str, int, int]:
    """Differs between versions of a file: path, time of its last change in nanoseconds, bytes; -1 if there is no file."""
    try:
        found = os.stat(os.path.expanduser(path))
    except OSError:
        return path, -1, -1
    return path, found.st_mtime_ns, found.st_size


def reason_of(error: OSError) -> str:
    """The reason that the system gives for an error, for the middle of a sentence."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def plain_facts(value: Any) -> Any:
    """The same facts in the types that JSON knows, so that what is written equals what is read."""
    if isinstance(value, Mapping):
        return {str(key): plain_facts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_facts(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "tolist"):  # an array or a tensor, without importing either library
        return plain_facts(value.tolist())
    return str(value)
