"""A method is one module: an example that no other file knows is in menus, commands, exports and evaluations."""

from __future__ import annotations

import numpy as np
import pytest
from mean_method import METHOD

from featup_app.cli.main import run
from featup_app.export import load_export
from featup_app.fields import METHODS, find_method
from featup_app.images import sample_images


@pytest.fixture(autouse=True)
def mean():
    METHODS.append(METHOD)
    yield
    METHODS.remove(METHOD)


def test_it_is_exported_with_its_name(tmp_path):
    assert find_method("mean").quick
    with pytest.raises(SystemExit) as stopped:
        run(["export", str(sample_images()[0]), "-o", str(tmp_path), "--method", "mean", "--size", "112",
             "--output-size", "2x", "--views", "pca,cam"])  # fmt: skip
    assert not stopped.value.code
    export = load_export(tmp_path / "cat.features.npz")
    assert export.provenance["upsampler"]["method"] == "mean"
    assert export.features.shape == (384, 16, 24)
    assert np.ptp(export.features, axis=(1, 2)).max() == 0
    assert (tmp_path / "cat.pca.png").exists()


def test_it_stands_in_a_table_of_an_evaluation(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        run(["evaluate", "--data", str(sample_images()[0].parent), "--methods", "bilinear,mean", "--limit", "1",
             "--size", "112", "--no-costs", "--pictures", "0", "-o", str(tmp_path)])  # fmt: skip
    assert not stopped.value.code
    assert "Mean" in (tmp_path / "report.csv").read_text() or "mean" in (tmp_path / "report.csv").read_text()
