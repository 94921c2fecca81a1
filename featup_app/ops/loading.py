"""Finding and loading the compiled libraries of operators. Imports torch only when it loads the one for the processor.

``FEATUP_NATIVE`` chooses: ``auto`` (the default) uses a library if it can be used, ``off`` never does, ``require`` makes it an
error if it cannot: always for the library of the processor, and with CUDA tensors for the CUDA library (``ops.cuda``).
``FEATUP_INSTRUCTION_SET`` (baseline, AVX2, AVX-512) selects slower code than the processor could run.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from featup_app.ops.c_interface import ABI_VERSION, Place, TensorDescriptor, check, declare

_FOLDER = Path(__file__).resolve().parent
_NAME = "featup_native.dll" if sys.platform == "win32" else "featup_native.so"


class SharedLibrary:
    """A compiled library, which is opened once, at its first use. The reason why it cannot be opened is kept as a sentence.

    Attributes:
        loaded: the library, once it has been opened.
        failure: why opening it failed, without a full stop, if it was tried and failed.
    """

    def __init__(
        self,
        title: str,
        compiler: str,
        prefix: str,
        path: Callable[[], Path],
        prepare: Callable[[ctypes.CDLL], None],
    ) -> None:
        """Describe a library without searching for it.

        Args:
            title: the name of the library in messages.
            compiler: the compiler that builds it, for messages.
            prefix: the beginning of its functions' names.
            path: returns the path of the file; called when the library is opened.
            prepare: declares its functions; may raise RuntimeError or AttributeError, which count as failures to open it.
        """
        self._title, self._compiler, self._prefix = title, compiler, prefix
        self._path, self._prepare = path, prepare
        self._lock = threading.Lock()
        self.loaded: ctypes.CDLL | None = None
        self.failure: str | None = None

    def get(self) -> ctypes.CDLL | None:
        """The library, opened at the first call; None if it cannot be used (see ``failure``)."""
        if self.loaded is None and self.failure is None:
            with self._lock:
                if self.loaded is None and self.failure is None:
                    try:
                        self.loaded = self.open(self._path())
                    except (OSError, RuntimeError, AttributeError) as problem:
                        self.failure = str(problem)
        return self.loaded

    def open(self, path: Path) -> ctypes.CDLL:
        """Open a file, whether or not one was opened before, without keeping it.

        Raises:
            OSError: if it is no library, or one that cannot be loaded here.
            RuntimeError: if it does not exist, or has another interface.
            AttributeError: if it lacks a function.
        """
        if not path.is_file():
            raise RuntimeError(f"this installation was made without a {self._compiler}, so it has no {self._title}")
        native = ctypes.CDLL(str(path))
        version = getattr(native, f"{self._prefix}abi_version")
        version.restype = ctypes.c_int32
        found = version()
        if found != ABI_VERSION:
            raise RuntimeError(
                f"the {self._title} has interface {found} and this program needs {ABI_VERSION}; please install again"
            )
        self._prepare(native)
        return native


def mode() -> str:
    """The value of FEATUP_NATIVE.

    Raises:
        RuntimeError: if it is none of auto, off and require.
    """
    value = os.environ.get("FEATUP_NATIVE", "") or "auto"
    if value not in ("auto", "off", "require"):
        raise RuntimeError(f"FEATUP_NATIVE is {value!r}; expected auto, off or require")
    return value


def library() -> ctypes.CDLL | None:
    """The library, loaded at the first call; None if it is switched off or cannot be used (see :func:`failure`).

    Raises:
        RuntimeError: if FEATUP_NATIVE=require and it cannot be used.
    """
    wanted = mode()
    if wanted == "off":
        return None
    native = _library.get()
    if native is None and wanted == "require":
        raise RuntimeError(f"FEATUP_NATIVE=require, but the compiled operators cannot be used: {_library.failure}")
    return native


def loaded() -> ctypes.CDLL | None:
    """The library if it has been loaded already."""
    return _library.loaded


def failure() -> str | None:
    """Why loading failed, if it was tried and failed."""
    return _library.failure


def instruction_set(native: ctypes.CDLL) -> str:
    """The name of the instruction set that the library uses."""
    return bytes(native.featup_instruction_set()).decode()


def _path() -> Path:
    import torch  # noqa: F401  # first, so that the library finds torch's OpenMP loaded and both share its threads

    return _FOLDER / _NAME


def _prepare(native: ctypes.CDLL) -> None:
    tensor, whole, real = ctypes.POINTER(TensorDescriptor), ctypes.c_int32, ctypes.c_double
    address = ctypes.c_void_p
    reals, wholes = ctypes.POINTER(ctypes.c_double), ctypes.POINTER(ctypes.c_int64)
    signatures: dict[str, list[Any]] = {
        "featup_instruction_set": [],
        "featup_use_instruction_set": [ctypes.c_char_p],
        "featup_window_sum": [tensor, tensor, tensor, whole, whole],
        "featup_window_sum_grad_input": [tensor, tensor, tensor, whole, whole],
        "featup_window_sum_grad_weights": [tensor, tensor, tensor, whole, whole],
        "featup_range_softmax": [tensor, real, reals, tensor, whole, whole],
        "featup_bilateral_weights": [tensor, real, reals, tensor, whole, whole],
        "featup_guided_double": [tensor, tensor, tensor, ctypes.POINTER(Place), whole],
        "featup_pixel_network": [*[tensor] * 7, real, real, whole],
        "featup_round_weights": [tensor, tensor, whole],
        "featup_bilinear": [tensor, tensor, wholes, reals, wholes, reals, whole],
        "featup_cell_attention": [*[tensor] * 5, address, address, tensor, whole],
        "featup_cell_attention_weights": [*[tensor] * 4, address, address, tensor, whole],
        "featup_cell_attention_backward": [*[tensor] * 5, address, address, *[tensor] * 6, whole],
        "featup_multiply_add": [ctypes.c_int64, whole, reals],
    }
    declare(native, signatures)
    chosen = os.environ.get("FEATUP_INSTRUCTION_SET")
    if chosen:
        message = native.featup_use_instruction_set(chosen.encode())
        check(None if message is None else b"FEATUP_INSTRUCTION_SET: " + message)


_library = SharedLibrary("compiled library", "C++ compiler", "featup_", _path, _prepare)
