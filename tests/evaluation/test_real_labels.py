"""Labels and depths as people have them: without readings, in other encodings, beside turned pictures, under odd names."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from featup_app.base.errors import EvaluationError
from featup_app.evaluation.datasets import Item, labelled_images, text_of
from featup_app.evaluation.run import EvaluationRequest, run_evaluation

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "evaluate"


def pixels(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return coarse.repeat(10, 0).repeat(10, 1)


def save(path: Path, values: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(values).save(path, **options)
    return path


def depth_request(folder: Path, output: Path) -> EvaluationRequest:
    return EvaluationRequest(
        output=output, data=(folder,), task="depth", methods="bilinear", size="56x70", device="cpu", costs=False, pictures=0,
        depth_unit="1",
    )  # fmt: skip


def depth_folder(folder: Path, missing: tuple[float, ...]) -> Path:
    for number in range(6):
        picture = pixels(seed=number)
        depths = 1 + picture[..., 0].astype(np.float32) / 255
        for row, value in enumerate(missing):
            depths[row * 5 : row * 5 + 5] = value
        save(folder / "color" / f"{number}.png", picture)
        save(folder / "depth" / f"{number}.tif", depths)
    return folder


def test_pixels_without_a_reading_are_left_out_and_said(tmp_path: Path) -> None:
    folder = depth_folder(tmp_path / "data", (np.nan, np.inf, -np.inf, 0, -1))
    (report,) = run_evaluation(depth_request(folder, tmp_path / "out")).reports
    assert np.isfinite(report.rows[0].figure)
    assert report.notes[0].startswith(
        "Depths were measured at 16,800 of 28,800 pixels (58.3 %); the others (zero, negative,"
    )
    (whole,) = run_evaluation(depth_request(depth_folder(tmp_path / "whole", ()), tmp_path / "all")).reports
    assert whole.notes == ()


def test_the_case_of_depths_with_nan(tmp_path: Path) -> None:
    if not CASES.is_dir():
        pytest.skip("the folder shared/cases is not there")
    request = EvaluationRequest(
        output=tmp_path, data=(CASES / "depth_with_nan",), task="depth", methods="bilinear", size="56x70", device="cpu",
        costs=False, pictures=0,
    )  # fmt: skip
    (report,) = run_evaluation(request).reports
    assert report.rows[0].figure < 1
    assert "105,600 of 115,200 pixels (91.7 %)" in report.notes[0]
    assert text_of(CASES / "classes_bom.txt").split() == ["sky", "ground", "void"]
    assert text_of(CASES / "classes.txt").splitlines() == ["ciel é", "sol", "void"]


def test_labels_that_are_fractions_are_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.tif", np.full((4, 4), 2, np.float32))
    assert Item("whole", whole, whole, class_count=3).labels().max() == 2
    for value in (np.nan, 0.5):
        broken = save(tmp_path / "broken.tif", np.full((4, 4), value, np.float32))
        with pytest.raises(EvaluationError, match="hold fractions, infinite numbers or NaN"):
            Item("broken", broken, broken, class_count=3).labels()


@pytest.mark.parametrize(
    "content",
    [
        "ciel\nforêt\nvoid\n".encode(),
        "ciel\r\nforêt\r\nvoid".encode("utf-8-sig"),
        "ciel\nforêt\nvoid\n".encode("utf-16"),
        "ciel\nforêt\nvoid\n".encode("utf-16-le"),
        "ciel\nforêt\nvoid\n".encode("utf-16-be"),
        "ciel\nforêt\nvoid\n".encode("latin-1"),
    ],
    ids=["utf-8", "mark", "utf-16", "little", "big", "latin-1"],
)
def test_class_lists_in_any_encoding(content: bytes, tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", pixels())
    save(tmp_path / "labels" / "a.png", np.zeros((60, 80), np.uint8))
    (tmp_path / "classes.txt").write_bytes(content)
    assert labelled_images(tmp_path).class_names == ("ciel", "forêt")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_lies_as_its_labels(orientation: int, tmp_path: Path) -> None:
    stored, exif = pixels(), pillow.Exif()
    exif[0x0112] = orientation
    picture = save(tmp_path / "a.png", stored, exif=exif)
    as_stored = save(tmp_path / "stored.png", np.zeros((60, 80), np.uint8))
    upright = save(tmp_path / "upright.png", np.zeros((80, 60), np.uint8))
    if orientation in (2, 3, 4):  # the sizes do not show it
        with pytest.raises(EvaluationError, match="save the picture upright"):
            Item("a", picture, as_stored).image()
        return
    plain = Item("a", picture).image()
    found = Item("a", picture, as_stored).image()
    assert np.array_equal(found.pixels, stored)
    assert found.pixels.flags.c_contiguous
    if orientation > 4:
        assert found.sha256 != plain.sha256
        assert np.array_equal(Item("a", picture, upright).image().pixels, plain.pixels)


def test_a_turned_square_is_refused(tmp_path: Path) -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6
    picture = save(tmp_path / "a.png", pixels(60, 60), exif=exif)
    labels = save(tmp_path / "labels.png", np.zeros((60, 60), np.uint8))
    with pytest.raises(EvaluationError, match=r"EXIF orientation \(6\)"):
        Item("a", picture, labels).image()


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    for part in ("images", "labels"):
        for number in range(3):
            values = pixels(seed=number) if part == "images" else (pixels(seed=number)[..., 0] > 128).astype(np.uint8)
            save(tmp_path / "data" / part / f"{name}{number}.png", values)
        (tmp_path / "data" / part / f"{name}-bad.png").write_bytes(b"nothing")
    (tmp_path / "data" / "classes.txt").write_text("a\nb\n")
    request = EvaluationRequest(
        output=tmp_path / "out", data=(tmp_path / "data",), task="clicks", methods="bilinear", size="56x70", device="cpu",
        costs=False, pictures=1,
    )  # fmt: skip
    result = run_evaluation(request)
    (report,) = result.reports
    assert report.rows[0].pictures == 3
    assert [picture for picture, _ in report.failures] == [f"{name}-bad"]
    assert all(path.stat().st_size for path in result.files)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["failures"][0]["picture"] == f"{name}-bad"
