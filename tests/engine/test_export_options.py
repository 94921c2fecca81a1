"""What a person writes about an export: views, and the names of the files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from featup_app.base.errors import ExportError
from featup_app.engine.exporting import (
    CAMRequest,
    ExportOptions,
    PCARequest,
    SimilarityRequest,
    parse_views,
    unique_stems,
)
from featup_app.engine.views import PCAOptions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("pca", (PCARequest(),)),
        (" PCA , cam ", (PCARequest(), CAMRequest())),
        ("pca:4-6", (PCARequest(PCAOptions((4, 5, 6))),)),
        ("pca:1,4, 9,cam", (PCARequest(PCAOptions((1, 4, 9))), CAMRequest())),
        ("similarity@120,80", (SimilarityRequest((120, 80)),)),
        ("similarity@12.5,.5,similarity @ 3 , 4.", (SimilarityRequest((12.5, 0.5)), SimilarityRequest((3, 4)))),
        ("cam:espresso,cam:504", (CAMRequest("espresso"), CAMRequest("504"))),
        ("cam:great white shark ,pca", (CAMRequest("great white shark"), PCARequest())),
        ("cam:\"lynx, catamount\",cam:'a b'", (CAMRequest("lynx, catamount"), CAMRequest("a b"))),
        ("cam:carpenter's kit,", (CAMRequest("carpenter's kit"),)),
        ("pca,similarity@120,80,cam:tabby", (PCARequest(), SimilarityRequest((120, 80)), CAMRequest("tabby"))),
    ],
)
def test_views_as_a_person_writes_them(text, expected):
    assert parse_views(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pcx", r'The view "pcx" is not understood\. Write pca'),
        ("pca,heat", r'The view "heat" is not understood'),
        ("pca similarity@1,2", "is not understood"),
        ("similarity", "a point in pixels"),
        ("similarity@3", "a point in pixels"),
        ("similarity@3,x", "a point in pixels"),
        ("pca:1", "is not understood"),
        ("pca:1-2", "has 2 components; a picture shows three, such as pca:1-3"),
        ("pca:6-4", "has 0 components"),
        ("cam:", "is not understood"),
        ('cam:"lynx', "is not understood"),
        ("cam:lynx, catamount", 'The view "catamount" is not understood.*in quotes'),
        ("pca,cam,pca", 'The view "pca" is asked for twice'),
        (",pca", "is not understood"),
    ],
)
def test_nonsense_gets_a_sentence(text, sentence):
    with pytest.raises(ExportError, match=sentence):
        parse_views(text)


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
