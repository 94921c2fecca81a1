"""Exports: what is written is what the field says, opens without this program, and appears whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from PIL import Image as pillow

from featup_app.base.errors import Cancelled, ExportError
from featup_app.export import (
    Staging,
    array_file,
    build_provenance,
    estimated_bytes,
    export_features,
    load_export,
    picture_provenance,
    write_picture,
)
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import FeatureField, upsample
from featup_app.images import image_from_array

SIZE = (37, 53)
SMALL_TILES = 20_000
KINDS = [
    ("npy", "float32"),
    ("npy", "float16"),
    ("npz", "float32"),
    ("npz", "float16"),
    ("safetensors", "float32"),
    ("safetensors", "float16"),
    ("safetensors", "bfloat16"),
]


def make_field(*, channels: int = 5, scale: float = 1, method: str = "jbu", seed: int = 0) -> FeatureField:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (41, 59, 3), generator=generator, dtype=torch.uint8).numpy()
    features = FeatureMap(
        data=torch.randn(channels, 3, 4, generator=generator) * scale,
        geometry=Geometry(image_hw=(41, 59), input_hw=(42, 56), grid_hw=(3, 4), offset_xy=(0.25, 0.5)),
        layer="block 10",
        image=image_from_array(pixels, name="räuber.png"),
        provenance={"backbone": "test", "weights_sha256": "ab" * 32, "mean": [0.5, 0.5, 0.5], "input_hw": [42, 56]},
    )
    options = {"kernel": "classical"} if method == "jbu" else {}
    return upsample(features, method=method, **options)


@pytest.fixture(scope="module")
def field() -> FeatureField:
    return make_field()


@pytest.fixture(scope="module")
def expected(field) -> torch.Tensor:
    return field.features(size=SIZE)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def stage_texts(folder: Path, **texts: str) -> None:
    with Staging(overwrite=True) as files:
        for name, text in texts.items():
            files.add(folder / name).write_text(text)


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_round_trip(tmp_path, field, expected, kind, dtype):
    path = export_features(field, tmp_path / f"cat.features.{kind}", size=SIZE, dtype=dtype, memory_budget=SMALL_TILES)
    loaded = load_export(path)
    wanted = expected.to(getattr(torch, dtype)).float().numpy()
    assert loaded.features.shape == (5, *SIZE)
    assert loaded.features.dtype == (np.float16 if dtype == "float16" else np.float32)
    tolerance = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(loaded.features.astype(np.float32), wanted, rtol=tolerance, atol=tolerance * 0.01)
    assert loaded.provenance["array"]["dtype"] == dtype
    assert loaded.path == path
    beside = ["cat.features.npy.json"] if kind == "npy" else []
    assert names(tmp_path) == sorted([f"cat.features.{kind}", *beside])


@pytest.mark.parametrize("budget", [1, 5_000, 16_000, 40_000, 2**28])
def test_the_file_is_the_same_whatever_the_tiles(tmp_path, field, budget):
    # The smallest tiles, each on its own; tiles put together to whole rows; and all at once: the values land in the right places.
    lowres = make_field(method="lowres")
    path = export_features(lowres, tmp_path / "a.npy", size=SIZE, memory_budget=budget)
    assert np.array_equal(np.load(path), lowres.features(size=SIZE).numpy())


def test_plain_numpy_opens_npy_and_npz_without_this_program(tmp_path, field):
    export_features(field, tmp_path / "a.npy", size=SIZE)
    export_features(field, tmp_path / "a.npz", size=SIZE)
    program = (
        "import json, sys, numpy as np\n"
        "a = np.load(sys.argv[1]); z = np.load(sys.argv[2])\n"
        "assert sorted(z.files) == ['features', 'provenance'], z.files\n"
        "assert (z['features'] == a).all() and a.shape == (5, 37, 53)\n"
        "assert json.loads(str(z['provenance']))['array']['shape'] == [5, 37, 53]\n"
        "assert 'featup_app' not in sys.modules and 'torch' not in sys.modules\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "a.npy"), str(tmp_path / "a.npz")]
    subprocess.run(arguments, check=True, timeout=60)


def test_the_archive_is_whole(tmp_path, field):
    path = export_features(field, tmp_path / "a.npz", size=SIZE)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["features.npy", "provenance.npy"]
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-tqq", str(path)], check=True, timeout=60)


def test_the_safetensors_library_reads_it_whole_and_in_parts(tmp_path, field, expected):
    path = export_features(field, tmp_path / "a.safetensors", size=SIZE, dtype="bfloat16")
    assert safetensors.torch.load_file(path)["features"].dtype == torch.bfloat16
    path = export_features(field, tmp_path / "b.safetensors", size=SIZE)
    np.testing.assert_allclose(safetensors.numpy.load_file(path)["features"], expected.numpy(), rtol=1e-6, atol=1e-6)
    with safetensors.safe_open(path, framework="numpy") as file:
        assert json.loads(file.metadata()["provenance"])["schema"] == "featup-app/export"
        assert file.get_slice("features")[2:3, :5, :].shape == (1, 5, 53)
    assert struct.unpack("<Q", path.read_bytes()[:8])[0] % 8 == 0


def test_npy_is_mapped_and_not_read(tmp_path, field):
    path = export_features(field, tmp_path / "a.npy", size=SIZE)
    assert isinstance(load_export(path).features, np.memmap)


def test_the_size_of_the_image_is_the_default(tmp_path, field):
    assert load_export(export_features(field, tmp_path / "a.npz")).features.shape == (5, 41, 59)


def test_estimate_is_the_size_of_the_file_but_for_its_header(tmp_path, field):
    path = export_features(field, tmp_path / "a.npy", size=SIZE, dtype="float16")
    assert 0 < path.stat().st_size - estimated_bytes(5, SIZE, "float16") < 300
    assert estimated_bytes(384, (2048, 2048), "float16") == 384 * 2048 * 2048 * 2


def test_a_zip_of_more_than_four_gigabytes_has_64_bit_sizes(tmp_path):
    # The directory of a member too large to write in a test, read by the standard library.
    from featup_app.export import containers

    size = 6 * 2**30
    entry = containers._directory_entry("features.npy", size, 7, 5 * 2**30)
    path = tmp_path / "large.zip"
    with path.open("wb") as stream:
        stream.truncate(11 * 2**30)  # a hole, no disk space
        stream.seek(11 * 2**30)
        stream.write(entry + containers._directory_end(1, len(entry), 11 * 2**30))
    with zipfile.ZipFile(path) as archive:
        (info,) = archive.infolist()
    assert (info.file_size, info.CRC, info.header_offset) == (size, 7, 5 * 2**30)


# -- provenance -------------------------------------------------------------------------------------------------------


def test_provenance_says_where_the_features_come_from(tmp_path, field):
    facts = load_export(export_features(field, tmp_path / "a.npz", size=SIZE)).provenance
    assert (facts["schema"], facts["version"], facts["seed"]) == ("featup-app/export", 1, None)
    assert facts["software"].keys() == {"featup-app", "numpy", "python", "timm", "torch"}
    assert facts["software"]["torch"].startswith(torch.__version__.split("+")[0])
    assert (facts["device"], facts["precision"]) == ("cpu", "float32")
    assert facts["native"].keys() == {"backend", "detail"}
    assert facts["image"] == {
        "name": "räuber.png",
        "sha256": field.coarse.image.sha256,
        "size_hw": [41, 59],
        "mode": "RGB, 8 bit",
        "notes": [],
    }
    assert facts["backbone"] == {"name": "test", "layer": "block 10", "weights_sha256": "ab" * 32}
    assert facts["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert facts["preprocess"]["input_hw"] == [42, 56]
    assert facts["grid"]["grid_hw"] == [3, 4]
    assert facts["grid"]["offset_xy"] == [0.25, 0.5]
    assert facts["upsampler"]["method"] == "jbu"
    assert facts["upsampler"]["settings"]["kernel"] == "classical"
    assert facts["upsampler"]["output_hw"] == list(SIZE)
    assert facts["array"]["axes"] == ["C", "H", "W"]
    assert facts["array"]["shape"] == [5, *SIZE]
    assert facts["mapping"]["scale_xy"] == [59 / 53, 41 / 37]
    assert "0.5" in facts["mapping"]["convention"]


def test_time_is_the_only_thing_that_differs(tmp_path, field, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for kind in ("npy", "npz", "safetensors"):
        paths = [export_features(field, tmp_path / folder / f"a.{kind}", size=SIZE) for folder in ("one", "two")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert load_export(paths[0]).provenance["created"] == "2023-11-14T22:13:20Z"


def test_facts_of_any_kind_become_json(tmp_path, field):
    facts = {
        **build_provenance(features=field.coarse, field=field, size=SIZE, seed=7),
        "odd": {
            "nan": float("nan"),
            "array": np.arange(2),
            "tensor": torch.ones(1),
            "path": Path("x"),
            3: (True, None),
        },
    }
    loaded = load_export(export_features(field, tmp_path / "a.npz", size=SIZE, provenance=facts)).provenance
    assert loaded["odd"] == {"nan": None, "array": [0, 1], "tensor": [1.0], "path": "x", "3": [True, None]}
    assert loaded["seed"] == 7


# -- nothing but complete files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
@pytest.mark.parametrize("stop", [0, 3])
def test_cancelled_leaves_the_folder_as_it_was(tmp_path, field, kind, stop):
    (tmp_path / "other.txt").write_text("mine")
    export_features(field, tmp_path / f"a.{kind}", size=SIZE)
    before = contents(tmp_path)

    def cancel(words: str, done: int, total: int, stage=None) -> None:
        if done >= stop:
            assert any(name.endswith(".part") for name in names(tmp_path))
            raise Cancelled

    for target in (tmp_path / f"a.{kind}", tmp_path / "new" / "deep" / f"a.{kind}"):
        with pytest.raises(Cancelled):
            export_features(field, target, size=SIZE, memory_budget=SMALL_TILES, overwrite=True, progress=cancel)
        assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_cancelled_while_the_archive_is_checked(tmp_path, field):
    def cancel(words: str, done: int, total: int, stage=None) -> None:
        if words.startswith("checking"):
            raise Cancelled

    with pytest.raises(Cancelled):
        export_features(field, tmp_path / "a.npz", size=SIZE, progress=cancel)
    assert names(tmp_path) == []


def test_a_file_that_is_there_is_kept_unless_told_otherwise(tmp_path, field):
    path = tmp_path / "a.npz"
    path.write_text("mine")
    with pytest.raises(ExportError, match=r"a\.npz\" is already there; choose another"):
        export_features(field, path, size=SIZE)
    assert path.read_text() == "mine"
    export_features(field, path, size=SIZE, overwrite=True)
    assert names(tmp_path) == ["a.npz"]
    assert load_export(path).features.shape == (5, *SIZE)


def test_the_description_of_another_npy_is_kept(tmp_path, field):
    (tmp_path / "a.npy.json").write_text("mine")
    with pytest.raises(ExportError, match=r"a\.npy\.json\" is already there"):
        export_features(field, tmp_path / "a.npy", size=SIZE)
    assert contents(tmp_path).keys() == {"a.npy.json"}


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
def test_a_disk_that_fills_up(tmp_path, field, kind, monkeypatch):
    count = 0

    def full(stream: object, offset: int, data: object) -> None:
        nonlocal count
        count += 1
        if count > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(array_file, "write_at", full)
    with pytest.raises(ExportError, match=rf'Cannot write ".*a\.{kind}": no space left on device\.'):
        export_features(field, tmp_path / "out" / f"a.{kind}", size=SIZE)
    assert names(tmp_path) == []


def test_a_disk_without_enough_room(tmp_path, field, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_050_000))
    with pytest.raises(
        ExportError, match=r"needs 1\.1 MB, but only 1\.1 MB are free there; choose a smaller output size"
    ):
        export_features(field, tmp_path / "out" / "a.npz", size=SIZE)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_or_written(tmp_path, field, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match=r'Cannot write ".*a\.npz": not a directory'):
        export_features(field, tmp_path / "file" / "sub" / "a.npz", size=SIZE)
    with pytest.raises(ExportError, match=r'Cannot write ".*": it is a folder'):
        export_features(field, tmp_path, format="npz", size=SIZE)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)  # root may write everywhere, so the refusal is played
    with pytest.raises(ExportError, match=r'Cannot write ".*a\.npz": permission denied\.'):
        export_features(field, tmp_path / "new" / "a.npz", size=SIZE)
    assert names(tmp_path) == ["file"]


def test_several_files_appear_together_or_the_old_ones_stay(tmp_path, monkeypatch):
    (tmp_path / "one").write_text("old one")
    replace, calls = os.replace, 0

    def fail_at_the_third(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_third)
    with pytest.raises(ExportError, match=r'two": permission denied'):
        stage_texts(tmp_path, one="new one", two="new two")
    assert names(tmp_path) == ["one"]
    assert (tmp_path / "one").read_text() == "old one"
    monkeypatch.setattr(os, "replace", replace)
    stage_texts(tmp_path, one="new one", two="new two")
    assert names(tmp_path) == ["one", "two"]
    assert (tmp_path / "one").read_text() == "new one"


def test_two_files_of_one_name_are_refused(tmp_path):
    with Staging() as files:
        files.add(tmp_path / "a").touch()
        with pytest.raises(ExportError, match="Two files of this export"):
            files.add(tmp_path / "a")


def test_without_pwrite_the_same_bytes_are_written(tmp_path, field, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    one = export_features(field, tmp_path / "one.npz", size=SIZE, memory_budget=SMALL_TILES)
    monkeypatch.delattr(os, "pwrite", raising=False)
    two = export_features(field, tmp_path / "two.npz", size=SIZE, memory_budget=SMALL_TILES)
    assert one.read_bytes() == two.read_bytes()


# -- what cannot be written -------------------------------------------------------------------------------------------


def test_values_too_large_for_the_type(tmp_path):
    large = make_field(scale=1e5)
    with pytest.raises(
        ExportError, match=r"The features reach .*, but float16 ends at 6\.55e\+04; choose the type float32"
    ):
        export_features(large, tmp_path / "a.npz", size=SIZE, dtype="float16")
    assert names(tmp_path) == []
    for kind, dtype in (("npz", "float32"), ("safetensors", "bfloat16")):
        loaded = load_export(export_features(large, tmp_path / f"a.{kind}", size=SIZE, dtype=dtype))
        assert np.isfinite(loaded.features).all()


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_bfloat16_is_for_safetensors(tmp_path, field, kind):
    with pytest.raises(ExportError, match=r"numpy has no bfloat16.*choose the format safetensors, or the type float16"):
        export_features(field, tmp_path / f"a.{kind}", dtype="bfloat16")
    assert names(tmp_path) == []


def test_formats_types_and_sizes_that_do_not_exist(tmp_path, field):
    with pytest.raises(ExportError, match=r"does not say in which format.*\.npz, \.npy, \.safetensors"):
        export_features(field, tmp_path / "a.h5")
    with pytest.raises(ExportError, match=r'no export format "h5"\. Choose one of: npz'):
        export_features(field, tmp_path / "a.h5", format="h5")
    with pytest.raises(ExportError, match=r"does not suit the format npz; end it in \.npz"):
        export_features(field, tmp_path / "a.npy", format="npz")
    with pytest.raises(ExportError, match=r'cannot be written as "int8"\. Choose one of: float32'):
        export_features(field, tmp_path / "a.npz", dtype="int8")
    with pytest.raises(ExportError, match="both sides must be at least 1"):
        export_features(field, tmp_path / "a.npz", size=(0, 5))
    assert names(tmp_path) == []
    assert load_export(export_features(field, tmp_path / "features", format="npz")).features.shape == (5, 41, 59)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_carries_its_provenance(tmp_path, field):
    pixels = np.random.default_rng(0).integers(0, 256, (11, 17, 3), dtype=np.uint8)
    facts = build_provenance(features=field.coarse, field=field, size=(11, 17), view={"lens": "pca", "numbers": (1, 2)})
    paths = [write_picture(tmp_path / name, pixels, provenance=facts) for name in ("a.png", "b.png")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pillow.open(paths[0]) as picture:
        assert np.array_equal(np.asarray(picture), pixels)
        assert json.loads(picture.text["featup-app"])["image"]["name"] == "räuber.png"
    assert picture_provenance(paths[0])["view"] == {"lens": "pca", "numbers": [1, 2]}
    with pytest.raises(ExportError, match="already there"):
        write_picture(paths[0], pixels, provenance=facts)
    assert names(tmp_path) == ["a.png", "b.png"]


def test_other_pictures_have_no_provenance(tmp_path):
    pillow.new("RGB", (3, 3)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("text")
    with pytest.raises(ExportError, match="not a picture that featup-app wrote"):
        picture_provenance(tmp_path / "a.png")
    with pytest.raises(ExportError, match="damaged or not a PNG"):
        picture_provenance(tmp_path / "b.png")
    with pytest.raises(ExportError, match="no such file"):
        picture_provenance(tmp_path / "c.png")


# -- what cannot be read ----------------------------------------------------------------------------------------------


def test_files_that_are_missing_or_of_someone_else(tmp_path):
    with pytest.raises(ExportError, match="there is no such file"):
        load_export(tmp_path / "a.npz")
    with pytest.raises(ExportError, match="is a directory"):
        load_export(tmp_path)
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4), np.float32))
    with pytest.raises(ExportError, match=r'its description "a\.npy\.json" is missing'):
        load_export(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", features=np.zeros(3))
    with pytest.raises(ExportError, match="it is not an export of featup-app"):
        load_export(tmp_path / "a.npz")
    safetensors.numpy.save_file({"features": np.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(ExportError, match="it is not an export of featup-app"):
        load_export(tmp_path / "a.safetensors")
    for name, content in (("text", b"hello, this is text"), ("empty", b""), ("short", b"abc")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ExportError, match="not an export of featup-app"):
            load_export(tmp_path / name)


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
@pytest.mark.parametrize("share", [0.0005, 0.3, 0.9, 0.999])
def test_files_that_are_cut_short(tmp_path, field, kind, share):
    path = export_features(field, tmp_path / f"a.{kind}", size=SIZE)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ExportError, match=r"Cannot read .*not an export of featup-app"):
        load_export(path)


def test_pickles_are_not_opened(tmp_path, field):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "a.npy.json").write_text("{}")
    with pytest.raises(ExportError, match="Python objects in dtype"):
        load_export(tmp_path / "a.npy")


def test_descriptions_that_do_not_fit(tmp_path, field):
    path = export_features(field, tmp_path / "a.npy", size=SIZE)
    beside = tmp_path / "a.npy.json"
    facts = json.loads(beside.read_text())
    beside.write_text(json.dumps({**facts, "version": 99}))
    with pytest.raises(ExportError, match="a newer version of featup-app"):
        load_export(path)
    beside.write_text(json.dumps({**facts, "array": {"shape": [1, 2, 3]}}))
    with pytest.raises(ExportError, match="its description says"):
        load_export(path)
    beside.write_text("[1]")
    with pytest.raises(ExportError, match="damaged"):
        load_export(path)


def test_importing_the_room_imports_no_torch():
    program = (
        "import sys, featup_app, featup_app.export; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
