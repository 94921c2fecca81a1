"""What an export holds, method by method and view by view, is what it was when the golden file was written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden_exports import CASES, GOLDEN, SLOW, environment, exported, sample

RECORDED = json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    return sample(tmp_path_factory.mktemp("golden") / "sample.png")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_an_export_is_the_same_to_the_last_bit(case, picture, tmp_path):
    """To the last bit where the golden file was written; elsewhere the same words, and nearly the same numbers."""
    found, expected = exported(case, picture, tmp_path), RECORDED["cases"][case]
    assert sorted(found) == sorted(expected)
    for name, content in found.items():
        wanted = expected[name]
        if environment() == RECORDED["environment"]:
            assert content == wanted, name
            continue
        for key in ("shape", "dtype", "words"):
            assert content[key] == wanted[key], name
        values, before = np.array(content["some"]), np.array(wanted["some"])
        scale = 255 if content["dtype"] == "uint8" else np.abs(before).max()
        assert np.median(np.abs(values - before)) <= 0.02 * scale, name
