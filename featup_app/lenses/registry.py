"""All lenses by name, and requests of them as a person writes them and as files keep them. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from featup_app.base.errors import LensError
from featup_app.lenses.cam import CAMLens
from featup_app.lenses.lens import Lens, Request
from featup_app.lenses.pca import PCALens
from featup_app.lenses.similarity import SimilarityLens

AnyLens = Lens[Any, Any]

LENSES: dict[str, AnyLens] = {lens.name: lens for lens in (PCALens(), SimilarityLens(), CAMLens())}
"""Every lens of the program by its name, in the order in which windows and dialogs show them."""


def find_lens(name: str) -> AnyLens:
    """The lens of this name.

    Raises:
        LensError: naming the lenses that there are.
    """
    if name not in LENSES:
        raise LensError(f'There is no lens "{name}". Choose one of: {", ".join(LENSES)}.')
    return LENSES[name]


def request_from_json(facts: Mapping[str, Any]) -> Request:
    """The request that :meth:`Request.as_json` described.

    Raises:
        LensError: if there is no such lens, or it has no such request.
    """
    values = dict(facts)
    request: Request = find_lens(str(values.pop("lens", ""))).request_from(values)
    return request


def usage() -> str:
    """How the views of all lenses are written, for help texts."""
    return ", ".join(lens.usage for lens in LENSES.values())


def parse_views(text: str) -> tuple[Request, ...]:
    """The views that a person asks for, e.g. ``pca,pca:4-6,similarity@120,80,cam:espresso``.

    ``pca`` shows components 1 to 3, ``pca:4-6`` and ``pca:1,4,9`` others; ``similarity@x,y`` the similarity to an image
    point; ``cam`` the most probable class, ``cam:CLASS`` one by name or number. Other lenses say in their ``usage`` how they
    are written.

    Raises:
        LensError: if a part cannot be understood, or is there twice.
    """
    requests: list[Request] = []
    position = 0
    while position < len(text.rstrip()):
        request, end = _next_view(text, position)
        if request in requests:
            raise LensError(f'The view "{text[position:end].strip(" ,")}" is asked for twice; once is enough.')
        requests.append(request)
        position = end
    return tuple(requests)


def _next_view(text: str, position: int) -> tuple[Request, int]:
    """The request that a text holds at a position, and where the next one begins."""
    for lens in LENSES.values():
        pattern = rf"\s*{re.escape(lens.name)}\s*{lens.argument}\s*(?:,|$)"
        found = re.compile(pattern, re.VERBOSE | re.IGNORECASE).match(text, position)
        if found is not None:
            request: Request = lens.parse(found)
            return request, found.end()
    raise LensError(
        f'The view "{text[position:].strip()}" is not understood. Write {usage()}, separated by commas; '
        'a class whose name holds a comma in quotes: cam:"lynx, catamount".'
    )
