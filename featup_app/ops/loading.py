"""Finding and loading the compiled library of operators. Imports torch only when it loads.

``FEATUP_NATIVE`` chooses: ``auto`` (the default) uses the library if it is there, ``off`` never does, ``require`` makes its
absence an error. ``FEATUP_INSTRUCTION_SET`` (baseline, AVX2, AVX-512) picks slower code than the processor could run.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

ABI_VERSION = 1
_FOLDER = Path(__file__).resolve().parent
_NAME = "featup_native.dll" if sys.platform == "win32" else "featup_native.so"
_lock = threading.Lock()
_library: ctypes.CDLL | None = None
_failure: str | None = None


class TensorView(ctypes.Structure):
    """``featup_tensor`` of native/include/featup_native.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int64 * 4),
        ("stride", ctypes.c_int64 * 4),
        ("dtype", ctypes.c_int32),
    )


def wish() -> str:
    """What FEATUP_NATIVE asks for.

    Raises:
        RuntimeError: if it is none of auto, off and require.
    """
    value = os.environ.get("FEATUP_NATIVE", "") or "auto"
    if value not in ("auto", "off", "require"):
        raise RuntimeError(f"FEATUP_NATIVE is {value!r}; expected auto, off or require")
    return value


def library() -> ctypes.CDLL | None:
    """The library, loaded at the first call; None if it is switched off or cannot be had (see :func:`failure`).

    Raises:
        RuntimeError: if FEATUP_NATIVE=require and there is none.
    """
    global _library, _failure
    wanted = wish()
    if wanted == "off":
        return None
    if _library is None and _failure is None:
        with _lock:
            if _library is None and _failure is None:
                try:
                    _library = _load()
                except (OSError, RuntimeError, AttributeError) as problem:
                    _failure = str(problem)
    if _library is None and wanted == "require":
        raise RuntimeError(f"FEATUP_NATIVE=require, but the compiled operators cannot be used: {_failure}")
    return _library


def loaded() -> ctypes.CDLL | None:
    """The library if it has been loaded already."""
    return _library


def failure() -> str | None:
    """Why loading failed, if it was tried and did."""
    return _failure


def instruction_set(native: ctypes.CDLL) -> str:
    """The name of the processor's instructions that the library uses."""
    return bytes(native.featup_instruction_set()).decode()


def check(message: bytes | None) -> None:
    """Raise what a function of the library returned.

    Raises:
        RuntimeError: with that message.
    """
    if message is not None:
        raise RuntimeError(message.decode())


def _load() -> ctypes.CDLL:
    import torch  # noqa: F401  # first, so that the library finds torch's OpenMP loaded and both share its threads

    path = _FOLDER / _NAME
    if not path.is_file():
        raise RuntimeError("this installation was made without a C++ compiler, so it has no compiled library")
    native = ctypes.CDLL(str(path))
    native.featup_abi_version.restype = ctypes.c_int32
    found = native.featup_abi_version()
    if found != ABI_VERSION:
        raise RuntimeError(
            f"the compiled library has interface {found} and this program needs {ABI_VERSION}; please install again"
        )
    tensor, whole, real = ctypes.POINTER(TensorView), ctypes.c_int32, ctypes.c_double
    reals = ctypes.POINTER(ctypes.c_double)
    signatures: dict[str, list[type]] = {
        "featup_instruction_set": [],
        "featup_use_instruction_set": [ctypes.c_char_p],
        "featup_window_sum": [tensor, tensor, tensor, whole, whole],
        "featup_window_spread": [tensor, tensor, tensor, whole, whole],
        "featup_window_dot": [tensor, tensor, tensor, whole, whole],
        "featup_range_softmax": [tensor, real, reals, tensor, whole, whole],
        "featup_bilateral_weights": [tensor, real, reals, tensor, whole, whole],
    }
    for name, arguments in signatures.items():
        function = getattr(native, name)
        function.argtypes = arguments
        function.restype = ctypes.c_char_p
    chosen = os.environ.get("FEATUP_INSTRUCTION_SET")
    if chosen:
        message = native.featup_use_instruction_set(chosen.encode())
        if message is not None:
            raise RuntimeError(f"FEATUP_INSTRUCTION_SET: {message.decode()}")
    return native
