"""A sample exported with every method and view, reduced to what can be compared: hashes and a few numbers of each file.

``python tests/support/golden_exports.py`` writes ``tests/data/golden/exports.json`` anew. Do that only where a change of
what the program computes is meant, and say in the commit why.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden" / "exports.json"
ENVIRONMENT = ("software", "native", "device")
"""Parts of a provenance that say where an export was made and not how."""

FEATURE_VIEWS = "pca,pca:4-6,pca:1,4,9,similarity@40,30,similarity:cosine@10.5,80"
CLASS_VIEWS = "cam,cam:espresso"
VIEWS = f"{FEATURE_VIEWS},{CLASS_VIEWS}"
METHODS = (
    "lowres", "bilinear", "resize_conv", "dip", "strided", "large_image", "carafe", "sapa", "jbu", "implicit",
    "guided_filter", "attention",
)  # fmt: skip
OPTIMISED = ("dip", "implicit")
"""Methods that fit the image. With DINOv2, classes come from the classifier's features, to which they are fitted as well."""
SMALL = ("--size", "70x98", "--output-size", "40x60")
CASES: dict[str, tuple[str, ...]] = {
    **{
        f"dinov2 {method}": ("--method", method, "--views", FEATURE_VIEWS if method in OPTIMISED else VIEWS, *SMALL)
        for method in METHODS
    },
    **{
        f"lite0 {method}": ("--backbone", "tf_efficientnet_lite0", "--method", method, "--views", VIEWS,
                            "--size", "128x160", "--output-size", "8x")
        for method in METHODS
    },
    "classical npy": ("--upsampler", "classical", "--format", "npy", "--views", "pca,cam", *SMALL),
    "safetensors half": ("--format", "safetensors", "--dtype", "bfloat16", *SMALL),
    "npz half": ("--dtype", "float16", "--output-size", "grid", "--size", "70x98"),
    "layer": ("--layer", "block 10", "--views", "pca,similarity@40,30,cam", *SMALL),
    **{f"dinov2 {method} classes": ("--method", method, "--views", CLASS_VIEWS, *SMALL) for method in OPTIMISED},
}  # fmt: skip
SLOW = tuple(f"dinov2 {method} classes" for method in OPTIMISED)
"""Cases that take up to a minute."""


def environment() -> str:
    """What decides about the last bits of a result."""
    import torch

    from featup_app.ops import native_status

    parts = (platform.machine(), torch.__version__, torch.backends.cpu.get_cpu_capability(), native_status().backend)
    return " | ".join(parts)


def sample(path: Path) -> Path:
    """A small picture with edges, gradients and grain, the same on every computer, as a PNG file."""
    from PIL import Image as pillow

    rows, columns = np.mgrid[0:100, 0:140]
    grain = (rows * 7919 + columns * 104729) % 23
    red = np.where((rows - 50) ** 2 + (columns - 60) ** 2 < 900, 210, 60) + grain
    green = 255 * columns // 140 // 2 + np.where(columns > 100, 90, 0) + grain
    blue = 255 * rows // 100 - np.where(rows > 70, 60, 0) // 2 + grain
    pixels = np.clip(np.stack([red, green, blue], axis=2), 0, 255).astype(np.uint8)
    pillow.fromarray(pixels).save(path)
    return path


def exported(case: str, picture: Path, folder: Path) -> dict[str, Any]:
    """The files of one case by name, each as :func:`_content`; exported through the command line."""
    import torch

    from featup_app.cli.main import run

    before, threads = os.environ.get("SOURCE_DATE_EPOCH"), torch.get_num_threads()
    os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    torch.set_num_threads(1)
    try:
        run(["export", str(picture), "-o", str(folder), *CASES[case]])
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"the export of {case} ended with {stop.code}") from stop
    finally:
        torch.set_num_threads(threads)
        if before is None:
            del os.environ["SOURCE_DATE_EPOCH"]
        else:
            os.environ["SOURCE_DATE_EPOCH"] = before
    return {path.name: _content(path) for path in sorted(folder.iterdir()) if path.suffix != ".json"}


def _content(path: Path) -> dict[str, Any]:
    """Hash of the numbers and of their description (but for its environment), and 24 of the numbers, evenly spread."""
    from PIL import Image as pillow

    from featup_app.export import load_export, picture_provenance

    if path.suffix == ".png":
        provenance = picture_provenance(path)
        with pillow.open(path) as opened:
            values = np.asarray(opened)
    else:
        loaded = load_export(path)
        provenance, values = dict(loaded.provenance), np.asarray(loaded.features)
    described = {key: value for key, value in provenance.items() if key not in ENVIRONMENT}
    described["upsampler"]["settings"].pop("seconds", None)  # of a fit
    fixed = json.dumps(_without_numbers(described), sort_keys=True)
    chosen = np.linspace(0, values.size - 1, 24).round().astype(int)
    return {
        "shape": list(values.shape),
        "dtype": str(values.dtype),
        "values": _hash(np.ascontiguousarray(values).tobytes()),
        "description": _hash(json.dumps(described, sort_keys=True).encode()),
        "words": _hash(fixed.encode()),
        "some": [round(float(value), 4) for value in values.reshape(-1)[chosen]],
    }


def _without_numbers(value: Any) -> Any:
    """A description whose computed fractions are left out: the same on every computer."""
    if isinstance(value, dict):
        return {key: _without_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_numbers(item) for item in value]
    return "fraction" if isinstance(value, float) else value


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def record() -> None:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        picture = sample(Path(name) / "sample.png")
        for index, case in enumerate(CASES):
            folder = Path(name) / str(index)
            found[case] = exported(case, picture, folder)
            print(case, len(found[case]), file=sys.stderr)
    parts = [
        f" {json.dumps(case)}: {{\n"
        + ",\n".join(f"  {json.dumps(n)}: {json.dumps(c)}" for n, c in files.items())
        + "\n }"
        for case, files in found.items()
    ]
    cases = ",\n".join(parts)
    GOLDEN.write_text(f'{{"environment": {json.dumps(environment())},\n"cases": {{\n{cases}\n}}}}\n')


if __name__ == "__main__":
    record()
