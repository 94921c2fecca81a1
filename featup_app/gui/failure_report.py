"""What is said about a failure beyond its sentence: where it happened and what to do, and a report for developers."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from featup_app.engine.settings import ViewSettings
from featup_app.fields import find_method
from featup_app.images import Image
from featup_app.ops.status import native_status

UNEXPECTED = "Something unexpected went wrong"
"""How the sentence of a failure begins that the program did not foresee."""

_PACKAGES = (("featup-app", "featup-app"), ("torch", "torch"), ("timm", "timm"), ("Qt", "PySide6-Essentials"))


def explained(sentence: str, image: Image | None, settings: ViewSettings) -> str:
    """For a person: what failed, where, and what to do."""
    foreseen = "As the message says. What was computed before stays as it is."
    unforeseen = (
        "This is a defect of the program and not your mistake. Nothing that you made is lost. Another method, size or picture "
        "may work. “Copy report” copies what a developer needs to mend it."
    )
    advice = unforeseen if sentence.startswith(UNEXPECTED) else foreseen
    rows = [("What", sentence), *_where(image, settings), ("What to do", advice)]
    return "\n".join(f"{title}: {words}" for title, words in rows)


def report(sentence: str, details: str, image: Image | None, settings: ViewSettings) -> str:
    """For a developer: the same with versions and the traceback, without the names of the person's folders."""
    rows = [("What", sentence), *_where(image, settings), *versions(), ("Native code", native_status().detail)]
    text = "\n".join(f"{title}: {words}" for title, words in rows) + f"\n\n{details}"
    return text.replace(str(Path.home()), "~")


def versions() -> list[tuple[str, str]]:
    """Python's version and those of the packages that compute and draw."""
    found = [("Python", platform.python_version())]
    for title, name in _PACKAGES:
        try:
            found.append((title, version(name)))
        except PackageNotFoundError:
            found.append((title, "not installed as a package"))
    return found


def _where(image: Image | None, settings: ViewSettings) -> list[tuple[str, str]]:
    picture = "none" if image is None else f"{image.name}, {image.size_hw[1]} × {image.size_hw[0]} px"
    layer = settings.layer or "default layer"
    return [
        ("Picture", picture),
        ("Features", f"{settings.backbone}, {layer}, input {settings.input_size or 'auto'}"),
        ("Method", f"{find_method(settings.method).title}, output {settings.output_size}"),
    ]
