"""``featup-app compare`` and ``featup-app export --pca`` as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image as pillow

from featup_app.engine.bases import fit_basis
from featup_app.engine.session import Session
from featup_app.engine.settings import ViewSettings
from featup_app.export import picture_provenance
from featup_app.images import load_image, sample_images
from featup_app.lenses import write_basis

pytestmark = pytest.mark.usefixtures("one_thread")

CAT, COFFEE, _ = sample_images()
SVG = "{http://www.w3.org/2000/svg}"
SMALL = ("--sizes", "112", "--output-size", "4x")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def basis(tmp_path_factory) -> Path:
    """Of the cat, as DINOv2 sees it."""
    image = load_image(CAT)
    found = fit_basis(Session(device="cpu"), [(image, None)], ViewSettings(input_size="112"))
    return write_basis(tmp_path_factory.mktemp("basis") / "cat.safetensors", found)


# -- sheets -------------------------------------------------------------------------------------------------------------


def test_a_folder_gets_the_sheet_as_png_and_svg(tmp_path, command):
    views = "pca,similarity@230,120,cam"
    methods = ("--methods", "attention,jbu,bilinear")
    code, out, err = command("compare", CAT, "-o", tmp_path / "out", *methods, "--views", views, "--difference", *SMALL)
    assert (code, err) == (0, "")
    assert out.splitlines() == [str(tmp_path / "out" / name) for name in ("cat.compare.png", "cat.compare.svg")]
    assert names(tmp_path / "out") == ["cat.compare.png", "cat.compare.svg"]
    with pillow.open(tmp_path / "out" / "cat.compare.png") as sheet:
        assert sheet.size[0] == 1440
    root = ElementTree.parse(tmp_path / "out" / "cat.compare.svg").getroot()
    texts = [element.text for element in root.iter(f"{SVG}text")]
    for title in ("cat.jpg", "Photo", "Attention", "FeatUp JBU", "Bilinear", "Difference to Attention", "Edges"):
        assert title in texts
    assert len(list(root.iter(f"{SVG}image"))) == 4 * 4 - 1 + 3, "a photo and three pictures a row, and three bars"

    facts = picture_provenance(tmp_path / "out" / "cat.compare.png")
    assert facts["image"]["name"] == "cat.jpg"
    columns = facts["comparison"]["columns"]
    assert [column["title"] for column in columns] == ["Attention", "FeatUp JBU", "Bilinear"]
    assert [column["settings"]["method"] for column in columns] == ["attention", "jbu", "bilinear"]
    assert all(column["scores"]["edge_alignment"] > 0 and column["errors"] == [] for column in columns)
    assert [row["request"]["lens"] for row in facts["comparison"]["rows"]] == ["pca", "similarity", "cam"]
    assert facts["comparison"]["rows"][1]["limits"][1] == 1


def test_a_file_says_what_it_is(tmp_path, command):
    for name in ("sheet.png", "sheet.SVG"):
        code, out, _ = command("compare", CAT, "-o", tmp_path / "new" / name, "--methods", "lowres,bilinear", *SMALL)
        assert (code, out) == (0, f"{tmp_path / 'new' / name}\n")
    assert names(tmp_path / "new") == ["sheet.SVG", "sheet.png"]
    wide = tmp_path / "wide.png"
    assert command("compare", CAT, "-o", wide, "--methods", "lowres,bilinear", "--width", "720", *SMALL)[0] == 0
    with pillow.open(wide) as sheet:
        assert sheet.size[0] == 720


def test_lists_are_combined(tmp_path, command):
    lists = ("--backbones", "dinov2-s14-imgfocus,tf_efficientnet_lite0", "--methods", "lowres,bilinear")
    code, out, _ = command("compare", CAT, "-o", tmp_path, "--json", *lists, *SMALL)
    found = json.loads(out)
    assert code == 0
    titles = [column["title"] for column in found["columns"]]
    assert titles == [f"{m}, {b}" for b in ("DINOv2 ViT-S/14", "EfficientNet-Lite0") for m in ("Low-res", "Bilinear")]
    assert found["files"] == [str(tmp_path / "cat.compare.png"), str(tmp_path / "cat.compare.svg")]
    assert all(column["cost"]["drawing_seconds"] >= 0 for column in found["columns"])
    svg = (tmp_path / "cat.compare.svg").read_text(encoding="utf-8")
    assert "PCA colours of its own:" in svg


def test_a_column_that_fails_says_why_and_the_others_stay(tmp_path, command):
    layers = ("--layers", "block 8,block 99,block 11", "--methods", "bilinear")
    code, out, err = command("compare", CAT, "-o", tmp_path / "sheet.svg", *layers, *SMALL)
    assert code == 1
    assert out == f"{tmp_path / 'sheet.svg'}\n"
    assert err.startswith('featup-app: block 99: The backbone dinov2-s14-imgfocus has no layer "block 99"')
    assert err.count("\n") == 1
    texts = " ".join(
        element.text or "" for element in ElementTree.parse(tmp_path / "sheet.svg").getroot().iter(f"{SVG}text")
    )
    assert 'has no layer "block 99".' in texts
    assert "no picture" in texts


def test_existing_files_stay_unless_told_otherwise(tmp_path, command):
    (tmp_path / "cat.compare.svg").write_text("mine")
    arguments = ("compare", CAT, "-o", tmp_path, "--methods", "lowres,bilinear", *SMALL)
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert 'cat.compare.svg" is already there' in err
    assert names(tmp_path) == ["cat.compare.svg"]
    assert (tmp_path / "cat.compare.svg").read_text() == "mine"
    assert command(*arguments, "--overwrite")[0] == 0
    assert names(tmp_path) == ["cat.compare.png", "cat.compare.svg"]


def test_the_picture_is_never_replaced(tmp_path, command):
    photo = tmp_path / "photo.png"
    with pillow.open(CAT) as opened:
        opened.save(photo)
    before = photo.read_bytes()
    code, _, err = command("compare", photo, "-o", photo, "--overwrite", "--methods", "lowres,bilinear", *SMALL)
    assert code == 2
    assert "it is an input of this command" in err
    assert photo.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("no/such.jpg",), 'Cannot open "no/such.jpg": there is no such file'),
        ((CAT, "--methods", "jbu"), "A comparison has 2 to 4 columns, and 1 were asked for"),
        ((CAT, "--methods", "all"), "and 10 were asked for"),
        ((CAT, "--methods", "jbu,jbu"), 'The method "jbu" is listed twice'),
        ((CAT, "--sizes", "112,112"), "Two columns of the comparison are the same"),
        ((CAT, "--methods", "jbu,magic"), 'no upsampling method "magic"'),
        ((CAT, "--methods", "implicit:steps=6,jbu"), "sets an option of the method implicit"),
        ((CAT, "--methods", "jbu=no.safetensors,lowres"), 'There is no file "no.safetensors"'),
        ((CAT, "--layers", "block 8,,block 9"), 'The list "block 8,,block 9" of --layers has an empty entry'),
        ((CAT, "--layers", "block 77,block 99"), "None of the columns can be shown. The first one: The backbone"),
        ((CAT, "--views", ""), "There is nothing to compare"),
        ((CAT, "--views", "heat"), 'The view "heat" is not understood'),
        ((CAT, "--views", "similarity@9000,10"), "The point (9000, 10) lies outside"),
        (
            (CAT, "--views", "pca:11-13"),
            "None of the columns can be shown. The first one: There is no principal component 11",
        ),
        ((CAT, "--output-size", "32000x32000"), "of memory"),
        ((CAT, "--views", "cam", "--pca", "x.safetensors"), "The option --pca is for views of principal components"),
        ((CAT, "--pca", "x.safetensors"), 'Cannot read "x.safetensors": there is no such file'),
        ((CAT, "-o", "sheet.pdf"), 'written as .png or .svg, not as "sheet.pdf"'),
        ((CAT, "-o", f"{CAT}/sheet.png"), "Cannot write"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, command, arguments, sentence):
    small = ("--sizes", "112", "--output-size", "grid", "--methods", "lowres,bilinear", "-o", tmp_path / "out")
    code, out, err = command("compare", *small, *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.startswith("featup-app: ")
    assert err.count("\n") == 1
    assert names(tmp_path) == []


def test_the_page_is_part_of_the_name(tmp_path, command):
    stack = tmp_path / "stack.tif"
    pages = [pillow.open(photo).convert("RGB").resize((96, 64)) for photo in (CAT, COFFEE)]
    pages[0].save(stack, save_all=True, append_images=pages[1:])
    code, out, err = command(
        "compare", f"{stack}#page=2", "-o", tmp_path / "out", "--methods", "lowres,bilinear", *SMALL
    )
    assert code == 0
    assert [Path(line).name for line in out.splitlines()] == ["stack-page2.compare.png", "stack-page2.compare.svg"]
    assert "stack.tif: " in err


# -- locked bases ---------------------------------------------------------------------------------------------------------


def test_a_basis_gives_all_pictures_its_colours(tmp_path, command, basis):
    small = ("--size", "112", "--output-size", "2x", "--no-features", "--views", "pca")
    code, _, err = command("export", CAT, COFFEE, "-o", tmp_path / "one", *small, "--pca", basis)
    assert (code, err) == (0, "")
    views = [picture_provenance(tmp_path / "one" / f"{name}.pca.png")["view"] for name in ("cat", "coffee")]
    assert views[0]["components"] == views[1]["components"]
    assert views[1]["basis"]["pictures"][0]["name"] == "cat.jpg"
    assert command("export", CAT, COFFEE, "-o", tmp_path / "two", *small)[0] == 0
    pixels = {
        folder: [np.asarray(pillow.open(tmp_path / folder / f"{name}.pca.png")) for name in ("cat", "coffee")]
        for folder in ("one", "two")
    }
    assert np.array_equal(pixels["one"][0], pixels["two"][0]), "the basis was fitted on the cat"
    assert not np.array_equal(pixels["one"][1], pixels["two"][1])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--backbone", "tf_efficientnet_lite0"), "these features have the backbone tf_efficientnet_lite0"),
        (("--layer", "block 8"), "these features have the layer block 8, not block 10"),
        (("--views", "cam"), "add --views pca"),
        (("--pca", CAT), "no file of safetensors"),
    ],
)
def test_a_basis_of_other_features_is_refused(tmp_path, command, basis, arguments, sentence):
    small = ("--size", "112", "--output-size", "2x", "--views", "pca", "--pca", basis)
    code, out, err = command("export", CAT, "-o", tmp_path, *small, *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert names(tmp_path) == []


def test_a_compared_column_whose_features_a_basis_does_not_fit_fails_alone(tmp_path, command, basis):
    backbones = ("--backbones", "dinov2-s14-imgfocus,tf_efficientnet_lite0", "--methods", "bilinear")
    code, _, err = command("compare", CAT, "-o", tmp_path / "a.png", *backbones, "--pca", basis, *SMALL)
    assert code == 1
    assert "EfficientNet-Lite0: The principal components of" in err
    assert "these features have the backbone tf_efficientnet_lite0" in err
