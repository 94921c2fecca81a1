"""Full features to a file, tile by tile: never more than one tile in memory, nothing but complete files on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.base.errors import ExportError
from featup_app.base.progress import Progress, silent
from featup_app.export import containers
from featup_app.export.array_file import TileWriter, as_array
from featup_app.export.provenance import array_facts, as_json, build_provenance
from featup_app.export.staging import Staging, explained
from featup_app.features import Size

if TYPE_CHECKING:
    from featup_app.fields import FeatureField

FORMATS = ("npz", "npy", "safetensors")
DTYPES = ("float32", "float16", "bfloat16")
MEMORY_BUDGET = 192 * 2**20

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_OVERHEAD = 1 << 20
"""Room for headers and provenance when free space is compared with what an export needs."""


def estimated_bytes(channels: int, size: Size, dtype: str = "float32") -> int:
    """Bytes of the exported array, headers and provenance (some kilobytes) not counted."""
    return channels * size[0] * size[1] * _ITEM_BYTES[_checked_dtype(dtype)]


def export_features(
    field: FeatureField,
    path: str | Path,
    *,
    size: Size | None = None,
    format: str | None = None,
    dtype: str = "float32",
    provenance: Mapping[str, Any] | None = None,
    memory_budget: int = MEMORY_BUDGET,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write all channels of a field, (C, H, W), to a file that plain numpy or safetensors opens.

    ``npy``: ``np.load(path)``, the provenance in ``<name>.json`` beside it. ``npz``: ``np.load(path)["features"]`` and
    ``["provenance"]``. ``safetensors``: the tensor ``features``, the provenance in the metadata.

    Args:
        field: what to write.
        path: the file. Its folder is made if there is none.
        size: (H, W) of the output; the size of the image if not given.
        format: one of :data:`FORMATS`; from the suffix of ``path`` if not given.
        dtype: one of :data:`DTYPES`; bfloat16 in safetensors only.
        provenance: from :func:`~featup_app.export.build_provenance`; made of the field if not given.
        memory_budget: bytes that finished tiles may take until they are written; the one that is being computed may
            use half as many.
        overwrite: whether a file of that name may be replaced.
        progress: may cancel; then, as after any failure, nothing is left behind.

    Returns:
        The path.

    Raises:
        ExportError: if format, type and path do not go together, the file is there already, does not fit on the disk or
            cannot be written, or a value is too large for the type.
    """
    target = Path(path)
    size = _checked_size(size or field.geometry.image_hw)
    if provenance is None:
        provenance = build_provenance(features=field.coarse, field=field, size=size)
    with Staging(overwrite=overwrite) as files:
        stage_features(
            files,
            field,
            target,
            size=size,
            format=checked_format(target, format),
            dtype=dtype,
            provenance=provenance,
            memory_budget=memory_budget,
            progress=progress,
        )
    return target


def stage_features(
    files: Staging,
    field: FeatureField,
    target: Path,
    *,
    size: Size,
    format: str,
    dtype: str,
    provenance: Mapping[str, Any],
    memory_budget: int = MEMORY_BUDGET,
    progress: Progress = silent,
) -> list[Path]:
    """:func:`export_features` as a part of a larger export: the files get their names when ``files`` ends.

    Returns:
        The files that there will be.
    """
    check_choice(format, dtype)
    shape = (field.channels, *_checked_size(size))
    byte_count = estimated_bytes(field.channels, size, dtype)
    text = as_json({**provenance, "array": array_facts(field.geometry, shape, dtype)})
    targets = [target]
    if format == "npy":
        beside = json_beside(target)
        targets.insert(0, beside)
        part = files.add(beside)
        with explained(beside):
            part.write_text(text + "\n", encoding="utf-8")
        prefix = containers.npy_prefix(shape, dtype)
    elif format == "npz":
        prefix = containers.npz_prefix(shape, dtype, byte_count)
    else:
        prefix = containers.safetensors_prefix(shape, dtype, byte_count, text)
    part = files.add(target)
    files.need_space(target, byte_count + _OVERHEAD)
    with explained(target), part.open("w+b", buffering=0) as stream:
        stream.write(prefix)
        stream.truncate(len(prefix) + byte_count)
        writer = TileWriter(stream, len(prefix), size, memory_budget)
        for region, tile in field.tiles(size=size, memory_budget=memory_budget // 2, progress=progress):
            writer.write(region, as_array(tile, dtype))
        if format == "npz":
            inner = len(containers.npy_prefix(shape, dtype))
            containers.finish_npz(stream, inner + byte_count, text, progress)
    return targets


def json_beside(path: Path) -> Path:
    """Where the provenance of a .npy file lies."""
    return path.with_name(f"{path.name}.json")


def checked_format(path: Path, format: str | None) -> str:
    """The format of a file: as said, or else as its suffix says.

    Raises:
        ExportError: if there is no such format, or name and format contradict each other.
    """
    suffix = path.suffix.lower().lstrip(".")
    if format is None:
        if suffix not in FORMATS:
            endings = ", ".join(f".{name}" for name in FORMATS)
            raise ExportError(
                f'The name "{path.name}" does not say in which format to write; end it in one of: {endings}.'
            )
        return suffix
    if suffix in FORMATS and suffix != format and format in FORMATS:
        raise ExportError(f'The name "{path.name}" does not suit the format {format}; end it in .{format}.')
    return format


def check_choice(format: str, dtype: str) -> None:
    """Raises ExportError unless features can be written in this format with values of this type."""
    if format not in FORMATS:
        raise ExportError(f'There is no export format "{format}". Choose one of: {", ".join(FORMATS)}.')
    _checked_dtype(dtype)
    if dtype == "bfloat16" and format != "safetensors":
        raise ExportError(
            f"numpy has no bfloat16, so a .{format} file cannot hold it; choose the format safetensors, "
            "or the type float16 or float32."
        )


def _checked_dtype(dtype: str) -> str:
    if dtype not in DTYPES:
        raise ExportError(f'Features cannot be written as "{dtype}". Choose one of: {", ".join(DTYPES)}.')
    return dtype


def _checked_size(size: Size) -> Size:
    if min(size) < 1:
        raise ExportError(f"Features of {size[0]}x{size[1]} pixels cannot be written; both sides must be at least 1.")
    return size


def read_json(text: str) -> dict[str, Any]:
    """The provenance that :func:`as_json` wrote. Raises ValueError for anything else."""
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content
