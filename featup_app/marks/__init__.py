"""Marks: what a person draws on a picture, in image pixels, and the output pixels that it covers. Imports no torch."""

from __future__ import annotations

from featup_app.marks.coverage import check_inside, coverage, covered_pixels, neighbourhood
from featup_app.marks.shapes import BoxMark, Mark, PointMark, PolygonMark, StrokeMark, mark_from_json, mark_to_json

__all__ = [
    "BoxMark",
    "Mark",
    "PointMark",
    "PolygonMark",
    "StrokeMark",
    "check_inside",
    "coverage",
    "covered_pixels",
    "mark_from_json",
    "mark_to_json",
    "neighbourhood",
]
