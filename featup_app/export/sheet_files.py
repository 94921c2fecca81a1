"""Sheets as files: PNG, drawn with Pillow, and SVG with real text and pictures inside. Imports no torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from featup_app.base.errors import ExportError
from featup_app.export.pictures import CHUNK, stage_picture
from featup_app.export.provenance import as_json
from featup_app.export.sheet_text import WEB_COLOURS, drawable, font, one_line
from featup_app.export.sheets import WIDTH, Box, Layout, Link, Part, Picture, Pixels, Ring, Text, size_of
from featup_app.export.staging import Staging, explained
from featup_app.features import Size
from featup_app.images import resized

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SHEET_SUFFIXES = (".png", ".svg")

_SQUARES = 3
"""Pixels that become at least so large are shown as squares and not smoothed."""

_LARGEST = 2048
"""Pixels along the longer side of a picture inside an SVG."""

_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}

_RINGS = ((7.0, 4.0, "#000000"), (7.0, 2.0, "#ffffff"))
"""Radius, width and colour of the strokes of a mark."""


_LINK = ((4.2, 3.2, "#000000"), (3.0, 1.6, None))
"""Radius of the dots, width of the line and colour of the strokes of a link, its own colour where there is None."""

_SUBPIXELS = 4
"""Binary digits behind the point of coordinates that OpenCV draws."""


def check_sheet_name(target: Path) -> None:
    """Raises ExportError if the ending of a name is not that of a file which a sheet can be written to."""
    if target.suffix.lower() not in SHEET_SUFFIXES:
        raise ExportError(
            f'A sheet is written as {" or ".join(SHEET_SUFFIXES)}, not as "{target.name}"; choose one of them.'
        )


def stage_sheet(
    files: Staging, target: Path, layout: Layout, *, provenance: Mapping[str, Any], width: int = WIDTH
) -> None:
    """Write a sheet as a part of an export: the file gets its name when ``files`` ends.

    Args:
        files: of the export.
        target: .png or .svg.
        layout: from :func:`~featup_app.export.sheets.laid_out`.
        provenance: facts, kept in the text chunk of a PNG, or in the metadata of an SVG.
        width: of a PNG in pixels, and the size at which an SVG opens.

    Raises:
        ExportError: for another ending, or if the file may not or cannot be written.
    """
    check_sheet_name(target)
    if target.suffix.lower() == ".png":
        stage_picture(files, target, sheet_pixels(layout, width), provenance=provenance)
        return
    part = files.add(target)
    with explained(target):
        part.write_text(sheet_svg(layout, provenance=provenance, width=width), encoding="utf-8")


# -- PNG ---------------------------------------------------------------------------------------------------------------


def sheet_pixels(layout: Layout, width: int = WIDTH) -> Pixels:
    """A sheet as (H, W, 3) uint8 RGB."""
    from PIL import Image as pillow
    from PIL import ImageDraw

    size, scale = size_of(layout, width), width / WIDTH
    page = pillow.new("RGB", size[::-1], WEB_COLOURS["page"])
    drawing = ImageDraw.Draw(page)
    for part in layout.parts:
        if isinstance(part, Picture):
            left, top, right, bottom = _pixel_box(part, scale)
            pixels = _stretched(part.pixels, (bottom - top, right - left))
            page.paste(pillow.fromarray(np.ascontiguousarray(pixels)), (left, top))
        elif isinstance(part, Link):
            page = pillow.fromarray(_linked(np.array(page), part, scale))
            drawing = ImageDraw.Draw(page)
        else:
            _draw(drawing, part, scale)
    return np.asarray(page)


def _stretched(pixels: Pixels, size: Size) -> Pixels:
    """Pixels at a size of the sheet; small pictures, such as of the grid, are shown as the squares that they consist of."""
    if _is_coarse(pixels, size):
        rows = np.arange(size[0]) * pixels.shape[0] // size[0]
        columns = np.arange(size[1]) * pixels.shape[1] // size[1]
        squares: Pixels = pixels[rows[:, None], columns]
        return squares
    return resized(pixels, size)


def _is_coarse(pixels: Pixels, size: tuple[float, float]) -> bool:
    height, width = pixels.shape[:2]
    return bool(min(size[0] / height, size[1] / width) >= _SQUARES)


def _draw(drawing: ImageDraw, part: Text | Box | Ring, scale: float) -> None:
    if isinstance(part, Text):
        where = part.x * scale, part.y * scale
        drawing.text(where, drawable(part.words), part.colour, font(part.size * scale), anchor=_ANCHORS[part.anchor])
    elif isinstance(part, Box):
        left, top, right, bottom = _pixel_box(part, scale)
        drawing.rectangle((left, top, right - 1, bottom - 1), fill=part.colour)
    else:
        for radius, width, colour in _RINGS:
            outer = (radius + width / 2) * scale
            box = (part.x * scale - outer, part.y * scale - outer, part.x * scale + outer, part.y * scale + outer)
            drawing.ellipse(box, outline=colour, width=max(1, round(width * scale)))


def _linked(pixels: Pixels, part: Link, scale: float) -> Pixels:
    """The pixels of a sheet with a link drawn on them, with smooth edges, which Pillow does not draw."""
    fraction = 1 << _SUBPIXELS
    places = [[round((each * scale - 0.5) * fraction) for each in point] for point in (part.start, part.end)]
    for radius, width, colour in _LINK:
        value, code = colour or part.colour, cv2.LINE_AA
        paint = [int(value[at : at + 2], 16) for at in (1, 3, 5)]
        cv2.line(pixels, places[0], places[1], paint, max(1, round(width * scale)), code, _SUBPIXELS)
        for place in places:
            cv2.circle(pixels, place, round(radius * scale * fraction), paint, cv2.FILLED, code, _SUBPIXELS)
    return pixels


def _pixel_box(part: Box | Picture, scale: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in pixels, at least one pixel apart."""
    left, top = round(part.x * scale), round(part.y * scale)
    right, bottom = round((part.x + part.width) * scale), round((part.y + part.height) * scale)
    return left, top, max(right, left + 1), max(bottom, top + 1)


# -- SVG ---------------------------------------------------------------------------------------------------------------


def sheet_svg(layout: Layout, *, provenance: Mapping[str, Any], width: int = WIDTH) -> str:
    """A sheet as the text of an SVG file, which needs no other file."""
    height = size_of(layout, width)[0]
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {WIDTH} {layout.height}" '
        'font-family="Aileron, Helvetica, Arial, sans-serif">',
        f'<metadata id="{CHUNK}">{escape(as_json(provenance))}</metadata>',
        f'<rect width="{WIDTH}" height="{layout.height}" fill="{WEB_COLOURS["page"]}"/>',
        *(_element(part) for part in layout.parts),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _element(part: Part) -> str:
    if isinstance(part, Text):
        where = f'x="{part.x:.2f}" y="{part.y:.2f}" font-size="{part.size}" fill="{part.colour}"'
        return f'<text {where} text-anchor="{part.anchor}">{escape(part.words)}</text>'
    if isinstance(part, Ring):
        strokes = (
            f'<circle cx="{part.x:.2f}" cy="{part.y:.2f}" r="{radius:g}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'
            for radius, width, colour in _RINGS
        )
        return "".join(strokes)
    if isinstance(part, Link):
        (x1, y1), (x2, y2) = part.start, part.end
        strokes = (
            f'<g fill="{colour or part.colour}" stroke="{colour or part.colour}"><line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" '
            f'y2="{y2:.2f}" stroke-width="{width:g}"/><circle cx="{x1:.2f}" cy="{y1:.2f}" r="{radius:g}" stroke="none"/>'
            f'<circle cx="{x2:.2f}" cy="{y2:.2f}" r="{radius:g}" stroke="none"/></g>'
            for radius, width, colour in _LINK
        )
        return "".join(strokes)
    box = f'x="{part.x:.2f}" y="{part.y:.2f}" width="{part.width:.2f}" height="{part.height:.2f}"'
    if isinstance(part, Box):
        return f'<rect {box} fill="{part.colour}"/>'
    source = f"data:image/png;base64,{base64.b64encode(_png(part.pixels)).decode('ascii')}"
    title = f"<title>{escape(one_line(part.words))}</title>"
    drawn = ' image-rendering="pixelated"' if _is_coarse(part.pixels, (part.height, part.width)) else ""
    return f'<image {box}{drawn} preserveAspectRatio="none" href="{source}">{title}</image>'


def _png(pixels: Pixels) -> bytes:
    from PIL import Image as pillow

    height, width = pixels.shape[:2]
    share = min(1.0, _LARGEST / max(height, width))
    pixels = resized(pixels, (max(1, round(height * share)), max(1, round(width * share))))
    stream = io.BytesIO()
    pillow.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", compress_level=6)
    return stream.getvalue()
