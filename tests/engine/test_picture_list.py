"""The list of open pictures: order, steps past broken files, removal, and pictures that were read ahead."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from featup_app.base.errors import ImageError
from featup_app.engine import picture_list
from featup_app.engine.picture_list import PictureList, ReadImages, State, listed, natural_key
from featup_app.images import sample_images


def make(count: int) -> PictureList:
    return PictureList(Path(f"/somewhere/{number}.png") for number in range(count))


def write(path: Path, *, shade: int = 0, side: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.full((side, side, 3), shade, np.uint8)).save(path)
    return path


def test_names_are_in_the_order_in_which_people_count():
    names = [
        "IMG_2.png",
        "img_10.png",
        "img_1b.png",
        "img_1.png",
        "Zebra.png",
        "äther.png",
        "007.png",
        "7b.png",
        "100.png",
    ]
    ordered = [
        "007.png",
        "7b.png",
        "100.png",
        "img_1.png",
        "img_1b.png",
        "IMG_2.png",
        "img_10.png",
        "Zebra.png",
        "äther.png",
    ]
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert [path.name for path in sorted((Path("/f") / name for name in names), key=natural_key)] == ordered
    assert [p.path.name for p in PictureList(Path("/f") / name for name in names).pictures] == ordered


def test_folders_come_one_after_the_other():
    paths = [Path("/b/1.png"), Path("/a 10/1.png"), Path("/a 2/2.png"), Path("/a 2/10.png")]
    assert sorted(paths, key=natural_key) == [paths[2], paths[3], paths[1], paths[0]]


def test_a_file_that_is_named_twice_is_there_once(tmp_path, monkeypatch):
    path = write(tmp_path / "one.png")
    monkeypatch.chdir(tmp_path)
    assert listed([path, "one.png", tmp_path / "." / "one.png", tmp_path]) == [path]
    assert len(PictureList([path, Path("one.png")])) == 1
    pages = [Path("stack.tif#page=1"), Path("stack.tif#page=2"), Path("stack.tif#page=2")]
    assert [picture.name for picture in PictureList(pages).pictures] == ["stack.tif#page=1", "stack.tif#page=2"]


def test_a_folder_means_the_pictures_in_it(tmp_path):
    write(tmp_path / "album" / "b10.png")
    write(tmp_path / "album" / "b9.jpg")
    write(tmp_path / "album" / "inner" / "deep.png")
    write(tmp_path / "album" / ".hidden.png")
    (tmp_path / "album" / "notes.txt").write_text("notes")
    (tmp_path / "album" / "empty.png").touch()
    single = write(tmp_path / "single.png")
    found = listed([tmp_path / "album", single, tmp_path / "not there.png"])
    names = [path.name for path in found]
    assert names == ["not there.png", "single.png", "b9.jpg", "b10.png", "empty.png"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ImageError, match="holds no pictures"):
        listed([tmp_path / "nothing"])


def test_steps_go_through_all_and_end_at_both_ends():
    pictures = make(4)
    seen = []
    while (index := pictures.step(1)) is not None:
        pictures.arrived(index)
        seen.append(index)
    assert seen == [0, 1, 2, 3]
    assert pictures.end(1) == 3
    while (index := pictures.step(-1)) is not None:
        pictures.arrived(index)
        seen.append(index)
    assert seen == [0, 1, 2, 3, 2, 1, 0]
    assert pictures.end(-1) == 0


def test_steps_count_from_what_was_asked_for_and_not_only_from_what_is_shown():
    pictures = make(5)
    pictures.arrived(0)
    for expected in (1, 2, 3):
        assert pictures.step(1) == expected
        pictures.asked = expected
    assert pictures.step(-1) == 2
    pictures.arrived(3)
    assert pictures.asked is None
    assert pictures.step(1) == 4


def test_broken_pictures_are_passed_over_and_may_be_tried_again():
    pictures = make(5)
    pictures.arrived(0)
    pictures.asked = 1
    pictures.failed(1, "it is empty")
    assert (pictures.shown, pictures.asked) == (0, None), "what is shown stays"
    assert pictures.pictures[1].state is State.BROKEN
    assert pictures.pictures[1].why == "it is empty"
    assert pictures.broken == 1
    assert pictures.step(1) == 2
    pictures.mark(4, "it is damaged")
    assert pictures.end(1) == 3
    assert pictures.after(3) is None
    assert pictures.neighbours() == [2]
    pictures.arrived(1)
    assert pictures.broken == 1
    assert pictures.pictures[1].state is State.READABLE
    assert pictures.neighbours() == [2, 0]
    for index in range(5):
        pictures.mark(index, "gone")
    assert pictures.step(1) is pictures.step(-1) is pictures.end(1) is pictures.end(-1) is None


def test_something_else_that_is_shown_keeps_the_position():
    pictures = make(3)
    pictures.arrived(1)
    pictures.left()
    assert pictures.shown is None
    assert pictures.neighbours() == []
    assert (pictures.step(1), pictures.step(-1)) == (2, 0)


@pytest.mark.parametrize("seed", range(8))
def test_a_removed_entry_changes_no_other_and_steps_go_on_around_it(seed):
    draw = random.Random(seed)
    pictures = make(9)
    pictures.arrived(draw.randrange(9))
    while len(pictures) > 1:
        before = [picture.path for picture in pictures.pictures]
        shown = None if pictures.shown is None else before[pictures.shown]
        following = [None if (index := pictures.step(by)) is None else before[index] for by in (1, -1)]
        removed = draw.randrange(len(pictures))
        pictures.remove(removed)
        assert [picture.path for picture in pictures.pictures] == before[:removed] + before[removed + 1 :]
        if shown == before[removed]:
            assert pictures.shown is None
        elif shown is not None:
            assert pictures.pictures[pictures.shown].path == shown
        for by, path in zip((1, -1), following, strict=True):
            if path != before[removed]:
                index = pictures.step(by)
                assert (None if index is None else pictures.pictures[index].path) == path
        if draw.random() < 0.3:
            pictures.arrived(draw.randrange(len(pictures)))


def test_a_file_is_found_whatever_is_selected_in_it():
    pictures = PictureList([Path("/s.tif#page=1"), Path("/s.tif#page=2"), Path("/t.png")])
    assert pictures.find(Path("/s.tif")) == 0
    pictures.arrived(1)
    assert pictures.find(Path("/s.tif")) == 1
    assert pictures.find(Path("/t.png")) == 2
    assert pictures.find(Path("/u.png")) is None
    assert pictures.index(Path("/s.tif")) is None
    assert pictures.index(Path("/s.tif#page=2")) == 1


def test_a_picture_is_read_once_while_its_file_stays_the_same(tmp_path, monkeypatch):
    read: list[Path] = []
    load = picture_list.load_image
    monkeypatch.setattr(picture_list, "load_image", lambda path: (read.append(path), load(path))[1])
    images = ReadImages()
    paths = [write(tmp_path / f"{number}.png", shade=number) for number in range(4)]
    first = images.read(paths[0])
    assert images.read(paths[0]) is first
    assert len(read) == 1
    write(paths[0], shade=99, side=5)
    assert images.read(paths[0]).pixels[0, 0, 0] == 99
    for path in paths:
        images.read(path)
    assert len(read) == 5
    images.read(paths[3])
    assert len(read) == 5
    images.read(paths[0])
    assert len(read) == 6, "only a few are kept"
    paths[0].unlink()
    with pytest.raises(ImageError, match="no such file"):
        images.read(paths[0])


def test_a_huge_picture_is_read_but_not_kept(monkeypatch):
    images = ReadImages()
    monkeypatch.setattr(picture_list, "LARGEST_KEPT", 100)
    assert images.read(sample_images()[0]) is not images.read(sample_images()[0])
