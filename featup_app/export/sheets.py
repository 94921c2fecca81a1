"""A sheet that compares pictures in columns and rows: what stands on it, and where. Imports no torch.

Lengths are in units of a sheet that is :data:`WIDTH` wide. :mod:`featup_app.export.sheet_files` draws what is laid out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featup_app.export.sheet_text import WEB_COLOURS, line_height, text_width, wrapped
from featup_app.features import Size
from featup_app.lenses.lens import ColorRange, Components, Legend
from featup_app.lenses.pictures import lookup_table

Pixels = NDArray[np.uint8]

WIDTH = 1440
MARGIN, GAP = 36, 18
TALLEST = 1.5
"""Height of a picture as a multiple of the width of its column, at most."""

_TITLE, _HEAD, _ROW, _TEXT = 26, 18, 17, 14
_BAR = 200, 12
_BETWEEN = 30
_INK, _MUTED, _LINE, _SOFT, _GOOD, _BAD = (
    WEB_COLOURS[name] for name in ("ink", "muted", "line", "soft", "good", "bad")
)


# -- what stands on it -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A number of a column: its name, its text, and whether it is the best of the sheet."""

    name: str
    text: str
    best: bool = False


@dataclass(frozen=True)
class SheetColumn:
    """The head of a column.

    Attributes:
        title: one line or a few.
        lines: smaller, below it.
        error: a sentence, if the column failed.
        figures: in two columns below.
    """

    title: str
    lines: tuple[str, ...] = ()
    error: str | None = None
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, eq=False)
class SheetCell:
    """A picture with a few words below; without pixels a box that says that there is none.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        words: below it.
        error: whether the words say why there is no picture.
        empty: what the box says.
    """

    pixels: Pixels | None
    words: str = ""
    error: bool = False
    empty: str = "no picture"


@dataclass(frozen=True, eq=False)
class SheetRow:
    """The pictures of one lens.

    Attributes:
        title: above them.
        cells: one for each column.
        legend: what the colours mean, in all of them; components without shares of variance are named without.
        marks: (x, y) of rings on the photo, as fractions of its width and height.
    """

    title: str
    cells: tuple[SheetCell, ...]
    legend: Legend | None = None
    marks: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Sheet:
    """A photo and, beside it, columns of pictures of it.

    Attributes:
        title, lines: above all.
        photo: (H, W, 3) uint8 RGB, the first picture of each row.
        columns, rows: each row has a cell for each column.
    """

    title: str
    lines: tuple[str, ...]
    photo: Pixels
    columns: tuple[SheetColumn, ...]
    rows: tuple[SheetRow, ...]


# -- where it stands ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A line of text; ``y`` is its baseline, and ``x`` where it begins, or ends, or its middle."""

    x: float
    y: float
    words: str
    size: int
    colour: str = _INK
    anchor: Literal["start", "middle", "end"] = "start"


@dataclass(frozen=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True)
class Ring:
    """A mark around a point."""

    x: float
    y: float


@dataclass(frozen=True)
class Link:
    """A line between two points, (x, y) each, with a dot at either end."""

    start: tuple[float, float]
    end: tuple[float, float]
    colour: str


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels, stretched over a rectangle."""

    x: float
    y: float
    width: float
    height: float
    pixels: Pixels
    words: str


Part = Text | Box | Ring | Link | Picture


@dataclass(frozen=True, eq=False)
class Layout:
    """Parts in the order in which they are drawn, and the height of the sheet."""

    parts: tuple[Part, ...]
    height: int


def laid_out(sheet: Sheet) -> Layout:
    """Where everything on a sheet stands.

    Raises:
        ValueError: if a row has not one cell for each column.
    """
    if any(len(row.cells) != len(sheet.columns) for row in sheet.rows):
        raise ValueError("each row of a sheet needs one cell for each of its columns")
    page = _Page(sheet)
    page.heading()
    page.captions()
    for row in sheet.rows:
        page.row(row)
    return Layout(tuple(page.parts), round(page.y - _BETWEEN + MARGIN))


class _Page:
    """Parts are added from top to bottom; ``y`` is where the next ones begin."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self.parts: list[Part] = []
        self.y: float = MARGIN
        count = len(sheet.columns) + 1
        self.width = (WIDTH - 2 * MARGIN - GAP * (count - 1)) / count
        self.lefts = [MARGIN + index * (self.width + GAP) for index in range(count)]
        height, width = sheet.photo.shape[:2]
        self.picture_height = min(self.width * height / width, TALLEST * self.width)
        self.picture_width = self.picture_height * width / height

    def heading(self) -> None:
        whole = WIDTH - 2 * MARGIN
        self.y = self._lines(MARGIN, self.y, whole, self.sheet.title, _TITLE, most=2)
        for line in self.sheet.lines:
            self.y = self._lines(MARGIN, self.y + 2, whole, line, _TEXT, _MUTED, most=3)
        self.y += 14
        self.parts.append(Box(MARGIN, self.y, whole, 1, _LINE))
        self.y += 18

    def captions(self) -> None:
        """Titles, what follows them, and figures begin at the same height in all columns."""
        height, width = self.sheet.photo.shape[:2]
        columns = (SheetColumn("Photo", (f"{width} x {height} pixels",)), *self.sheet.columns)
        placed = list(zip(self.lefts, columns, strict=True))
        self.y = max(self._lines(left, self.y, self.width, each.title, _HEAD, most=3) for left, each in placed) + 3
        ends = []
        for left, each in placed:
            y = self.y
            for line in each.lines:
                y = self._lines(left, y, self.width, line, _TEXT, _MUTED, most=4)
            if each.error is not None:
                y = self._lines(left, y, self.width, each.error, _TEXT, _BAD, most=14)
            ends.append(y)
        self.y = max(ends) + 6
        self.y = max(self._figures(left, each.figures) for left, each in placed) + _BETWEEN / 2

    def _figures(self, left: float, figures: Sequence[Figure]) -> float:
        """Names and numbers in two columns; returns where they end."""
        half = (self.width - GAP) / 2
        for index, figure in enumerate(figures):
            x, y = left + (index % 2) * (half + GAP), self._baseline(index // 2, _TEXT)
            self.parts.append(Text(x, y, figure.name, _TEXT, _MUTED))
            self.parts.append(Text(x + half, y, figure.text, _TEXT, _GOOD if figure.best else _INK, "end"))
        return self.y + line_height(_TEXT) * ((len(figures) + 1) // 2)

    def _baseline(self, line: int, size: int) -> float:
        return self.y + line * line_height(size) + size

    def row(self, row: SheetRow) -> None:
        start = self._legend(row.legend)
        room = start - MARGIN - 2 * GAP
        titled = self._lines(MARGIN, self.y, room, row.title, _ROW, most=3)
        self.y = max(titled, self.y + line_height(_ROW)) + 6
        photo = SheetCell(self.sheet.photo)
        ends = [self._cell(left, cell) for left, cell in zip(self.lefts, (photo, *row.cells), strict=True)]
        for x, y in row.marks:
            self.parts.append(Ring(MARGIN + x * self.picture_width, self.y + y * self.picture_height))
        self.y = max(ends) + _BETWEEN

    def _cell(self, left: float, cell: SheetCell) -> float:
        """A picture or a box with its words; returns where they end."""
        if cell.pixels is None:
            self.parts.append(Box(left, self.y, self.picture_width, self.picture_height, _SOFT))
            x, y = left + self.picture_width / 2, self.y + self.picture_height / 2 + _TEXT / 3
            if self.picture_height >= line_height(_TEXT) and self.picture_width >= text_width(cell.empty, _TEXT):
                self.parts.append(Text(x, y, cell.empty, _TEXT, _MUTED, "middle"))
        else:
            words = cell.words or "photo"
            self.parts.append(Picture(left, self.y, self.picture_width, self.picture_height, cell.pixels, words))
        colour = _BAD if cell.error else _MUTED
        below = self.y + self.picture_height + 4
        return self._lines(left, below, self.width, cell.words, _TEXT, colour, most=10) if cell.words else below

    def _legend(self, legend: Legend | None) -> float:
        """The meaning of the colours at the right end of a row's title; returns where it begins."""
        right = float(WIDTH - MARGIN)
        if isinstance(legend, ColorRange):
            low, high = (_number(limit) for limit in legend.limits)
            y = self.y + _ROW
            right = self._before(right, y, high)
            right -= _BAR[0] + 8
            bar = np.ascontiguousarray(lookup_table(legend.colormap)[None])
            self.parts.append(Picture(right, y - _BAR[1], *_BAR, bar, "colours from the lowest to the highest value"))
            return self._before(self._before(right - 8, y, low) - GAP, y, legend.words)
        if isinstance(legend, Components):
            names = zip(("red", "green", "blue"), legend.numbers, strict=True)
            for name, number in reversed(list(names)):
                share = f", {100 * legend.explained[number - 1]:.0f} %" if legend.explained else ""
                words = f"component {number}{share}"
                right -= text_width(words, _TEXT)
                self.parts.append(Text(right, self.y + _ROW, words, _TEXT, _MUTED))
                right -= 18
                self.parts.append(Box(right, self.y + _ROW - 11, 12, 12, WEB_COLOURS[name]))
                right -= GAP
        return right

    def _before(self, right: float, y: float, words: str) -> float:
        """A line of text that ends at ``right``, shortened if it is very long; returns where it begins."""
        shown = "".join(wrapped(words, _TEXT, WIDTH / 4, 1))
        if shown:
            self.parts.append(Text(right, y, shown, _TEXT, _MUTED, "end"))
        return right - text_width(shown, _TEXT)

    def _lines(
        self, x: float, top: float, width: float, words: str, size: int, colour: str = _INK, *, most: int
    ) -> float:
        """Text in lines that fit; returns where they end."""
        for line in wrapped(words, size, width, most):
            self.parts.append(Text(x, top + size, line, size, colour))
            top += line_height(size)
        return top


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def size_of(layout: Layout, width: int) -> Size:
    """(H, W) in pixels of a sheet that is drawn at a width."""
    return max(1, round(layout.height * width / WIDTH)), width
