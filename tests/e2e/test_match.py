"""``featup-app match`` as a person runs it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image as pillow

from featup_app.export import picture_provenance
from featup_app.images import sample_images

pytestmark = pytest.mark.usefixtures("one_thread")

CAT, COFFEE, _ = sample_images()
SVG = "{http://www.w3.org/2000/svg}"
SMALL = ("--size", "112", "--count", "30")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def rows_of(path: Path) -> list[dict[str, float]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def test_a_folder_gets_table_record_and_pictures(tmp_path, command):
    code, out, err = command("match", CAT, COFFEE, "-o", tmp_path / "out", *SMALL)
    assert (code, err) == (0, "")
    expected = [f"cat.coffee.match{suffix}" for suffix in (".csv", ".csv.json", ".png", ".svg")]
    assert out.splitlines() == [str(tmp_path / "out" / name) for name in expected]
    assert names(tmp_path / "out") == expected
    found = rows_of(tmp_path / "out" / expected[0])
    assert 0 < len(found) <= 30
    assert list(found[0]) == ["x1", "y1", "x2", "y2", "similarity", "confidence"]
    facts = json.loads((tmp_path / "out" / expected[1]).read_text())
    assert (facts["image"]["name"], facts["match"]["other"]["image"]["name"]) == ("cat.jpg", "coffee.jpg")
    assert picture_provenance(tmp_path / "out" / expected[2])["match"]["count"] == len(found)
    root = ElementTree.parse(tmp_path / "out" / expected[3]).getroot()
    assert "cat.jpg, coffee.jpg" in [element.text for element in root.iter(f"{SVG}text")]
    assert len(list(root.iter(f"{SVG}line"))) > 0


def test_a_picture_matches_itself(tmp_path, command):
    assert command("match", CAT, CAT, "-o", tmp_path / "own.csv", *SMALL)[0] == 0
    assert names(tmp_path) == ["own.csv", "own.csv.json"]
    for row in rows_of(tmp_path / "own.csv"):
        assert np.allclose((row["x1"], row["y1"]), (row["x2"], row["y2"]), atol=0.02)
        assert row["confidence"] > 0.99


def test_the_match_of_a_point(tmp_path, command):
    code, out, _ = command("match", CAT, CAT, "-o", tmp_path / "at.png", "--point", "230,120", "--json", *SMALL)
    assert code == 0
    (found,) = json.loads(out)["matches"]
    assert found["one"] == [230, 120]
    assert np.allclose(found["other"], (230, 120), atol=8)
    with pillow.open(tmp_path / "at.png") as sheet:
        assert sheet.size[0] == 1440


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("no.jpg", CAT), 'Cannot open "no.jpg": there is no such file'),
        ((CAT, "no.jpg"), 'Cannot open "no.jpg": there is no such file'),
        ((CAT, COFFEE, "--method", "magic"), 'no upsampling method "magic"'),
        ((CAT, COFFEE, "--method", "implicit"), "is fitted to one image, and cannot be matched"),
        ((CAT, COFFEE, "--point", "12"), 'The point "12" of --point is not understood'),
        ((CAT, COFFEE, "--point", "nan,1"), 'The point "nan,1" of --point is not understood'),
        ((CAT, COFFEE, "--point", "9000,10"), "The point (9000, 10) lies outside of the picture"),
        ((CAT, COFFEE, "-o", "matches.pdf"), 'Matches are written as .csv, .png or .svg, not as "matches.pdf"'),
        ((CAT, COFFEE, "--backbone", "magic"), "magic"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, command, arguments, sentence):
    code, out, err = command("match", "-o", tmp_path / "out", *SMALL, *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.startswith("featup-app: ")
    assert err.count("\n") == 1
    assert names(tmp_path) == []


def test_existing_files_and_inputs_stay(tmp_path, command):
    (tmp_path / "own.csv.json").write_text("mine")
    arguments = ("match", CAT, CAT, "-o", tmp_path / "own.csv", *SMALL)
    code, _, err = command(*arguments)
    assert code == 2
    assert 'own.csv.json" is already there' in err
    assert names(tmp_path) == ["own.csv.json"]
    assert command(*arguments, "--overwrite")[0] == 0
    assert names(tmp_path) == ["own.csv", "own.csv.json"]
    assert command("match", CAT, CAT, "-o", CAT, *SMALL)[0] == 2
