"""Sheets of comparisons: nothing overlaps or leaves the page, whatever stands on them; PNG and SVG show the same."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pillow

from featup_app.base.errors import ExportError
from featup_app.export import Staging
from featup_app.export.sheet_files import sheet_pixels, sheet_svg, stage_sheet
from featup_app.export.sheet_text import drawable, line_height, text_width, wrapped
from featup_app.export.sheets import (
    MARGIN,
    WIDTH,
    Figure,
    Picture,
    Sheet,
    SheetCell,
    SheetColumn,
    SheetRow,
    Text,
    laid_out,
)
from featup_app.lenses.lens import ColorRange, Components

SVG = "{http://www.w3.org/2000/svg}"
LONG = "a_name_without_spaces_" * 12
words = st.sampled_from(
    ["", "Attention", "FeatUp JBU, classical", LONG, "many words " * 30, "<&>\x00\ud800 \u65e5\u672c\u8a9e"]
)


def picture(height: int = 20, width: int = 30) -> np.ndarray:
    return np.broadcast_to(np.arange(width, dtype=np.uint8)[None, :, None] * 5, (height, width, 3)).copy()


@st.composite
def sheets(draw) -> Sheet:
    count, photo = draw(st.integers(2, 4)), picture(*draw(st.tuples(st.integers(1, 90), st.integers(1, 90))))
    figures = (Figure("Overshoot", "0.123"), Figure("Edges", "0.87", best=True), Figure("Cosine", "-0.123"))
    columns = [
        SheetColumn(
            draw(words), (draw(words), draw(words)), draw(st.none() | words), figures[: draw(st.integers(0, 3))]
        )
        for _ in range(count)
    ]
    cell = st.builds(SheetCell, st.none() | st.just(picture()), words, st.booleans())
    legends = [
        None,
        ColorRange("viridis", (-0.6, 1.0), draw(words)),
        Components((1, 2, 3), (0.5, 0.25, 0.125)),
        Components((1, 2, 3), ()),
    ]
    rows = [
        SheetRow(draw(words), tuple(draw(cell) for _ in range(count)), draw(st.sampled_from(legends)), ((0.5, 0.5),))
        for _ in range(draw(st.integers(1, 3)))
    ]
    return Sheet(draw(words), (draw(words),), photo, tuple(columns), tuple(rows))


def box_of(part: Text | Picture) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    if isinstance(part, Picture):
        return part.x, part.y, part.x + part.width, part.y + part.height
    width = text_width(part.words, part.size)
    left = part.x - {"start": 0.0, "middle": width / 2, "end": width}[part.anchor]
    return left, part.y - 0.8 * part.size, left + width, part.y + 0.25 * part.size


@given(sheets())
@settings(max_examples=40, deadline=None)
def test_nothing_overlaps_and_nothing_leaves_the_page(sheet):
    layout = laid_out(sheet)
    boxes = [box_of(part) for part in layout.parts if isinstance(part, Text | Picture)]
    for left, top, right, bottom in boxes:
        assert left >= MARGIN - 1
        assert top >= 0
        assert right <= WIDTH - MARGIN + 1
        assert bottom <= layout.height
    for index, (left, top, right, bottom) in enumerate(boxes):
        for other_left, other_top, other_right, other_bottom in boxes[:index]:
            apart = (
                left >= other_right - 1 or other_left >= right - 1 or top >= other_bottom - 1 or other_top >= bottom - 1
            )
            assert apart, (boxes[index], layout.parts)


@given(sheets())
@settings(max_examples=10, deadline=None)
def test_an_svg_is_well_formed_and_has_the_texts(sheet):
    layout = laid_out(sheet)
    root = ElementTree.fromstring(sheet_svg(layout, provenance={"words": "<&>"}))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts == [part.words for part in layout.parts if isinstance(part, Text)]
    assert len(list(root.iter(f"{SVG}image"))) == sum(isinstance(part, Picture) for part in layout.parts)
    assert json.loads(root.find(f"{SVG}metadata").text) == {"words": "<&>"}


@pytest.mark.parametrize("width", [480, WIDTH, 2 * WIDTH])
def test_a_png_has_the_size_and_the_colours_of_the_sheet(width):
    layout = laid_out(sheet_of_two())
    pixels = sheet_pixels(layout, width)
    assert pixels.shape == (round(layout.height * width / WIDTH), width, 3)
    margin = round(MARGIN * width / WIDTH) - 2
    for edge in (pixels[:margin], pixels[-margin:], pixels[:, :margin], pixels[:, -margin:]):
        assert (edge == 255).all(), "equal margins"
    assert (pixels != 255).any()


def sheet_of_two() -> Sheet:
    columns = (SheetColumn("One"), SheetColumn("Two", error="It failed."))
    row = SheetRow("PCA", (SheetCell(picture()), SheetCell(None, "It failed.", error=True)))
    return Sheet("cat.jpg", (), picture(), columns, (row,))


def test_a_row_needs_a_cell_for_each_column():
    sheet = sheet_of_two()
    with pytest.raises(ValueError, match="one cell for each"):
        laid_out(Sheet("", (), sheet.photo, sheet.columns[:1], sheet.rows))


def test_the_font_shows_something_for_every_letter():
    assert drawable("Übergröße – 2 × 3, plain") == "Ubergrosse - 2 x 3, plain"
    assert drawable("\u65e5\u672c") == "??"


@given(st.text(max_size=80), st.floats(20, 300), st.integers(1, 4))
def test_lines_fit(text, width, most):
    lines = wrapped(text, 14, width, most)
    assert len(lines) <= most
    assert all(text_width(line, 14) <= width or len(line) <= 2 for line in lines)
    assert line_height(14) >= 14


def test_files_are_png_or_svg(tmp_path):
    layout = laid_out(sheet_of_two())
    with Staging() as files:
        stage_sheet(files, tmp_path / "one.PNG", layout, provenance={"schema": "x"})
        stage_sheet(files, tmp_path / "one.svg", layout, provenance={"schema": "x"})
        assert not (tmp_path / "one.svg").exists()
    with pillow.open(tmp_path / "one.PNG") as opened:
        assert opened.size[0] == WIDTH
    with pytest.raises(ExportError, match=r'written as \.png or \.svg, not as "one\.pdf"'), Staging() as files:
        stage_sheet(files, tmp_path / "one.pdf", layout, provenance={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.PNG", "one.svg"]


def test_pixels_that_become_large_stay_squares():
    small = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    row = SheetRow("", (SheetCell(small), SheetCell(small)))
    layout = laid_out(Sheet("", (), small, (SheetColumn(""), SheetColumn("")), (row,)))
    colours = np.unique(sheet_pixels(layout).reshape(-1, 3), axis=0)
    assert {(255, 0, 0), (0, 0, 255)} < {tuple(colour) for colour in colours.tolist()}
    assert not any(red and blue and not green for red, green, blue in colours.tolist()), "no mixtures of the two"
    assert sheet_svg(layout, provenance={}).count('image-rendering="pixelated"') == 3
