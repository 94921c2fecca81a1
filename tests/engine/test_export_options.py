"""What a person chooses about an export, and the names of the files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from featup_app.base.errors import ExportError
from featup_app.engine.exporting import ExportOptions, unique_stems
from featup_app.lenses import parse_views


def test_options_that_cannot_be_met():
    ExportOptions(views=parse_views("pca"), features=False).check()
    with pytest.raises(ExportError, match="nothing to export"):
        ExportOptions(features=False).check()
    with pytest.raises(ExportError, match="no bfloat16"):
        ExportOptions(dtype="bfloat16").check()


def test_images_of_one_name_are_numbered():
    paths = ["a/cat.jpg", "b/Cat.png", "c/cat-2.png", "d/cat.tif", "e/dog.jpg", "f.tar.png"]
    assert unique_stems([Path(path) for path in paths]) == ["cat", "Cat-3", "cat-2", "cat-4", "dog", "f.tar"]


def test_choosing_an_export_imports_no_torch():
    program = "import sys, featup_app.engine.exporting; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
