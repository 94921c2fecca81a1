"""Reading exports back, all three formats. Nothing in a file is ever executed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featup_app.base.errors import ExportError, FeatUpError, without_warnings
from featup_app.base.files import PROVENANCE
from featup_app.export.containers import FEATURES
from featup_app.export.feature_files import json_beside, read_json
from featup_app.export.provenance import SCHEMA, VERSION


@dataclass(frozen=True, eq=False)
class LoadedExport:
    """An export read back.

    Attributes:
        features: (C, H, W) float32 or float16. Of a .npy file a read-only memory map; bfloat16 values, which numpy does
            not have, come as float32, which holds each of them exactly.
        provenance: the facts of :func:`~featup_app.export.build_provenance`, with ``array``.
        path: the file.
    """

    features: NDArray[Any]
    provenance: dict[str, Any]
    path: Path


def load_export(path: str | Path) -> LoadedExport:
    """Features that :func:`~featup_app.export.export_features` wrote; the content of the file decides about its format.

    Raises:
        ExportError: if the file is missing, damaged, not an export of this program, or of a newer version of it.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
    except FileNotFoundError as error:
        raise ExportError(f'Cannot read "{path}": there is no such file.') from error
    except OSError as error:
        raise ExportError(f'Cannot read "{path}": {(error.strerror or str(error)).lower()}.') from error
    try:
        with without_warnings():  # numpy warns about headers that are none
            if start.startswith(b"\x93NUMPY"):
                features, provenance = _read_npy(path)
            elif start.startswith(b"PK\x03\x04"):
                features, provenance = _read_npz(path)
            else:
                features, provenance = _read_safetensors(path, start)
        _check(path, features, provenance)
    except FeatUpError:
        raise
    except Exception as error:  # a damaged file breaks the readers in any way: tokens, zip members, unicode, memory
        raise ExportError(
            f'Cannot read "{path}": it is damaged, cut short or not an export of featup-app ({_reason(error)}).'
        ) from error
    return LoadedExport(features, provenance, path)


def _read_npy(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    beside = json_beside(path)
    if not beside.is_file():
        raise ExportError(
            f'Cannot read "{path}": its description "{beside.name}" is missing; it belongs in the same folder.'
        )
    features: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return features, read_json(beside.read_text(encoding="utf-8"))


def _read_npz(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        if PROVENANCE not in archive or FEATURES not in archive:
            raise _foreign(path)
        return archive[FEATURES], read_json(str(archive[PROVENANCE][()]))


def _read_safetensors(path: Path, start: bytes) -> tuple[NDArray[Any], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if len(start) < 8 or struct.unpack("<Q", start)[0] > path.stat().st_size:
        raise _foreign(path)
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(PROVENANCE)
            if text is None or FEATURES not in file.keys():  # noqa: SIM118 - it is not a mapping
                raise _foreign(path)
            provenance = read_json(text)
            if provenance.get("array", {}).get("dtype") != "bfloat16":
                return file.get_tensor(FEATURES), provenance
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(FEATURES).float().numpy(), provenance
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _check(path: Path, features: NDArray[Any], provenance: dict[str, Any]) -> None:
    if provenance.get("schema") != SCHEMA:
        raise _foreign(path)
    if not isinstance(features, np.ndarray) or features.dtype.kind != "f":
        raise _foreign(path)
    version = provenance.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ExportError(
            f'Cannot read "{path}": a newer version of featup-app (format {version}) wrote it; update this one.'
        )
    shape = provenance.get("array", {}).get("shape")
    if list(features.shape) != shape:
        raise ExportError(
            f'Cannot read "{path}": its array has the shape {list(features.shape)}, but its description says {shape}.'
        )


def _foreign(path: Path) -> ExportError:
    return ExportError(f'Cannot read "{path}": it is not an export of featup-app.')


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:120] or type(error).__name__
