"""Files from which an interrupted training goes on: tensors and plain values only, written whole or not at all."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from featup_app.base.errors import UpsamplerError
from featup_app.base.files import replace_or_raise

SCHEMA = "featup-app/training"
VERSION = 2


def write_training(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training.

    Args:
        state: tensors, numbers, texts, and dictionaries and lists of them; "facts" says what is trained on what.

    Raises:
        UpsamplerError: if the file cannot be written.
    """
    content = io.BytesIO()
    torch.save({"schema": SCHEMA, "version": VERSION, **state}, content)
    replace_or_raise(path, content.getvalue(), UpsamplerError)


def read_training(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Read the state of a training; nothing in the file is executed.

    Args:
        facts: of the training that is to go on; those of the file must be the same.

    Raises:
        UpsamplerError: if it is not such a file, or of another training.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else "it is damaged or something else"
        raise UpsamplerError(
            f'Cannot resume from "{path}": {reason or "it cannot be read"}; give the .training.pt file that an '
            "interrupted training left."
        ) from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA or state.get("version") != VERSION:
        raise UpsamplerError(
            f'Cannot resume from "{path}": it does not hold a training of this version; give the .training.pt file '
            "that an interrupted training left."
        )
    for key, value in json.loads(json.dumps(facts)).items():
        stored = json.loads(json.dumps(state.get("facts", {}).get(key)))
        if stored != value:
            raise UpsamplerError(
                f'Cannot resume from "{path}": its {_difference(key, stored, value)}; go on with the same recipe, '
                "seed, backbone, images and sizes."
            )
    return state


def _difference(key: str, stored: Any, wanted: Any) -> str:
    """The first difference between two sets of facts, in words."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for name in wanted:
            if stored.get(name) != wanted[name]:
                return _difference(name, stored.get(name), wanted[name])
    if isinstance(stored, list) and isinstance(wanted, list) and len(stored) == len(wanted):
        for one, other in zip(stored, wanted, strict=True):
            if one != other:
                return _difference(key, one, other)
    return f"{key} is {str(stored)[:60]}, not {str(wanted)[:60]}"
