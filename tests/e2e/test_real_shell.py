"""The command line as shells, scripts and other people's folders use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

QUICK = ("--method", "lowres", "--size", "56", "--output-size", "grid")


def picture(path: Path, *, shade: int = 90) -> Path:
    """A small picture with something on it, made and written."""
    pixels = np.full((48, 64, 3), shade, np.uint8)
    pixels[10:30, 20:50] = (220, 60, 30)
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(pixels).save(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- batches -------------------------------------------------------------------------------------------------------------


def test_a_batch_passes_over_what_it_cannot_read(tmp_path, command):
    good = [picture(tmp_path / "a.png"), picture(tmp_path / "z.png", shade=20)]
    (tmp_path / "broken.png").write_bytes(good[0].read_bytes()[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    bad = [tmp_path / name for name in ("broken.png", "empty.png", "folder", "missing.png", "a.png#page=0")]
    code, out, err = command("export", good[0], *bad, good[1], "-o", tmp_path / "out", *QUICK)
    assert code == 1
    assert [Path(line).name for line in out.splitlines()] == ["a.features.npz", "z.features.npz"]
    lines = err.splitlines()
    assert len(lines) == len(bad) + 1
    assert all(any(name in line for line in lines) for name in ("broken.png", "empty.png", "missing.png", '"0"'))
    assert lines[-1] == "featup-app: 5 of 7 images were passed over."


def test_a_folder_means_the_pictures_in_it(tmp_path, command):
    photos = tmp_path / "photos"
    for name in ("b.png", "a.PNG", ".hidden.png", "inside/c.png"):
        picture(photos / name)
    (photos / "notes.txt").write_text("no picture")
    code, out, err = command("export", photos, photos / "b.png", "-o", tmp_path / "out", *QUICK)
    assert (code, err) == (0, "")
    assert [Path(line).name for line in out.splitlines()] == ["a.features.npz", "b.features.npz"]


def test_one_image_that_cannot_be_read_is_bad_input(tmp_path, command):
    (tmp_path / "photos").mkdir()
    code, out, err = command("export", tmp_path / "photos", "-o", tmp_path / "out", "--json", *QUICK)
    assert (code, json.loads(out)["exports"][0]["files"]) == (2, [])
    assert "holds no pictures" in err
    assert names(tmp_path) == ["photos"]


# -- names of outputs ------------------------------------------------------------------------------------------------------


def test_no_output_overwrites_an_input(tmp_path, command):
    image, other = picture(tmp_path / "cat.png"), picture(tmp_path / "cat.pca.png", shade=5)
    before = other.read_bytes()
    arguments = ("--views", "pca", "--no-features", "--overwrite", "-o", tmp_path, *QUICK)
    code, out, err = command("export", image, other, *arguments)
    assert (code, [Path(line).name for line in out.splitlines()]) == (1, ["cat.pca.pca.png"])
    assert 'cat.pca.png": it is an input of this command' in err
    assert other.read_bytes() == before


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_an_input_is_known_under_its_other_names(tmp_path, command, link):
    image = picture(tmp_path / "cat.png")
    target = tmp_path / "out" / "cat.pca.png"
    target.parent.mkdir()
    getattr(target, link)(image)
    code, _, err = command(
        "export", image, "--views", "pca", "--no-features", "--overwrite", "-o", target.parent, *QUICK
    )
    assert code == 2
    assert "it is an input of this command" in err
    assert target.samefile(image)


def test_weights_are_inputs_too(tmp_path, command):
    weights = tmp_path / "cat.features.safetensors"
    weights.write_bytes(b"weights")
    image = picture(tmp_path / "cat.png")
    code, _, err = command("fit", image, "--checkpoint", weights, "-o", weights, "--steps", "1")
    assert (code, weights.read_bytes()) == (2, b"weights")
    assert "it is an input of this command" in err


def test_a_training_does_not_draw_its_curve_over_a_picture(tmp_path, command):
    for name in ("run.png", "b.png", "c.png"):
        picture(tmp_path / name)
    before = (tmp_path / "run.png").read_bytes()
    code, _, err = command("train", tmp_path, "-o", tmp_path / "run.safetensors", "--steps", "1")
    assert (code, (tmp_path / "run.png").read_bytes()) == (2, before)
    assert 'run.png": it is an input of this command' in err


def test_views_of_one_name_are_found_before_anything_is_computed(tmp_path, command, monkeypatch):
    monkeypatch.setattr("featup_app.engine.session.Session.look", lambda *_, **__: pytest.fail("computed"))
    image = picture(tmp_path / "cat.png")
    views = ("--views", "similarity@20,20,similarity@20.0000001,20")
    code, out, err = command("export", image, *views, "-o", tmp_path / "out", *QUICK)
    assert (code, out) == (2, "")
    assert "Two of the views would be written to the same file" in err
    (tmp_path / "cat.pca.png").write_text("mine")
    code, out, err = command("export", image, "--views", "pca", "--no-features", "-o", tmp_path, *QUICK)
    assert (code, out) == (2, "")
    assert "already there" in err


def test_classes_of_one_name_get_files_of_their_own(tmp_path, command):
    image = picture(tmp_path / "cat.png")
    options = ("--views", "cam:134,cam:517", "--no-features")
    code, out, err = command("export", image, *options, "-o", tmp_path / "out", *QUICK)
    assert (code, err) == (0, "")
    assert len(set(out.splitlines())) == 2
