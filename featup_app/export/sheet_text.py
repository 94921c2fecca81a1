"""Text and colours of sheets: widths, line breaks, and what the font of Pillow can show. Imports no torch."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

WEB_COLOURS = {
    "page": "#ffffff", "ink": "#1b1f24", "muted": "#5c6672", "line": "#d5dbe2", "soft": "#f0f2f6", "good": "#157f4a",
    "bad": "#b3261e", "red": "#d92d20", "green": "#2e9e4f", "blue": "#2f6fde",
}  # fmt: skip

_REPLACED = {
    "×": "x",
    "–": "-",
    "—": "-",
    "−": "-",
    "ß": "ss",
    "‘": "'",
    "’": "'",
    "æ": "ae",
    "ø": "o",
    "ł": "l",
    "\u00a0": " ",
}
"""Characters that the font lacks, and what is drawn for them."""


@lru_cache(maxsize=64)
def font(size: float) -> FreeTypeFont:
    """The scalable font that comes with Pillow."""
    from PIL import ImageFont

    return ImageFont.load_default(size)  # type: ignore[return-value]  # with a size it is always scalable


def one_line(text: str) -> str:
    """Text without line breaks, control characters and halves of characters, which files of XML cannot hold."""
    text = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text)
    return re.sub(r"[\ud800-\udfff\ufffe\uffff]", "?", text).strip()


@lru_cache(maxsize=4096)
def drawable(text: str) -> str:
    """The text as the font can show it: accents are dropped, and a question mark stands for a letter that it lacks."""
    shown = []
    for character in text:
        plain = _REPLACED.get(character, character)
        if not all(_is_drawn(each) for each in plain):
            base = unicodedata.normalize("NFKD", plain)[:1]
            plain = base if base and _is_drawn(base) else "?"
        shown.append(plain)
    return "".join(shown)


@lru_cache(maxsize=4096)
def _is_drawn(character: str) -> bool:
    """Whether the font has a shape for a character of its own, and not that of unknown characters."""
    if character == " ":
        return True
    mask, unknown = font(32).getmask(character), font(32).getmask("\u0fff")
    return mask.size != unknown.size or bytes(mask) != bytes(unknown)


_WIDEST = 1.16
"""Other fonts in which an SVG may be shown are up to so much wider."""


def text_width(text: str, size: int) -> float:
    """Room for a line of text in units of its size, in any usual font; wide characters of East Asia count as squares."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    narrow = "".join(character for character in text if unicodedata.east_asian_width(character) not in "WF")
    return _WIDEST * float(font(size).getlength(drawable(narrow))) + wide * size


def line_height(size: int) -> float:
    """From one line to the next."""
    return round(1.32 * size)


def wrapped(text: str, size: int, width: float, most: int) -> list[str]:
    """Text in lines of at most a width; words that are longer are broken, and what is left over ends in dots.

    Args:
        text: any.
        size: of the font.
        width: in the same units.
        most: how many lines there may be.
    """
    lines: list[str] = []
    for word in one_line(text).split(" "):
        joined = f"{lines[-1]} {word}" if lines else word
        if text_width(joined, size) <= width:
            lines[-1:] = [joined]
            continue
        while text_width(word, size) > width and len(word) > 1:
            end = _fitting(word, size, width)
            lines.append(word[:end])
            word = word[end:]
        lines.append(word)
    if len(lines) > most:
        last = lines[most - 1]
        end = _fitting(f"…{last}", size, width) - 1
        lines = [*lines[: most - 1], f"{last[:end]}…"]
    return [line for line in lines if line]


def _fitting(word: str, size: int, width: float) -> int:
    """How many characters of a text, at least one, fit into a width."""
    return max(1, bisect_right(range(1, len(word) + 1), width, key=lambda end: text_width(word[:end], size)))
