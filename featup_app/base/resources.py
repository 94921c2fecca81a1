"""Where the files that ship with the program lie: weights, sample pictures, icons, licences."""

from __future__ import annotations

from pathlib import Path


def resource(*parts: str) -> Path:
    """Path of a shipped file or folder, e.g. ``resource("images", "cat.jpg")``.

    In an installed wheel the resources lie inside the package; in a checkout (editable install) beside it.

    Raises:
        FileNotFoundError: if the installation lacks it.
    """
    package = Path(__file__).resolve().parents[1]
    for root in (package / "resources", package.parent / "resources"):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"The installation lacks its file resources/{'/'.join(parts)}; install featup-app again.")
