"""Where an export comes from: everything that is needed to make it again, as one JSON object."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from featup_app.base.files import plain_facts
from featup_app.features import FeatureMap, Geometry, Size
from featup_app.ops import native_status

if TYPE_CHECKING:
    from featup_app.fields import FeatureField

SCHEMA = "featup-app/export"
VERSION = 1

_PREPROCESSING = ("mean", "std", "interpolation", "input_hw")
_RENAMED = {"backbone": "name"}
_LEFT_OUT = ("timm",)  # stands with the other versions


def build_provenance(
    *,
    features: FeatureMap,
    field: FeatureField,
    size: Size,
    view: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """The facts about an export, JSON-able.

    Two exports with the same settings differ in ``created`` alone, and not even there where the environment variable
    SOURCE_DATE_EPOCH (seconds since 1970) is set.

    Args:
        features: the low-resolution map; names image, backbone and preprocessing.
        field: the upsampled features.
        size: (H, W) of what is exported.
        view: of a picture: which lens, with all of its settings.
        seed: of random numbers that had a part in it; None if there were none.
    """
    image, facts, native = features.image, features.provenance, native_status()
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "version": VERSION,
        "created": _now(),
        "software": versions(),
        "native": {"backend": native.backend, "detail": native.detail},
        "device": _device(features),
        "precision": str(features.data.dtype).removeprefix("torch."),
        "seed": seed,
        "image": {
            "name": image.name,
            "sha256": image.sha256,
            "size_hw": image.size_hw,
            "mode": image.mode,
            "notes": image.notes,
            **({"selection": str(image.selection)} if image.selection else {}),
        },
        "backbone": {
            "layer": features.layer,
            **{_RENAMED.get(k, k): v for k, v in facts.items() if k not in (*_PREPROCESSING, *_LEFT_OUT)},
        },
        "preprocess": {
            "input_hw": features.geometry.input_hw,
            "padding": "none",
            "cropping": "none",
            "orientation": "EXIF orientation applied before everything else",
            **{key: facts[key] for key in _PREPROCESSING if key in facts},
        },
        "grid": _grid_facts(features.geometry),
        "upsampler": {"method": field.method, "settings": field.settings(), "output_hw": size},
        "mapping": _mapping(features.geometry, size),
    }
    if view is not None:
        result["view"] = dict(view)
    plain: dict[str, Any] = plain_facts(result)
    return plain


def array_facts(geometry: Geometry, shape: Sequence[int], dtype: str) -> dict[str, Any]:
    """What the exported array is: names of its axes, shape, type, and pixels of the image per cell."""
    height, width = shape[1:]
    return {
        "axes": ["C", "H", "W"],
        "shape": list(shape),
        "dtype": dtype,
        "stride_xy": [geometry.image_hw[1] / width, geometry.image_hw[0] / height],
    }


def as_json(provenance: Mapping[str, Any]) -> str:
    """ASCII text with sorted keys, the same for the same facts; numbers that are not finite become null."""
    return json.dumps(plain_facts(provenance), sort_keys=True, allow_nan=False)


def versions() -> dict[str, str | None]:
    """Versions of this program and of what computes; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("featup-app", "torch", "timm", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _now() -> str:
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(fixed), timezone.utc) if fixed.isdigit() else datetime.now(timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _device(features: FeatureMap) -> str:
    device = features.data.device
    if device.type != "cuda":
        return str(device)
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def _mapping(geometry: Geometry, size: Size) -> dict[str, Any]:
    """From the pixels of the export to points of the original image."""
    return {
        "scale_xy": [geometry.image_hw[1] / size[1], geometry.image_hw[0] / size[0]],
        "offset_xy": [0.0, 0.0],
        "convention": (
            "Column j and row i of the export show the image point x = (j + 0.5) * scale_x + offset_x, "
            "y = (i + 0.5) * scale_y + offset_y, in pixels of the upright original image, x to the right, y down; "
            "the centre of its top left pixel is (0.5, 0.5)."
        ),
    }


def _grid_facts(geometry: Geometry) -> dict[str, Any]:
    return {
        "grid_hw": geometry.grid_hw,
        "cell_size_xy": geometry.cell_size_xy,
        "offset_xy": geometry.offset_xy,
        "convention": (
            "Column j and row i of the backbone's grid look at x = (j + 0.5 + offset_x) * cell_size_x, "
            "y = (i + 0.5 + offset_y) * cell_size_y."
        ),
    }
