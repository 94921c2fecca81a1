"""Colours of the window have names, and stand in one module."""

from __future__ import annotations

import re
from pathlib import Path

from featup_app import gui

LITERAL = re.compile(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{8}\b|(?:QColor|mkPen|mkBrush|mkColor)\([\"'\d]")


def test_no_colour_stands_outside_the_style():
    folder = Path(gui.__file__).parent
    found = {
        f"{path.relative_to(folder)}: {literal}"
        for path in folder.rglob("*.py")
        if path.name != "style.py"
        for literal in LITERAL.findall(path.read_text(encoding="utf-8"))
    }
    assert not found
