"""The command line as shells, scripts and other people's folders use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
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
