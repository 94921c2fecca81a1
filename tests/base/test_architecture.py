"""The documents name files, decisions and pages that exist, and the index of decisions says what the decisions say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "featup_app"
FOLDER = PACKAGE / "decisions"
DECISIONS = sorted(FOLDER.glob("[0-9]*.md"))
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "packaging").glob("*.md")),
    *sorted(PACKAGE.glob("*.md")),
    *sorted(FOLDER.rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]+)\)")
PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w.-]+\.\w+)?)`")
"""A file or folder in backticks, such as `fields/jbu.py` or `gui/`."""
SOURCES = [
    path
    for folder in ("featup_app", "native", "packaging", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".hpp", ".h", ".cu", ".cuh", ".cpp") and path != Path(__file__)
]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def head(path: Path) -> tuple[str, str, str]:
    """(number, title, status) of a decision."""
    first, _, status = path.read_text(encoding="utf-8").splitlines()[:3]
    title = re.fullmatch(r"# (\d{4}) (.+)", first)
    assert title is not None, path.name
    return title[1], title[2], status.removeprefix("Status: ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document):
    links = [link for link in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.is_relative_to(PACKAGE)], ids=name)
def test_files_that_a_document_names_exist(document):
    named = PATH.findall(document.read_text(encoding="utf-8"))
    missing = [path for path in named if not (ROOT / path).exists() and not (PACKAGE / path).exists()]
    assert missing == []


def test_each_decision_has_a_number_of_its_own_a_status_and_three_parts():
    numbers = [int(path.name[:4]) for path in DECISIONS]
    assert numbers == list(range(1, len(numbers) + 1))
    for path in DECISIONS:
        number, _, status = head(path)
        assert path.name.startswith(f"{number}-")
        assert re.fullmatch(r"accepted|rejected|superseded by \[\d{4}\]\([\w-]+\.md\)", status), path.name
        parts = [line[3:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
        assert parts == ["Context", "Choice", "Consequence"], path.name


def test_the_index_lists_each_decision_with_its_title_and_status():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in DECISIONS:
        number, title, status = head(path)
        assert f"| [{number}]({path.name}) | {title} | {status} |" in index


def test_decisions_that_the_code_refers_to_exist():
    known = {path.name[:4] for path in DECISIONS}
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"\b[Dd]ecision (\d{4})\b", text)) <= known, path
        assert not re.search(r"DESIGN section|DECISIONS\b", text), path
