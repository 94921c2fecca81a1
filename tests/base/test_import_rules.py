"""What an import drags in: the window must appear before torch does, and only the gui room may know Qt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "featup_app"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py") if path.parent.name != "gui")


def module_exists(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def qt_free_modules() -> list[str]:
    paths = [path for path in PACKAGE.glob("*.py") if path.stem not in ("__init__", "__main__")]
    paths += [path for room in ROOMS for path in (PACKAGE / room).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return sorted(name.removesuffix(".__init__") for name in names)


def imported_by(*modules: str) -> set[str]:
    """The top-level packages that a fresh Python holds after importing these modules."""
    program = (
        "import importlib, json, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [sys.executable, "-c", program, *modules],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "module",
    [
        "featup_app",
        "featup_app.gui.app",
        "featup_app.cli.main",
        "featup_app.fields",
        "featup_app.lenses",
        "featup_app.multiview",
        "featup_app.ops",
        "featup_app.export",
        "featup_app.engine.exporting",
        "featup_app.engine.jobs",
        "featup_app.engine.preferences",
        "featup_app.backbones",
    ],
)
def test_importing_brings_neither_torch_nor_timm(module):
    if not module_exists(module):
        pytest.skip(f"{module} is not part of this version")
    assert imported_by(module) & {"torch", "timm", "torchvision"} == set()


def test_every_room_but_the_gui_is_free_of_qt():
    modules = qt_free_modules()
    assert len(modules) > 30
    packages = imported_by(*modules)
    assert packages & {"PySide6", "shiboken6", "pyqtgraph", "PyQt5", "PyQt6"} == set()
    assert "torch" in packages, "otherwise the modules were not really imported"


def test_the_public_names_are_there_and_nothing_else_is_imported_for_their_list():
    import featup_app

    assert set(featup_app.__all__) <= set(dir(featup_app))
    for name in featup_app.__all__:
        assert getattr(featup_app, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = featup_app.no_such_name
