"""What the columns of a comparison are called: by what differs between their settings. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from featup_app.backbones.catalogue import list_backbones
from featup_app.engine.settings import ViewSettings
from featup_app.fields.registry import CLASSICAL, find_method


def titles_of(columns: Sequence[ViewSettings]) -> tuple[str, ...]:
    """A title for each column that names only what is not the same in all of them; no two are equal.

    Raises:
        UpsamplerError: for an unknown method.
    """
    words = [
        [name(settings) for field, name in _NAMES.items() if len({getattr(each, field) for each in columns}) > 1]
        for settings in columns
    ]
    titles = [", ".join(word for word in each if word) or find_method(columns[0].method).title for each in words]
    return tuple(
        title if titles.count(title) == 1 else f"{title} ({titles[:index].count(title) + 1})"
        for index, title in enumerate(titles)
    )


def shared_words(columns: Sequence[ViewSettings]) -> str:
    """What is the same in all columns, for a line above them."""
    first = columns[0]
    shared = [
        name(first)
        for field, name in _NAMES.items()
        if len({getattr(each, field) for each in columns}) == 1
        and (field != "upsampler" or first.upsampler is not None)
    ]
    return ", ".join(word for word in shared if word)


def _backbone(settings: ViewSettings) -> str:
    titles = {entry.name: entry.title for entry in list_backbones()}
    return titles.get(settings.backbone, settings.backbone).split(" (")[0]


def _weights(settings: ViewSettings) -> str:
    if not find_method(settings.method).takes_weights and settings.upsampler is None:
        return ""
    if settings.upsampler is None:
        return "bundled weights"
    return "classical" if settings.upsampler == CLASSICAL else Path(settings.upsampler).name


def _fit(settings: ViewSettings) -> str:
    if settings.fit is None:
        return ""
    return f"fit {settings.fit}{', latest' if settings.fit_latest else ''}"


_NAMES: dict[str, Callable[[ViewSettings], str]] = {
    "method": lambda settings: find_method(settings.method).title,
    "upsampler": _weights,
    "fit": _fit,
    "fit_latest": lambda settings: "",
    "backbone": _backbone,
    "weights_file": lambda settings: Path(settings.weights_file).name if settings.weights_file else "",
    "layer": lambda settings: settings.layer or "default layer",
    "input_size": lambda settings: f"input {settings.input_size or 'of default size'}",
    "output_size": lambda settings: f"output {settings.output_size}",
}
"""For each field of the settings, in the order of a title, what it is called there; an empty text says nothing."""
