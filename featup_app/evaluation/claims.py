"""Claims: locks that keep several processes from the same piece of work. The system releases those of a process that ends.

A claim is a file under an exclusive lock of the operating system. So claims need no expiry and no check whether another process
is alive. A process that is killed leaves an empty file behind, which the next claim reuses.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_HELD_BY_OTHERS = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


@contextlib.contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Claim a piece of work while the block lasts.

    Args:
        folder: the folder of claims; created if there is none.
        name: name of the piece of work, any text.

    Yields:
        Whether the claim was granted; if not, another process (or another part of this one) holds it.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:24]}.lock"
    handle = _acquire(path)
    if handle is None:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove open files
            path.unlink()
        os.close(handle)


def _acquire(path: Path) -> int | None:
    """A file handle that holds the lock; None if another process holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(handle):
            os.close(handle)
            return None
        if _is_at(path, handle):
            return handle
        os.close(handle)  # its last holder removed the file between our opening and locking it


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _lock(handle: int) -> bool:
    """Whether the lock was granted. On a file system without locks it always is: only one process may work there."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD_BY_OTHERS
    return True
