"""Finding a class among a thousand names. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from featup_app.base.errors import LensError


def search_classes(names: Sequence[str], text: str, limit: int = 50) -> list[int]:
    """Indices of the classes whose names hold every word of the text.

    Names that have all of them as whole words come first ("coffee cup" before "porcupine"), then those that begin with the text.
    """
    words = text.lower().split()
    hits = [index for index, name in enumerate(names) if all(word in name.lower() for word in words)]
    start = text.strip().lower()

    def rank(index: int) -> tuple[bool, bool, int]:
        name = names[index].lower()
        return not set(words) <= set(re.findall(r"\w+", name)), not name.startswith(start), index

    return sorted(hits, key=rank)[:limit]


def find_class(names: Sequence[str], text: str) -> int:
    """The one class that a person means by a name, a unique part of a name, or a number.

    Raises:
        LensError: if there is none, or there are several; the sentence names candidates.
    """
    text = text.strip()
    if text.isdecimal():
        index = int(text)
        if index < len(names):
            return index
        raise LensError(f"There is no class number {index}; the classes are numbered from 0 to {len(names) - 1}.")
    exact = [index for index, name in enumerate(names) if name.lower() == text.lower()]
    if exact:
        return exact[0]
    hits = search_classes(names, text, limit=len(names)) if text else []
    if len(hits) == 1:
        return hits[0]
    if hits:
        some = ", ".join(f'"{names[index]}"' for index in hits[:5])
        more = " and others" if len(hits) > 5 else ""
        raise LensError(f'"{text}" could be several classes: {some}{more}. Give the whole name or its number.')
    lowered = {name.lower(): name for name in names}
    close = [lowered[match] for match in difflib.get_close_matches(text.lower(), lowered, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(f'“{name}”' for name in close)}?" if close else ""
    raise LensError(f'There is no class "{text}" among the {len(names)} classes.{hint}')
