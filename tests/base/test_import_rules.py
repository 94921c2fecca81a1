"""What an import drags in, import circles between files, and the lengths of files and functions.

The window must appear before torch does, and only the gui room may know Qt.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
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
        "featup_app.marks",
        "featup_app.multiview",
        "featup_app.ops",
        "featup_app.export",
        "featup_app.engine.exporting",
        "featup_app.engine.jobs",
        "featup_app.engine.preferences",
        "featup_app.backbones",
    ],
)
def test_importing_brings_no_large_library(module):
    if not module_exists(module):
        pytest.skip(f"{module} is not part of this version")
    assert imported_by(module) & {"torch", "timm", "torchvision", "tifffile", "imagecodecs"} == set()


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


# -- circles and lengths -------------------------------------------------------------------------------------------------

LONGEST_MODULE, LONGEST_FUNCTION = 450, 80  # lines


def files_of_the_program() -> dict[str, Path]:
    """By the full names of the modules; a room has the name of its ``__init__``."""
    named = ((".".join(path.relative_to(ROOT).with_suffix("").parts), path) for path in PACKAGE.rglob("*.py"))
    return {name.removesuffix(".__init__"): path for name, path in named}


def imports_of(name: str, files: dict[str, Path]) -> set[str]:
    """The modules of the program that a module imports: at its top, in its functions, and for type checkers alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(files[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each in files else str(node.module) for each in names}
    return (found & files.keys()) - {name}


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The largest sets of modules each of which leads to each other one."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    reach = {name: reached(name) for name in graph}
    return {frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]}


def too_long() -> Iterator[str]:
    for path in files_of_the_program().values():
        text, name = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
        if len(text.splitlines()) > LONGEST_MODULE:
            yield name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno >= LONGEST_FUNCTION:
                    yield f"{name} {node.name}"


def test_circles_are_found_when_there_are_some():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"f", "a"}, "f": {"e"}}
    assert circles(graph) == {frozenset("bc"), frozenset("ef")}


def test_no_file_imports_itself_by_way_of_others():
    files = files_of_the_program()
    assert len(files) > 150
    assert circles({name: imports_of(name, files) for name in files}) == set()


def test_files_and_functions_are_short():
    assert list(too_long()) == []
