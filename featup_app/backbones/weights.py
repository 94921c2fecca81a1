"""Reading weights from files, safely: safetensors, or torch's format without arbitrary objects."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from featup_app.errors import BackboneError

State = dict[str, torch.Tensor]

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher", "student", "state_dict_ema", "model_ema", "backbone")
PREFIXES = ("_orig_mod.", "module.", "backbone.", "model.", "encoder.")


def file_sha256(path: Path) -> str:
    """The sha256 of a file; that of a file in the hub's cache is taken from its name there."""
    name = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return name
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_state(path: Path) -> State:
    """The named tensors of a checkpoint, without what training loops wrap around them.

    Raises:
        BackboneError: if the file is missing, damaged, of another kind, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise BackboneError(f"There is no file {path}.")
    if path.suffix.lower() == ".safetensors":
        return unwrap(_read_safetensors(path))
    if path.suffix.lower() in TORCH_SUFFIXES:
        return unwrap(_read_torch(path), path)
    raise BackboneError(
        f"{path} does not look like weights; give a .safetensors file, or a checkpoint of torch "
        f"({', '.join(TORCH_SUFFIXES)})."
    )


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise BackboneError(
            f"{path} is not a complete safetensors file ({_short(error)}); copy or download it again."
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise BackboneError(
                f"{path} holds more than tensors; loading it would run code from the file, so it is refused. "
                "Save its state_dict alone, best as .safetensors."
            ) from error
        raise BackboneError(f"{path} is damaged or not a checkpoint of torch; copy or download it again.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BackboneError(
            f"{path} is damaged or not a checkpoint of torch ({_short(error)}); copy or download it again."
        ) from error


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:100] if lines else type(error).__name__


def unwrap(content: Any, path: Path | None = None) -> State:
    """The named tensors inside a checkpoint, with the prefixes of wrapping modules taken off.

    Where most names carry such a prefix, the others belong to something beside the backbone (a projection head) and are
    left out.
    """
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise BackboneError(f"{path or 'The file'} holds no named tensors.")
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            inside = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            if 2 * len(inside) > len(tensors):
                tensors, stripped = inside, True
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
