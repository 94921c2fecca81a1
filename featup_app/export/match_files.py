"""Correspondences of two pictures as files: a table, and both pictures side by side with lines. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featup_app.base.errors import ExportError
from featup_app.export.feature_files import json_beside
from featup_app.export.provenance import as_json
from featup_app.export.sheet_files import SHEET_SUFFIXES, stage_sheet
from featup_app.export.sheet_text import WEB_COLOURS, line_height, text_width, wrapped
from featup_app.export.sheets import GAP, MARGIN, TALLEST, WIDTH, Layout, Link, Part, Picture, Pixels, Text
from featup_app.export.staging import Staging, explained
from featup_app.lenses.pictures import lookup_table

if TYPE_CHECKING:
    from featup_app.images import Image
    from featup_app.lenses.correspondence import Matches

MATCH_SUFFIXES = (".csv", *SHEET_SUFFIXES)

COLUMNS = ("x1", "y1", "x2", "y2", "similarity", "confidence")
"""Of the table: points in pixels of the two original images, and what is known of their match."""

DRAWN = 40
"""Lines on a picture, at most."""

_COLOURS = lookup_table("inferno")[80:246]
"""Of lines, from the lowest confidence to the highest: without those that are hardly seen on dark or on light pictures."""

_TITLE, _TEXT = 22, 14
_BAR = 200, 12


def check_match_name(target: Path) -> None:
    """Raises ExportError if the ending of a name is not that of a file which matches can be written to."""
    if target.suffix.lower() not in MATCH_SUFFIXES:
        raise ExportError(
            f'Matches are written as {", ".join(MATCH_SUFFIXES[:-1])} or {MATCH_SUFFIXES[-1]}, not as "{target.name}"; '
            "choose one of them."
        )


def files_of(target: Path) -> tuple[Path, ...]:
    """A file with those beside it: the record of a table is a JSON file, so that any reader of CSV can read the table."""
    return (target, json_beside(target)) if target.suffix.lower() == ".csv" else (target,)


def stage_matches(
    files: Staging,
    target: Path,
    images: tuple[Image, Image],
    matches: Matches,
    *,
    provenance: Mapping[str, Any],
    lines: tuple[str, ...] = (),
    width: int = WIDTH,
) -> None:
    """Write matches as a part of an export: the file gets its name when ``files`` ends.

    Args:
        files: of the export.
        target: .csv (with .json beside it), .png or .svg.
        images: the two pictures.
        matches: between them.
        provenance: facts for the record.
        lines: below the title of a picture.
        width: of a PNG in pixels, and the size at which an SVG opens.

    Raises:
        ExportError: for another ending, or if the file may not or cannot be written.
    """
    check_match_name(target)
    if target.suffix.lower() != ".csv":
        stage_sheet(files, target, matches_laid_out(images, matches, lines), provenance=provenance, width=width)
        return
    for path, text in zip(files_of(target), (table_of(matches), _readable(provenance)), strict=True):
        part = files.add(path)
        with explained(path):
            part.write_text(text, encoding="utf-8", newline="\n")


def table_of(matches: Matches) -> str:
    """Matches as the text of a CSV file: one line each below :data:`COLUMNS`, the most confident first."""
    rows = [",".join(COLUMNS)]
    for one, other, *known in zip(matches.one, matches.other, matches.similarity, matches.confidence, strict=True):
        rows.append(",".join([*(f"{place:.2f}" for place in (*one, *other)), *(f"{value:.4f}" for value in known)]))
    return "\n".join(rows) + "\n"


def _readable(provenance: Mapping[str, Any]) -> str:
    return json.dumps(json.loads(as_json(provenance)), indent=2, sort_keys=True) + "\n"


# -- pictures ----------------------------------------------------------------------------------------------------------


def spread(matches: Matches, image_hw: tuple[int, int], most: int = DRAWN) -> list[int]:
    """The most confident matches that do not crowd in one place of the first picture, in their order.

    Args:
        matches: of the pictures.
        image_hw: (H, W) of the first picture.
        most: how many, at most.
    """
    apart = 0.6 * float(np.sqrt(image_hw[0] * image_hw[1] / most))
    chosen: list[int] = []
    for index, point in enumerate(matches.one):
        if len(chosen) == most:
            break
        if not chosen or np.hypot(*(matches.one[chosen] - point).T).min() >= apart:
            chosen.append(index)
    return chosen


def matches_laid_out(images: tuple[Image, Image], matches: Matches, lines: tuple[str, ...] = ()) -> Layout:
    """Both pictures side by side, with lines between matching points; their colours are the confidence."""
    chosen, y = spread(matches, images[0].size_hw), float(MARGIN)
    parts: list[Part] = []
    whole, half = WIDTH - 2 * MARGIN, (WIDTH - 2 * MARGIN - GAP) / 2
    high = float(matches.confidence[chosen].max()) if chosen else 1.0
    counted = f"{len(chosen)} of {len(matches)} matches are drawn, the most confident that are apart."
    title = [
        (line, _TITLE, WEB_COLOURS["ink"]) for line in wrapped(f"{images[0].name}, {images[1].name}", _TITLE, whole, 2)
    ]
    notes = [each for line in (*lines, counted) for each in wrapped(line, _TEXT, whole, 3)]
    for words, size, colour in (*title, *((line, _TEXT, WEB_COLOURS["muted"]) for line in notes)):
        parts.append(Text(MARGIN, y + size, words, size, colour))
        y += line_height(size)
    parts += _legend(y, high)
    y += line_height(_TEXT) + 12
    boxes = [
        _placed(image.pixels, MARGIN + index * (half + GAP), y, half, image.name) for index, image in enumerate(images)
    ]
    parts += boxes
    for index in reversed(chosen):  # the most confident ones lie above the others
        red, green, blue = _COLOURS[round((len(_COLOURS) - 1) * float(matches.confidence[index]) / (high or 1.0))]
        start, end = (
            _on(box, points[index], image)
            for box, points, image in zip(boxes, (matches.one, matches.other), images, strict=True)
        )
        parts.append(Link(start, end, f"#{red:02x}{green:02x}{blue:02x}"))
    return Layout(tuple(parts), round(max(box.y + box.height for box in boxes) + MARGIN))


def _legend(y: float, high: float) -> list[Part]:
    words, baseline = "Confidence  0.00", y + _TEXT
    left = MARGIN + text_width(words, _TEXT) + 8
    bar = np.ascontiguousarray(_COLOURS[None])
    return [
        Text(MARGIN, baseline, words, _TEXT, WEB_COLOURS["muted"]),
        Picture(left, baseline - _BAR[1], *_BAR, bar, "colours from the lowest to the highest confidence"),
        Text(left + _BAR[0] + 8, baseline, f"{high:.2f}", _TEXT, WEB_COLOURS["muted"]),
    ]


def _placed(pixels: Pixels, left: float, top: float, width: float, words: str) -> Picture:
    """A picture in the middle of its half, as wide as that unless it would be very tall."""
    rows, columns = pixels.shape[:2]
    height = min(width * rows / columns, TALLEST * width)
    shown = height * columns / rows
    return Picture(left + (width - shown) / 2, top, shown, height, pixels, words)


def _on(box: Picture, point: np.ndarray[Any, np.dtype[np.float64]], image: Image) -> tuple[float, float]:
    height, width = image.size_hw
    return box.x + float(point[0]) / width * box.width, box.y + float(point[1]) / height * box.height
