"""Data sets in folders: items that are found, folders that are refused, and the messages."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as pillow

from featup_app.base.errors import EvaluationError
from featup_app.evaluation import labelled_images, photos, rgbd_images
from featup_app.evaluation.datasets import CAMVID_CLASSES, DEPTHS, LABELS, PHOTOS, REGIONS, UNLABELLED
from featup_app.evaluation.known_datasets import CITYSCAPES_CLASSES, COCO_STUFF_CLASSES, VOC_CLASSES, coco_stuff_table
from featup_app.evaluation.layouts import LAYOUTS, detect_layout, find_layout, open_dataset
from featup_app.evaluation.sources import Sources, parse_depth_unit
from featup_app.evaluation.tasks import find_task


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


def test_numbers_above_those_of_camvid_are_regions(tmp_path):
    """Each label file alone could be one of CamVid."""
    for name, values in (("one", (0, 3)), ("two", (11, 10)), ("three", (1, 300))):
        save(tmp_path / "images" / f"{name}.png", picture())
        save(tmp_path / "labels" / f"{name}.png", np.array([values], np.uint16).repeat(6, 0).repeat(4, 1))
    data = open_dataset(tmp_path, kinds=(REGIONS, LABELS))
    assert (data.kind, data.layout, data.class_names) == (REGIONS, "regions", ())
    assert {item.name: item.labels()[0, ::4].tolist() for item in data.items} == {
        "one": [UNLABELLED, 3],
        "two": [11, 10],
        "three": [1, 300],
    }
    assert open_dataset(tmp_path, kinds=(LABELS,)).layout == "labelled", "classes need a list of them"
    assert open_dataset(tmp_path, layout="regions", kinds=(REGIONS,)).kind == REGIONS
    assert open_dataset(tmp_path, kinds=(PHOTOS,)).items[0].image().size_hw == (6, 8)
    (tmp_path / "classes.txt").write_text("\n".join(f"class {index}" for index in range(400)))
    assert open_dataset(tmp_path, kinds=(REGIONS, LABELS)).kind == LABELS
    save(tmp_path / "labels" / "one.png", np.full((6, 8), 40_000, np.uint16))
    with pytest.raises(EvaluationError, match="numbers of regions end at 32767"):
        open_dataset(tmp_path, layout="regions", kinds=(REGIONS,)).items[0].labels()


def test_values_up_to_those_of_camvid_are_classes(tmp_path):
    save(tmp_path / "images" / "one.png", picture())
    save(tmp_path / "labels" / "one.png", np.full((6, 8), 11, np.uint8))
    assert open_dataset(tmp_path, kinds=(REGIONS, LABELS)).layout == "labelled"
    (tmp_path / "labels" / "one.png").write_bytes(b"broken")
    assert open_dataset(tmp_path, kinds=(REGIONS, LABELS)).layout == "labelled"
    with pytest.raises(EvaluationError, match=r"Pascal VOC 2012, .*as unpacked"):
        open_dataset(tmp_path / "missing", kinds=(REGIONS, LABELS))


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
    assert np.allclose(depths, values / 1000), "millimetres are the usual unit"
    assert np.allclose(rgbd_images(tmp_path, per_metre=5000).items[0].depths(), values / 5000)


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


# -- the layouts of known data sets ------------------------------------------------------------------------------------


def labels(*values):
    return np.array(values, np.uint8).repeat(6, 0).reshape(len(values), 6).repeat(2, 1)[:, :8]


def made_voc(folder):
    for name in ("a", "b", "c"):
        save(folder / "JPEGImages" / f"{name}.jpg", picture())
    for name in ("a", "b"):
        save(folder / "SegmentationClass" / f"{name}.png", labels(0, 20, 255))
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")


def made_ade20k(folder):
    for part, name in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        save(folder / "images" / part / f"{name}.jpg", picture())
        save(folder / "annotations" / part / f"{name}.png", labels(0, 1, 150))


def made_cityscapes(folder):
    for part, kind, values in (("train", "labelTrainIds", (0, 18, 255)), ("val", "labelIds", (7, 33, 3))):
        save(folder / "leftImg8bit" / part / "bonn" / "bonn_1_leftImg8bit.png", picture())
        save(folder / "gtFine" / part / "bonn" / f"bonn_1_gtFine_{kind}.png", labels(*values))


def made_coco_stuff(folder):
    for part in ("train2017", "val2017"):
        save(folder / "images" / part / "1.jpg", picture())
        save(folder / "annotations" / part / "1.png", labels(0, 181, 255))


def made_camvid(folder):
    for part in ("train", "val"):
        save(folder / part / "1.png", picture())
        save(folder / f"{part}annot" / "1.png", labels(0, 10, 11))


MADE = {
    "voc2012": (made_voc, [0, 20, -1], len(VOC_CLASSES)),
    "ade20k": (made_ade20k, [-1, 0, 149], 150),
    "cityscapes": (made_cityscapes, [0, 18, -1], len(CITYSCAPES_CLASSES)),
    "coco-stuff": (made_coco_stuff, [9, 24, -1], len(COCO_STUFF_CLASSES)),
    "camvid": (made_camvid, [0, 10, -1], 11),
}


@pytest.mark.parametrize("name", MADE)
def test_known_data_sets_are_recognised_and_their_values_become_classes(tmp_path, name):
    make, expected, classes = MADE[name]
    make(tmp_path)
    assert detect_layout(tmp_path, (LABELS,)).name == name
    for part in ("train", "val"):
        data = open_dataset(tmp_path, kinds=(LABELS,), part=part)
        assert (data.layout, data.split, data.kind) == (name, part, LABELS)
        assert len(data.class_names) == classes
        assert len(data.items) == 1
        found = data.items[0].labels()
        assert found[:, 0].tolist() == expected
    assert open_dataset(tmp_path, kinds=(PHOTOS,)).items[0].image().size_hw == (6, 8), "pictures are pictures"
    with pytest.raises(EvaluationError, match="This is expected"):
        open_dataset(tmp_path, kinds=(DEPTHS,))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_shows_its_tree_when_something_is_missing(tmp_path, layout):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(EvaluationError) as caught:
            open_dataset(folder, layout=layout.name, kinds=(layout.kind,))
        assert layout.tree in str(caught.value)


def test_a_layout_that_is_not_known_or_does_not_serve(tmp_path):
    with pytest.raises(EvaluationError, match=r"choose one of: auto, voc2012, ade20k"):
        find_layout("none")
    with pytest.raises(EvaluationError, match="tells nothing about the depths"):
        open_dataset(tmp_path, layout="labelled", kinds=(DEPTHS,))
    with pytest.raises(EvaluationError, match="CamVid as unpacked"):
        open_dataset(tmp_path, kinds=(LABELS,))
    save(tmp_path / "1.png", picture())
    with pytest.raises(EvaluationError, match="holds no depths"):
        open_dataset(tmp_path, per_metre=5000)


def test_missing_parts_of_known_data_sets_are_named(tmp_path):
    made_voc(tmp_path / "voc")
    (tmp_path / "voc" / "ImageSets" / "Segmentation" / "val.txt").write_text("c\n")
    with pytest.raises(EvaluationError, match=r'no file with labels for 1 of its names, such as "c"'):
        open_dataset(tmp_path / "voc")
    made_cityscapes(tmp_path / "city")
    (tmp_path / "city" / "gtFine" / "val" / "bonn" / "bonn_1_gtFine_labelIds.png").unlink()
    with pytest.raises(EvaluationError, match="has no labels"):
        open_dataset(tmp_path / "city")
    made_ade20k(tmp_path / "ade")
    (tmp_path / "ade" / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")
    with pytest.raises(EvaluationError, match="names 1 classes instead of 150"):
        open_dataset(tmp_path / "ade")
    rows = "".join(f"{number}\tname {number}, other\n" for number in range(1, 151))
    (tmp_path / "ade" / "objectInfo150.txt").write_text(f"Idx\tName\n{rows}")
    assert open_dataset(tmp_path / "ade").class_names[149] == "name 150"
    save(tmp_path / "coco" / "images" / "val2017" / "1.jpg", picture())
    save(tmp_path / "coco" / "annotations" / "val2017" / "1.png", labels(0, 1, 182))
    with pytest.raises(EvaluationError, match="hold the value 182"):
        open_dataset(tmp_path / "coco").items[0].labels()


def test_every_fine_class_of_coco_stuff_has_an_upper_one():
    table = coco_stuff_table()
    assert len(table) == 182
    assert set(table) == set(range(27))
    assert [COCO_STUFF_CLASSES[table[value]][0] for value in (0, 2, 17, 148, 156, 168)] == [
        "person", "vehicle", "animal", "ground", "sky", "plant",
    ]  # fmt: skip


def test_pictures_in_folders_know_what_they_show(tmp_path):
    for wordnet in ("n02123045", "n01440764"):
        save(tmp_path / wordnet / "1.png", picture())
    (tmp_path / ".cache").mkdir()
    data = open_dataset(tmp_path)
    assert (data.layout, data.kind) == ("imagenet", PHOTOS)
    assert [(item.name, item.truth) for item in data.items] == [
        ("n01440764/1.png", "n01440764"),
        ("n02123045/1.png", "n02123045"),
    ]


def test_scenes_with_depths_have_units_of_their_own(tmp_path):
    for scene, colour in (("one", "color"), ("two", "rgb")):
        save(tmp_path / scene / colour / "1.png", picture())
        save(tmp_path / scene / "depth" / "1.png", np.full((6, 8), 5000, np.uint16))
    data = open_dataset(tmp_path, kinds=(DEPTHS,), per_metre={"one": 1000.0, "two": 5000.0})
    assert [(item.name, item.scene, item.depths()[0, 0]) for item in data.items] == [
        ("one/1", "one", 5.0),
        ("two/1", "two", 1.0),
    ]
    assert open_dataset(tmp_path / "two", per_metre=2500).items[0].depths()[0, 0] == 2
    with pytest.raises(EvaluationError, match='unit of the depths of "two"'):
        open_dataset(tmp_path, per_metre={"one": 1000.0})


def test_nyuv2_has_scenes_in_two_parts(tmp_path):
    for part in ("train", "test"):
        save(tmp_path / part / "kitchen_1" / "rgb_00045.jpg", picture())
        save(tmp_path / part / "kitchen_1" / "sync_depth_00045.png", np.full((6, 8), 1500, np.uint16))
    data = open_dataset(tmp_path, part="train")
    assert (data.layout, data.kind, data.split) == ("nyuv2", DEPTHS, "train")
    assert data.items[0].name == "kitchen_1/00045"
    assert (data.items[0].depths() == 1.5).all()
    assert (open_dataset(tmp_path, per_metre=1500).items[0].depths() == 1).all()
    (tmp_path / "test" / "kitchen_1" / "sync_depth_00045.png").unlink()
    with pytest.raises(EvaluationError, match="has no depths"):
        open_dataset(tmp_path, layout="nyuv2")


# -- what a task finds -------------------------------------------------------------------------------------------------


def test_a_task_finds_its_training_pictures_beside_the_others(tmp_path):
    made_voc(tmp_path)
    data, train = Sources(tmp_path).open(find_task("seg"))
    assert [item.name for item in data.items] == ["b"]
    assert train is not None
    assert [item.name for item in train.items] == ["a"]
    assert Sources(tmp_path).open(find_task("quality"))[1] is None


def test_nothing_is_measured_with_what_was_fitted_on_it(tmp_path):
    save(tmp_path / "images" / "one.png", picture())
    save(tmp_path / "labels" / "one.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(EvaluationError, match="has no part for that"):
        Sources(tmp_path).open(find_task("seg"))
    with pytest.raises(EvaluationError, match="would be measured with what was fitted on them"):
        Sources(tmp_path, tmp_path).open(find_task("seg"))


def test_depths_need_no_other_folder(tmp_path):
    for index in range(3):
        save(tmp_path / "rgb" / f"{index}.png", picture())
        save(tmp_path / "depth" / f"{index}.png", np.full((6, 8), 900, np.uint16))
    data, train = Sources(tmp_path, per_metre=900.0, limit=2).open(find_task("depth"))
    assert train is None
    assert [item.name for item in data.items] == ["0", "1"]
    assert (data.items[0].depths() == 1).all()
    assert Sources(tmp_path).open(find_task("preserve"))[0].kind == DEPTHS


def test_units_of_depths_as_a_person_writes_them():
    assert parse_depth_unit("5000") == 5000
    assert parse_depth_unit("kitchen=1000, office=5000") == {"kitchen": 1000, "office": 5000}
    for text in ("", "zero", "-1", "nan", "inf", "kitchen=", "1000,5000", "kitchen=1000,5000"):
        with pytest.raises(EvaluationError, match="is not understood"):
            parse_depth_unit(text)
