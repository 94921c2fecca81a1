"""Pages, channels and ranges as a person types them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from scene import unit_scene

from featup_app.export import picture_provenance

RAMP = unit_scene()[..., 0]
SMALL = ("--size", "112", "--output-size", "2x", "--no-features", "--views", "pca")


@pytest.fixture
def stack(tmp_path):
    """Two pages of 16 bits, the first a thumbnail."""
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((8, 8), np.uint16), photometric="minisblack", metadata=None)
        writer.write((RAMP * 900).astype(np.uint16), photometric="minisblack", metadata=None)
    return path


def test_export_reads_the_largest_page_or_the_one_that_is_named(tmp_path, command, stack):
    code, out, err = command("export", stack, f"{stack}#page=2", "-o", tmp_path, "--range", "0,1200", *SMALL)
    assert code == 0
    assert [line.rpartition("/")[2] for line in out.splitlines()] == ["stack.pca.png", "stack-page2.pca.png"]
    assert "2 pages; this is page 2, the largest" in err
    first, second = (picture_provenance(line)["image"] for line in out.splitlines())
    assert (first["selection"], second["selection"]) == ("range=0,1200", "page=2&range=0,1200")
    assert first["size_hw"] == second["size_hw"] == [48, 64]
    assert any("0 to 1200" in note for note in first["notes"])


def test_what_cannot_be_chosen_is_said(tmp_path, command, stack):
    for options, words in (
        (("--page", "3"), "no page 3"),
        (("--channels", "2"), "no channel 2"),
        (("--range", "9,1"), "no range"),
        (("--page", "first"), "no page"),
    ):
        code, _, err = command("export", stack, "-o", tmp_path / "out", *options, *SMALL)
        assert code == 2
        assert words in err
        assert "Traceback" not in err


def test_evaluate_reads_the_chosen_page_and_does_not_mix_it_with_another(tmp_path, command, stack):
    folder = tmp_path / "photos"
    folder.mkdir()
    stack.rename(folder / "stack.tif")
    small = ("--methods", "bilinear", "--size", "112", "--no-costs", "--pictures", "0", "--json")
    keys = set()
    for options in ((), ("--range", "0,5000")):
        code, out, err = command("evaluate", "-o", tmp_path / "report", "--data", folder, *small, *options)
        assert (code, err) == (0, "")
        assert json.loads(out)["rows"]
        keys.add((tmp_path / "report" / "results.jsonl").read_text().count("stack.tif"))
    assert keys == {1, 2}
