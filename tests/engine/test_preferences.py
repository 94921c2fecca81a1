"""Preferences: back as they were, never an error at start-up, never half written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import platformdirs
import pytest

from featup_app.engine.preferences import (
    FILE_NAME,
    RECENT_LIMIT,
    Preferences,
    config_folder,
    load_preferences,
    save_preferences,
)
from featup_app.engine.settings import ViewSettings


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "settings of a person" / "ünïcode"
    monkeypatch.setenv("FEATUP_CONFIG_DIR", str(folder))
    return folder


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    paths = [tmp_path / f"picture {index}.png" for index in range(14)]
    for path in paths:
        path.touch()
    return paths


def write(folder: Path, text: str | bytes) -> None:
    folder.mkdir(parents=True)
    (folder / FILE_NAME).write_bytes(text.encode() if isinstance(text, str) else text)


def test_without_a_file_there_are_the_defaults_and_no_file_is_made(folder):
    assert load_preferences() == Preferences()
    assert not folder.exists()


def test_choices_come_back_as_they_were(pictures):
    chosen = Preferences(
        recent=[str(pictures[0]), str(pictures[1])],
        settings=ViewSettings(backbone="x", layer="block 3", input_size="224", method="bilinear", output_size="image"),
        export_folder="/somewhere/ä",
        export_format="npy",
        export_dtype="float16",
        refine=True,
        memory_budget=3 * 10**9,
        strip=False,
        window={"geometry": "AdnQywADAAA=", "state": ""},
    )
    save_preferences(chosen)
    assert load_preferences() == chosen
    save_preferences(Preferences())
    assert load_preferences() == Preferences()


def test_the_folder_is_the_one_that_the_variable_names_or_the_systems(folder, monkeypatch):
    assert config_folder() == folder
    monkeypatch.setenv("FEATUP_CONFIG_DIR", "")
    assert config_folder() == Path(platformdirs.user_config_dir("featup-app", appauthor=False))
    monkeypatch.delenv("FEATUP_CONFIG_DIR")
    assert config_folder().name == "featup-app"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[]",
        "[1, 2]",
        '"text"',
        "17",
        "\0\0\0",
        b"\xff\xfe\x00",
        "[" * 100_000,
        '{"recent": 5, "settings": [], "window": "x", "export_folder": 1, "export_format": null, "export_dtype": {}}',
        '{"recent": [1, null, {"a": 2}, "/no/such/file.png"], "settings": {"backbone": 3, "nonsense": "x"}}',
        '{"window": {"geometry": 5}, "something": "new"}',
    ],
)
def test_damaged_and_alien_files_are_ignored(folder, content):
    write(folder, content)
    assert load_preferences() == Preferences()


def test_what_is_good_in_a_damaged_file_is_kept(folder, pictures):
    stored = {
        "recent": [17, str(pictures[2]), None],
        "settings": {"method": "lowres", "backbone": 5, "of a later version": "x"},
        "export_dtype": "float16",
        "export_format": [],
        "window": {"geometry": "abc", "state": None},
    }
    write(folder, json.dumps(stored))
    assert load_preferences() == Preferences(
        recent=[str(pictures[2])],
        settings=ViewSettings(method="lowres"),
        export_dtype="float16",
        window={"geometry": "abc"},
    )


def test_a_folder_in_place_of_the_file_is_ignored_and_nothing_is_left_beside_it(folder):
    (folder / FILE_NAME).mkdir(parents=True)
    assert load_preferences() == Preferences()
    save_preferences(Preferences())
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]


def test_a_place_that_cannot_be_written_to_disturbs_no_one(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("FEATUP_CONFIG_DIR", str(blocked / "below"))
    save_preferences(Preferences())
    assert load_preferences() == Preferences()


def test_recent_files_are_newest_first_each_once_and_ten_at_most(pictures):
    preferences = Preferences()
    for path in pictures:
        preferences.add_recent(path)
    expected = [str(path.resolve()) for path in reversed(pictures)][:RECENT_LIMIT]
    assert preferences.recent == expected
    preferences.add_recent(pictures[8])
    assert preferences.recent[0] == str(pictures[8].resolve())
    assert sorted(preferences.recent) == sorted(expected)


def test_the_same_file_by_another_way_is_the_same_recent_file(pictures, monkeypatch):
    monkeypatch.chdir(pictures[0].parent)
    preferences = Preferences()
    preferences.add_recent(pictures[0])
    preferences.add_recent(Path(pictures[0].name))
    preferences.add_recent(pictures[0].parent / ".." / pictures[0].parent.name / pictures[0].name)
    assert preferences.recent == [str(pictures[0].resolve())]


def test_recent_files_that_are_gone_are_dropped_at_the_next_start(pictures):
    preferences = Preferences()
    for path in pictures[:4]:
        preferences.add_recent(path)
    save_preferences(preferences)
    pictures[1].unlink()
    assert load_preferences().recent == [str(pictures[index].resolve()) for index in (3, 2, 0)]


def test_recent_entries_that_no_system_takes_as_a_path_are_dropped(folder, pictures):
    write(folder, json.dumps({"recent": ["x" * 5000, "a\0b", "", str(pictures[0].parent), str(pictures[0])]}))
    assert load_preferences().recent == [str(pictures[0])]


def test_a_recent_file_that_cannot_be_asked_about_is_dropped(folder, pictures, monkeypatch):
    write(folder, json.dumps({"recent": [str(pictures[0]), str(pictures[1])]}))
    asked = os.stat

    def guarded(path, *args, **kwargs):
        if str(path) == str(pictures[0]):
            raise PermissionError(13, "not for you")
        return asked(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", guarded)
    assert load_preferences().recent == [str(pictures[1])]


def test_the_file_is_replaced_whole_and_nothing_is_left_beside_it(folder, monkeypatch):
    save_preferences(Preferences(export_folder="before"))
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]

    def cut_short(path, text, **options):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", cut_short)
        save_preferences(Preferences(export_folder="after"))
    assert load_preferences().export_folder == "before"
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]


def test_the_file_is_readable_text(folder):
    save_preferences(Preferences(export_folder="abc"))
    text = (folder / FILE_NAME).read_text(encoding="utf-8")
    assert '"export_folder": "abc"' in text
    assert text.count("\n") > 8
