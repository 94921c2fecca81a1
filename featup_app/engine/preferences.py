"""Choices that the program remembers from one start to the next: a small readable file, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import platformdirs

from featup_app.base.files import partial_name
from featup_app.engine.settings import ViewSettings

RECENT_LIMIT = 10
FILE_NAME = "preferences.json"


@dataclass
class Preferences:
    """Remembered choices. Unknown or damaged entries of the file are ignored, never an error at start-up.

    Attributes:
        recent: paths of images, newest first, at most ten, only those that still exist.
        settings: the last settings of the views.
        export_folder: where the last export went.
        export_format, export_dtype: of the last export.
        export_features: whether it held the features.
        export_without: names of the lenses whose pictures it left out.
        refine: whether pictures are refined while nobody is at work.
        memory_budget: bytes of results that a session keeps; None for its default.
        strip: whether several open pictures are shown as a film strip.
        window: geometry and dock layout as the window system packs them (base64).
    """

    recent: list[str] = field(default_factory=list)
    settings: ViewSettings = field(default_factory=ViewSettings)
    export_folder: str = ""
    export_format: str = "npz"
    export_dtype: str = "float32"
    export_features: bool = True
    export_without: list[str] = field(default_factory=list)
    refine: bool = False
    memory_budget: int | None = None
    strip: bool = True
    window: dict[str, str] = field(default_factory=dict)

    def add_recent(self, path: Path) -> None:
        """Put a file at the head of the recent ones."""
        text = str(path.resolve())
        self.recent = [text, *(other for other in self.recent if other != text)][:RECENT_LIMIT]


def config_folder() -> Path:
    """Where the preferences lie; the variable FEATUP_CONFIG_DIR moves it."""
    chosen = os.environ.get("FEATUP_CONFIG_DIR")
    return Path(chosen) if chosen else Path(platformdirs.user_config_dir("featup-app", appauthor=False))


def load_preferences() -> Preferences:
    """The remembered choices, or the defaults."""
    preferences = Preferences()
    try:
        stored: Any = json.loads((config_folder() / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return preferences
    if not isinstance(stored, dict):
        return preferences
    recent = stored.get("recent")
    if isinstance(recent, list):
        preferences.recent = [path for path in recent if isinstance(path, str) and os.path.isfile(path)][:RECENT_LIMIT]
    settings = stored.get("settings")
    if isinstance(settings, dict):
        # All but which fit is seen, which means nothing in another session.
        names = {entry.name for entry in fields(ViewSettings)} - {"fit", "fit_latest"}
        known = {name: value for name, value in settings.items() if name in names and isinstance(value, str)}
        preferences.settings = ViewSettings().with_(**known)
    for name in ("export_folder", "export_format", "export_dtype"):
        if isinstance(stored.get(name), str):
            setattr(preferences, name, stored[name])
    preferences.export_features = stored.get("export_features") is not False
    without = stored.get("export_without")
    if isinstance(without, list):
        preferences.export_without = [name for name in without if isinstance(name, str)]
    preferences.refine = stored.get("refine") is True
    budget = stored.get("memory_budget")
    if isinstance(budget, int) and not isinstance(budget, bool) and budget > 0:
        preferences.memory_budget = budget
    preferences.strip = stored.get("strip") is not False
    window = stored.get("window")
    if isinstance(window, dict):
        preferences.window = {str(key): value for key, value in window.items() if isinstance(value, str)}
    return preferences


def save_preferences(preferences: Preferences) -> None:
    """Write the choices; a folder that cannot be written to is no reason to disturb anyone."""
    with contextlib.suppress(OSError):
        folder = config_folder()
        folder.mkdir(parents=True, exist_ok=True)
        part = partial_name(folder / FILE_NAME)
        try:
            part.write_text(json.dumps(asdict(preferences), indent=1), encoding="utf-8")
            os.replace(part, folder / FILE_NAME)
        finally:
            part.unlink(missing_ok=True)
