"""Data sets in folders: what is found, what is refused, and how it is said."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as pillow

from featup_app.errors import EvaluationError
from featup_app.evaluation import labelled_images, photos, rgbd_images
from featup_app.evaluation.datasets import CAMVID_CLASSES, UNLABELLED


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(values).save(path)


def picture(value=100, size=(6, 8)):
    return np.full((*size, 3), value, np.uint8)


def test_photos_are_the_pictures_in_the_order_of_their_names(tmp_path):
    for name in ("b.png", "a.jpg", ".hidden.png"):
        save(tmp_path / name, picture())
    (tmp_path / "notes.txt").write_text("no picture")
    data = photos(tmp_path)
    assert [item.name for item in data.items] == ["a.jpg", "b.png"]
    assert data.class_names == ()
    assert data.items[1].image().size_hw == (6, 8)
    with pytest.raises(EvaluationError, match="no labels"):
        data.items[0].labels()


def test_labels_without_a_list_of_classes_are_those_of_camvid(tmp_path):
    save(tmp_path / "images" / "one.jpg", picture())
    labels = np.array([[0, 3], [11, 10]], np.uint8).repeat(3, 0).repeat(4, 1)
    save(tmp_path / "labels" / "one.png", labels)
    data = labelled_images(tmp_path)
    assert data.class_names == CAMVID_CLASSES
    found = data.items[0].labels()
    assert found.dtype == np.int16
    assert found[::3, ::4].tolist() == [[0, 3], [UNLABELLED, 10]]


def test_a_list_of_classes_names_them_and_void(tmp_path):
    save(tmp_path / "images" / "one.png", picture())
    save(tmp_path / "labels" / "one.png", np.full((6, 8), 2, np.uint8))
    (tmp_path / "classes.txt").write_text("cat\ndog\nvoid\n")
    data = labelled_images(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert (data.items[0].labels() == UNLABELLED).all()
    save(tmp_path / "labels" / "one.png", np.full((6, 8), 7, np.uint8))
    with pytest.raises(EvaluationError, match=r"hold the value 7, but the data set has 2 classes"):
        data.items[0].labels()
    (tmp_path / "classes.txt").write_text("void\ncat\ndog\n")
    with pytest.raises(EvaluationError, match="in the last line"):
        labelled_images(tmp_path)


def test_a_palette_holds_numbers_and_not_colours(tmp_path):
    save(tmp_path / "images" / "one.png", picture())
    palette = pillow.fromarray(np.ones((6, 8), np.uint8)).convert("P")
    palette.putdata([1] * 48)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    (tmp_path / "labels").mkdir()
    palette.save(tmp_path / "labels" / "one.png")
    assert (labelled_images(tmp_path).items[0].labels() == 1).all()
    save(tmp_path / "labels" / "one.png", picture())
    with pytest.raises(EvaluationError, match="holds colours"):
        labelled_images(tmp_path).items[0].labels()
    (tmp_path / "labels" / "one.png").write_bytes(b"broken")
    with pytest.raises(EvaluationError, match="Cannot read"):
        labelled_images(tmp_path).items[0].labels()


def test_depths_are_read_with_all_of_their_bits(tmp_path):
    save(tmp_path / "color" / "1.png", picture())
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    save(tmp_path / "depth" / "1.png", values)
    depths = rgbd_images(tmp_path).items[0].depths()
    assert depths.dtype == np.float32
    assert np.array_equal(depths, values)


@pytest.mark.parametrize(
    ("layout", "folders"),
    [(photos, ()), (labelled_images, ("images/", "labels/")), (rgbd_images, ("color/", "depth/"))],
)
def test_a_wrong_layout_is_shown_the_right_one(tmp_path, layout, folders):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(EvaluationError) as caught:
            layout(folder)
        assert "This is expected:\nFOLDER/" in str(caught.value)
        assert all(name in str(caught.value) for name in folders)


def test_a_picture_without_labels_is_named(tmp_path):
    save(tmp_path / "images" / "one.png", picture())
    save(tmp_path / "images" / "two.png", picture())
    save(tmp_path / "labels" / "one.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(EvaluationError, match=r'such as "two.png"'):
        labelled_images(tmp_path)


def test_a_limited_data_set_is_spread_over_the_folder(tmp_path):
    for index in range(10):
        save(tmp_path / f"{index}.png", picture(index))
    data = photos(tmp_path)
    assert [item.name for item in data.limited(3).items] == ["0.png", "3.png", "6.png"]
    assert data.limited(None) is data
    assert data.limited(99) is data
