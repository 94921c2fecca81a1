"""Files that were changed by chance or on purpose: each is read or refused in a sentence, and nothing reaches the terminal."""

from __future__ import annotations

import json
import random
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pillow
from safetensors.torch import load_file, save_file

from featup_app.backbones.weights import read_tensors
from featup_app.base.errors import ExportError, FeatUpError
from featup_app.base.files import PROVENANCE
from featup_app.base.resources import resource
from featup_app.evaluation.datasets import Item
from featup_app.evaluation.probe_files import read_probes, write_probes
from featup_app.evaluation.probes import LinearProbe
from featup_app.evaluation.segmentation import ProbeSet
from featup_app.export import export_features, load_export, picture_provenance
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import FeatureField, load_upsampler, upsample
from featup_app.fields.implicit.files import read_fit_facts
from featup_app.images import image_from_array

HEADERS = {
    "an open bracket": "{'descr': '<f4', 'fortran_order': False, 'shape': (3, ",
    "an open string": "{'descr': '<f4",
    "no Python": ") ) 1 ( $ ?",
    "numbers of Python 2": "{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 4L, 4L), }",
    "odd escapes": r"{'descr': '\d\<f4', 'fortran_order': False, 'shape': (3, 4, 4), }",
    "brackets in brackets": "(" * 3000,
    "more than any memory": "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000), }",
    "a negative shape": "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 4, 4), }",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (3, 4, 4), }",
}


def npy(header: str) -> bytes:
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(192)


@pytest.fixture
def field() -> FeatureField:
    image = image_from_array(np.zeros((16, 16, 3), np.uint8))
    data = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    return upsample(FeatureMap(data, Geometry((16, 16), (16, 16), (4, 4)), "made", image), image, "bilinear")


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_are_none(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    described = BytesIO()
    np.save(described, np.array("{}"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", npy(HEADERS[name]))
        archive.writestr(f"{PROVENANCE}.npy", described.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ExportError, match=r"Cannot read .*a\.npz") as caught:
            load_export(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", '{"schema": 1}', "{", "\ud800", '{"array": [], "schema": "featup-app/features"}']
)
def test_descriptions_that_are_none(text: str, tmp_path: Path, field: FeatureField) -> None:
    export_features(field, tmp_path / "a.npy", size=(4, 4))
    (tmp_path / "a.npy.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ExportError, match="Cannot read"):
        load_export(tmp_path / "a.npy")
    for read in (load_upsampler, read_fit_facts):
        if "\ud800" not in text:
            save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={PROVENANCE: text})
            with pytest.raises(FeatUpError):
                read(tmp_path / "a.safetensors")


def made(kind: str, folder: Path, field: FeatureField) -> tuple[Path, Callable[[Path], Any]]:
    """A good file of a kind, and what reads it."""
    suffix = kind.split(" ")[1]
    path = folder / f"good{suffix}"
    if kind.startswith("export"):
        return export_features(field, path, size=(4, 4)), load_export
    if kind == "description .json":
        beside = export_features(field, folder / "good.npy", size=(4, 4))
        return folder / "good.npy.json", lambda changed: load_export(_beside(changed, beside))
    if kind == "picture .png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("featup-app", json.dumps({"schema": "featup-app/picture"}))
        pillow.new("RGB", (20, 10)).save(path, pnginfo=info)
        return path, picture_provenance
    if kind.startswith("upsampler"):
        weights = resource("weights", "jbu-universal.safetensors")
        if suffix == ".safetensors":
            path.write_bytes(weights.read_bytes())
        else:
            torch.save({"state_dict": load_file(weights)}, path)
        return path, load_upsampler
    if kind.startswith("checkpoint"):
        torch.save(
            {"model": {"a.b": torch.zeros(4), "c": torch.ones(3, 3)}, "best": np.float64(1)},
            path,
            _use_new_zipfile_serialization=suffix == ".pth",
        )
        return path, read_tensors
    if kind == "probes .npz":
        write_probes(ProbeSet((LinearProbe(torch.zeros(2, 3), torch.zeros(2), 1.0),), 2, "x"), path)
        return path, read_probes
    mode = {".png": "P", ".tif": "F"}[suffix]
    pillow.fromarray(np.zeros((20, 30), np.uint8)).convert(mode).save(path)
    return path, lambda changed: (
        Item("x", changed, changed, class_count=3).labels(),
        Item("x", changed, changed).depths(),
    )


def _beside(description: Path, array: Path) -> Path:
    (array.parent / f"{array.name}.json").write_bytes(description.read_bytes())
    return array


KINDS = (
    "export .npz", "export .npy", "export .safetensors", "description .json", "picture .png", "upsampler .safetensors",
    "upsampler .pth", "checkpoint .pth", "checkpoint .pt", "probes .npz", "targets .png", "targets .tif",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes(kind: str, tmp_path: Path, field: FeatureField) -> None:
    path, read = made(kind, tmp_path, field)
    good, numbers = path.read_bytes(), random.Random(0)
    for _ in range(60):
        path.write_bytes(changed(good, numbers))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read(path)
            except FeatUpError as error:
                assert "\n" not in str(error)  # noqa: PT017 - a changed file may be good all the same


def changed(content: bytes, numbers: random.Random) -> bytes:
    """The content with one to five bytes changed, left out or added, most of them near the start; or cut short."""
    result = bytearray(content)
    for _ in range(numbers.choice((1, 1, 2, 5))):
        position = numbers.randrange(min(len(result), numbers.choice((128, 400, 4000, len(content)))) or 1)
        how = numbers.randrange(10)
        if how < 5:
            result[position : position + 1] = bytes([numbers.randrange(256)])
        elif how < 7:
            result[position : position + 1] = bytes([numbers.choice(b"(){}[]'\"\\\n\0,:0123456789")])
        elif how < 8:
            del result[position : position + numbers.randrange(1, 9)]
        elif how < 9:
            result[position:position] = bytes(numbers.choices(b"(){}[]'\"\\\n\0,:09", k=3))
        else:
            del result[position + 1 :]
    return bytes(result)
