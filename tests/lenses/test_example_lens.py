"""A lens is one object: an example that no other file knows is on the command line and in records of provenance."""

from __future__ import annotations

import numpy as np
import pytest
from length_lens import LengthLens, LengthRequest
from PIL import Image as pillow

from featup_app.cli.main import run
from featup_app.export import picture_provenance
from featup_app.fields import DEFAULT_METHOD
from featup_app.images import sample_images
from featup_app.lenses import LENSES, parse_views, request_from_json


@pytest.fixture(autouse=True)
def length(monkeypatch):
    monkeypatch.setitem(LENSES, "length", LengthLens())


def test_its_request_is_understood_and_kept():
    assert parse_views("length,pca")[0] == LengthRequest() == request_from_json(LengthRequest().as_json())


def test_the_command_writes_its_picture_with_a_record(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        run(["export", str(sample_images()[0]), "-o", str(tmp_path), "--no-features", "--views", "length,pca",
             "--size", "112", "--output-size", "4x"])  # fmt: skip
    assert not stopped.value.code
    facts = picture_provenance(tmp_path / "cat.length.png")
    low, high = facts["view"]["limits"]
    assert facts["view"]["lens"] == "length"
    assert 0 < low < high
    assert facts["upsampler"]["method"] == DEFAULT_METHOD
    with pillow.open(tmp_path / "cat.length.png") as picture:
        assert np.asarray(picture).shape == (32, 48, 3)
