"""Weights of a test's own in the place of those that ship with the program."""

from __future__ import annotations

from pathlib import Path

import pytest


def bundled_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, made empty, in which the program now looks for its bundled upsampler weights."""
    folder.mkdir()

    def find(*parts: str) -> Path:
        path = folder / parts[-1]
        if not path.exists():
            raise FileNotFoundError(path)
        return path

    monkeypatch.setattr("featup_app.fields.weights.resource", find)
    return folder
