"""Project files that have to agree with each other."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")


def test_hooks_and_tests_format_with_the_same_ruff():
    wanted = re.findall(r'"(ruff[^"]*)"', PROJECT)
    assert len(wanted) == 1
    assert set(re.findall(r'"(ruff[^"]*)"', HOOKS)) == set(wanted)


def test_hooks_need_nothing_but_the_package_index():
    assert re.findall(r"repo: *(\S+)", HOOKS) == ["local"]


def test_the_package_is_marked_as_typed_and_ships_whole():
    assert (ROOT / "featup_app" / "py.typed").read_bytes() == b""
    assert '"featup_app" = "featup_app"' in PROJECT


def test_the_program_imports_only_what_it_depends_on():
    needed = {"torch", "timm", "PySide6", "pyqtgraph", "numpy", "cv2", "PIL", "safetensors", "huggingface_hub"}
    needed |= {"platformdirs", "psutil", "typer", "rich", "tifffile", "imagecodecs"}
    optional = {"lightning_fabric"}
    found = set()
    for path in (ROOT / "featup_app").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"^ *(?:from|import) (\w+)[\w.]*(?: import| as|$)", text, flags=re.MULTILINE))
    assert found - set(sys.stdlib_module_names) - needed - optional == {"featup_app"}
