"""Small records of this program as safetensors: arrays of numpy, and facts as JSON in the metadata. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featup_app.base.errors import FeatUpError
from featup_app.base.files import PROVENANCE, plain_facts, reason_of, replace_or_raise

Arrays = dict[str, NDArray[Any]]


def write_record(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
    *,
    schema: str,
    version: int,
    error: type[FeatUpError],
) -> None:
    """Write a record, whole or not at all; an older file of that name is replaced.

    Args:
        path: of the file, usually ``*.safetensors``.
        arrays: by name.
        facts: about them, JSON-able; schema, version and the version of this program are added.
        schema, version: of the record, which :func:`read_record` compares.
        error: raised with a sentence if the file cannot be written.
    """
    from safetensors.numpy import save

    whole = {**facts, "schema": schema, "version": version, "program": _program()}
    text = json.dumps(plain_facts(whole), sort_keys=True, allow_nan=False)
    replace_or_raise(path, save(dict(arrays), {PROVENANCE: text}), error)


def read_record(
    path: Path, names: Iterable[str], *, schema: str, version: int, what: str, error: type[FeatUpError]
) -> tuple[dict[str, Any], Arrays]:
    """The facts and arrays of a file of :func:`write_record`; nothing in the file is executed.

    Args:
        path: of the file.
        names: of the arrays, which all have to be there, float32 and finite.
        schema, version: as they were written.
        what: a record of this kind, for sentences: "principal components".
        error: raised with a sentence if the file is missing, damaged, or no record of this kind and version.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        kind = "it is a folder; give the file in it" if path.is_dir() else "there is no such file"
        raise error(f'Cannot read "{path}": {kind}.')
    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads((file.metadata() or {}).get(PROVENANCE, "null"))
            found = isinstance(facts, dict) and facts.get("schema") == schema
            stored = set(file.keys()) if found else set()
            arrays = {name: file.get_tensor(name) for name in names if name in stored}
    except OSError as failure:
        raise error(f'Cannot read "{path}": {reason_of(failure)}.') from failure
    except (SafetensorError, TypeError, ValueError, RecursionError) as failure:
        raise error(
            f'"{path}" is damaged, incomplete or no file of safetensors; take another copy of it, or save it again.'
        ) from failure
    if not found:
        raise error(f'"{path}" holds no {what}; give a file that this program saved them to.')
    if facts.get("version") != version:
        raise error(f'"{path}" was written by another version of this program; save the {what} again.')
    for name in names:
        if name not in arrays or arrays[name].dtype != np.float32 or not np.isfinite(arrays[name]).all():
            raise error(f'"{path}" is damaged: its "{name}" is missing or no finite numbers; save the {what} again.')
    return facts, arrays


def _program() -> str | None:
    try:
        return importlib.metadata.version("featup-app")
    except importlib.metadata.PackageNotFoundError:
        return None
