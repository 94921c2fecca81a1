"""Reading weights from files, safely: safetensors, or torch's format without arbitrary objects."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from featup_app.base.errors import BackboneError, without_warnings

State = dict[str, torch.Tensor]

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
WRAPPERS = (
    "state_dict", "params_ema", "model", "model_state_dict", "teacher", "student", "state_dict_ema", "model_ema", "backbone",
    "params", "net", "network", "module", "ema",
)  # fmt: skip
PREFIXES = ("_orig_mod.", "module.", "backbone.", "model.", "encoder.", "teacher.", "net.", "vit.", "visual.")


def file_sha256(path: Path) -> str:
    """The sha256 of a file; for a file in the hub's cache, its name there is the sha256."""
    name = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return name
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_tensors(path: Path) -> State:
    """The named tensors of a checkpoint as they are, with the names of the modules that wrap them.

    Raises:
        BackboneError: if the file is missing, damaged, of another kind, or holds anything but tensors and plain values.
    """
    return named_tensors(read_content(path)[0], path)


def read_content(path: Path) -> tuple[Any, dict[str, str]]:
    """The content of a checkpoint as it was saved, and the texts in the metadata of a safetensors file.

    Raises:
        BackboneError: as :func:`read_state`.
    """
    if path.is_dir():
        raise BackboneError(f"{path} is a folder; give the file with the weights.")
    if not path.is_file():
        raise BackboneError(f"There is no file {path}.")
    if path.stat().st_size == 0:
        raise BackboneError(f"{path} is empty; copy or download it again.")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    if path.suffix.lower() in TORCH_SUFFIXES:
        return _read_torch(path), {}
    raise BackboneError(
        f"{path} does not look like weights; give a .safetensors file, or a checkpoint of torch "
        f"({', '.join(TORCH_SUFFIXES)})."
    )


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            names = stored.keys()
            return {name: stored.get_tensor(name) for name in names}, stored.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise BackboneError(
            f"{path} is not a complete safetensors file ({_short(error)}); copy or download it again."
        ) from error


class _LeftOut:
    """Stands for an object that weights do not need: accepts any arguments, does nothing."""

    def __new__(cls, *values: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *values: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _LeftOutMapping:
    """Stands for a kind of dictionary, whose entries torch's reader puts into a plain one."""

    def __new__(cls, *values: Any) -> Any:
        return {}


_NUMPY_KINDS = (
    "Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32", "Float64",
    "Str", "Bytes",
)  # fmt: skip

_HARMLESS = [
    *((_LeftOut, f"builtins.{name}") for name in ("bool", "dict", "float", "int", "list", "set", "str", "tuple")),
    *((_LeftOut, f"pathlib.{name}") for name in ("PosixPath", "WindowsPath", "_local.PosixPath", "_local.WindowsPath")),
    *((_LeftOut, f"omegaconf.base.{name}") for name in ("ContainerMetadata", "Metadata")),
    *((_LeftOut, f"omegaconf.{name}") for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "nodes.AnyNode")),
    *(
        (_LeftOut, f"{module}.multiarray.{name}")
        for module in ("numpy.core", "numpy._core")
        for name in ("scalar", "_reconstruct")
    ),
    *((_LeftOut, f"numpy.{name}") for name in ("dtype", "ndarray")),
    *((_LeftOut, f"numpy.dtypes.{kind}DType") for kind in _NUMPY_KINDS),
    *((_LeftOut, f"datetime.{name}") for name in ("datetime", "date", "timedelta", "timezone")),
    (_LeftOut, "argparse.Namespace"),
    (_LeftOut, "types.SimpleNamespace"),
    (_LeftOut, "typing.Any"),
    (_LeftOutMapping, "collections.defaultdict"),
    (_LeftOutMapping, "lightning.fabric.utilities.data.AttributeDict"),
    (_LeftOutMapping, "lightning_fabric.utilities.data.AttributeDict"),
    (_LeftOutMapping, "pytorch_lightning.utilities.parsing.AttributeDict"),
]
"""Types that training programs save beside the weights. None of them is built: the stand-ins replace them."""

_REFUSALS = ("global", "reduce", "can only create new object", "can only build")
"""Words in the errors of torch's safe reader when a file would run code; its other errors mean damaged files."""


def _read_torch(path: Path) -> Any:
    try:
        # Torch warns about old formats of the file in words for programmers.
        with torch.serialization.safe_globals(list(_HARMLESS)), without_warnings():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if any(word in str(error).lower() for word in _REFUSALS):
            raise BackboneError(
                f"{path} holds more than tensors; loading it would run code from the file, so it is refused. "
                "Save its state_dict alone, best as .safetensors."
            ) from error
        raise BackboneError(f"{path} is damaged or not a checkpoint of torch; copy or download it again.") from error
    except Exception as error:  # a damaged file breaks the reader in any way: struct, index, unicode, key errors
        reason = f" ({_short(error)})" if " " in _short(error) else ""
        raise BackboneError(
            f"{path} is damaged or not a checkpoint of torch{reason}; copy or download it again."
        ) from error


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:100] if lines else type(error).__name__


def named_tensors(content: Any, path: Path | None = None) -> State:
    """The named tensors inside a checkpoint, without what a training loop saves beside them.

    Raises:
        BackboneError: if there are none.
    """
    while isinstance(content, Mapping):
        inside = {key: value for key, value in content.items() if isinstance(value, Mapping) and _count(value)}
        known = next((inside[key] for key in WRAPPERS if key in inside), None)
        if known is None and inside and not any(isinstance(value, torch.Tensor) for value in content.values()):
            known = max(inside.values(), key=_count)
        if known is None:
            break
        content = known
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise BackboneError(f"{path or 'The file'} holds no named tensors.")
    return tensors


def _count(content: Mapping[Any, Any]) -> int:
    """How many tensors a mapping holds, inner mappings included."""
    return sum(_count(v) if isinstance(v, Mapping) else isinstance(v, torch.Tensor) for v in content.values())


def without_prefixes(tensors: State) -> State:
    """The tensors without the prefixes of wrapping modules, floating point ones in float32.

    Where most names have such a prefix, the others belong to another part, such as a projection head, and are left out.
    """
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            inside = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            if 2 * len(inside) > len(tensors):
                tensors, stripped = inside, True
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
