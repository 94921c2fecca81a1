"""One click: where it stands, what it is scored against, and the scores against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_pictures import write_regions
from PIL import Image as pillow

from featup_app.backbones import Backbone, load_backbone
from featup_app.base.errors import EvaluationError
from featup_app.evaluation import Plan, find_task, parse_methods
from featup_app.evaluation.clicks import (
    BEST,
    CLASS,
    PRECISION,
    PROPOSED,
    REGION,
    Ranking,
    connected_regions,
    find_clicks,
    iou,
    pole,
    score_clicks,
)
from featup_app.evaluation.layouts import open_dataset
from featup_app.evaluation.records import Records
from featup_app.evaluation.tasks import Task
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import upsample
from featup_app.images import image_from_array

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("dinov2-s14-imgfocus", device="cpu")


def task() -> Task:
    return find_task("clicks")


def flooded(labels: np.ndarray) -> np.ndarray:
    """Connected regions by walking from pixel to pixel."""
    numbers, count = np.full(labels.shape, -1), 0
    for start in np.ndindex(labels.shape):
        if labels[start] < 0 or numbers[start] >= 0:
            continue
        waiting = [start]
        numbers[start] = count
        while waiting:
            row, column = waiting.pop()
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= near[0] < labels.shape[0] and 0 <= near[1] < labels.shape[1]
                if inside and numbers[near] < 0 and labels[near] == labels[start]:
                    numbers[near] = count
                    waiting.append(near)
        count += 1
    return numbers


@pytest.mark.parametrize("size", [(13, 17), (1, 9), (9, 1), (1, 1)])
def test_regions_are_those_of_a_walk_from_pixel_to_pixel(size):
    labels = np.random.default_rng(0).integers(-1, 3, size).astype(np.int16)
    assert connected_regions(labels).tolist() == flooded(labels).tolist()


def test_corners_do_not_connect():
    assert connected_regions(np.eye(2, dtype=np.int16)).tolist() == [[0, 1], [2, 3]]


def test_the_pole_is_the_pixel_farthest_from_outside():
    mask = np.zeros((9, 12), bool)
    mask[1:8, 2:9] = True
    assert pole(mask) == (4, 5)
    assert pole(np.ones((5, 5), bool)) == (2, 2), "the border of the picture is outside"
    assert pole(np.ones((4, 6), bool)) == (1, 1), "the first in reading order among equals"
    bent = np.zeros((20, 20), bool)
    bent[:, :3] = bent[:3] = bent[14:, :6] = True
    assert bent[pole(bent)]
    assert pole(bent)[0] > 13, "in the widest part"
    with pytest.raises(ValueError, match="no pole"):
        pole(np.zeros((3, 3), bool))


def test_the_pole_is_that_of_all_distances():
    mask = np.random.default_rng(1).random((12, 15)) < 0.9
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    inside = np.argwhere(mask)
    distances = ((inside[:, None] - outside) ** 2).sum(2).min(1)
    assert pole(mask) == tuple(inside[distances.argmax()])


def test_every_large_region_and_every_class_get_a_click():
    labels = np.zeros((20, 30), np.int16)
    labels[:, 15:] = 1
    labels[5:10, 20:25] = 0
    labels[15, 2] = 1
    labels[0, 0] = 2
    clicks = find_clicks(labels)
    assert [click.label for click in clicks.by_target[REGION]] == [0, 1, 0]
    assert clicks.small == 2, "two regions of one pixel"
    points = {click.label: click.point for click in clicks.by_target[CLASS]}
    assert set(points) == {0, 1, 2}, "a class without a large region has a click too"
    assert points[2] == (0.5, 0.5)
    for click in (*clicks.by_target[REGION], *clicks.by_target[CLASS]):
        column, row = (int(value) for value in click.point)
        assert clicks.regions[row, column] == click.region
        assert labels[row, column] == click.label
    island = clicks.by_target[REGION][2]
    assert clicks.target(island, REGION).sum() == 25
    assert clicks.target(island, CLASS).sum() == (labels == 0).sum()


def test_a_whole_picture_has_nothing_outside():
    with pytest.raises(EvaluationError, match="leaves some outside"):
        find_clicks(np.zeros((8, 8), np.int16))
    labels = np.full((8, 8), -1, np.int16)
    labels[2:5, 2:5] = 3
    with pytest.raises(EvaluationError, match="leaves some outside"):
        find_clicks(labels)
    labels[6] = 3
    clicks = find_clicks(labels)
    assert len(clicks.by_target[REGION]) == 2
    assert clicks.by_target[CLASS] == (), "the class covers every labelled pixel"
    with pytest.raises(EvaluationError, match="leaves some outside"):
        find_clicks(np.full((4, 4), -1, np.int16))


def test_a_picture_of_pixels_has_no_region_for_a_click():
    labels = np.arange(15 * 20, dtype=np.int16).reshape(15, 20)
    with pytest.raises(EvaluationError, match="at least 1%"):
        find_clicks(labels)


def test_a_thousand_regions():
    labels = np.repeat(np.repeat(np.arange(1000).reshape(25, 40), 12, 0), 12, 1).astype(np.int16)
    labels[:, :240] = 0
    clicks = find_clicks(labels)
    assert len(clicks.by_target[REGION]) == 1
    assert len(clicks.by_target[CLASS]) == clicks.small + 1 == 501


def best_of_all_thresholds(values: torch.Tensor, target: torch.Tensor) -> float:
    return max(iou(values >= value, target) for value in values.unique())


@pytest.mark.parametrize("levels", [2, 7, 1000])
def test_the_best_threshold_is_that_of_all(levels):
    generator = torch.Generator().manual_seed(levels)
    for share in (0.02, 0.3, 0.9):
        values = torch.randint(0, levels, (200,), generator=generator).float()
        target = torch.rand(200, generator=generator) < share
        target[0] = True
        assert Ranking.of(values).best_iou(target) == pytest.approx(best_of_all_thresholds(values, target))


def test_average_precision_counts_equal_values_as_one_step():
    def precision(values, target):
        return Ranking.of(torch.tensor(values)).average_precision(torch.tensor(target))

    assert precision([0.9, 0.8, 0.1], [True, True, False]) == 1
    assert precision([0.9, 0.8, 0.7, 0.6], [False, True, False, True]) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert precision([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert precision([0.5, 0.5, 0.5, 0.5], [True, False, False, False]) == 0.25, "nothing is separated"
    assert precision([0.9, 0.5, 0.5, 0.5, 0.1], [True, True, False, True, False]) == pytest.approx((1 + 2 * 3 / 4) / 3)
    assert precision([0.5, 0.5, 0.9, 0.1], [True, False, False, True]) == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_a_field_that_knows_the_regions_finds_them_and_void_does_not_count():
    labels = np.zeros((24, 32), np.int16)
    labels[:, 16:] = 1
    labels[:, 14:18] = -1
    data = torch.zeros(2, 24, 32)
    data[0, :, :18], data[1, :, 18:] = 1, 1  # the unlabelled columns go to the left
    pixels = np.zeros((24, 32, 3), np.uint8)
    features = FeatureMap(data, Geometry((24, 32), (24, 32), (24, 32)), "layer", image_from_array(pixels))
    field = upsample(features, method="lowres")
    clicks = find_clicks(labels)
    found = dict(score_clicks(field, clicks, ("region", "class", "region-raw", "class-raw")))
    for name in (BEST, PRECISION):
        assert found["region-raw"][name] == found["class-raw"][name] == [1, 1]
    assert found["region-raw"][PROPOSED] == [1, 1]
    assert set(found) == {"region", "class", "region-raw", "class-raw"}
    swapped = dict(score_clicks(upsample(features, method="lowres"), clicks, ("class-raw",)))
    assert list(swapped) == ["class-raw"]


def test_the_task_measures_numbered_regions_and_lists_what_it_cannot(tmp_path, backbone):
    folder = write_regions(tmp_path)
    pillow.new("L", (96, 64), 30).save(folder / "labels" / "0.png")
    pillow.new("L", (20, 20), 30).save(folder / "labels" / "1.png")
    data = open_dataset(folder, kinds=task().kinds)
    assert data.layout == "regions"
    plan = Plan(backbone, parse_methods("lowres,bilinear"), data, size="56x84")
    with Records(tmp_path / "out") as records:
        report = task().evaluate(plan, records, tmp_path / "out")
    assert [(row.method, row.protocol) for row in report.rows] == [
        ("lowres", "region"),
        ("bilinear", "region"),
        ("lowres", "class"),
        ("bilinear", "class"),
    ]
    reasons = dict(report.failures)
    assert set(reasons) == {"0", "1"}
    assert "leaves some outside" in reasons["0"]
    assert "both must be of the same size" in reasons["1"]
    assert report.settings["clicks"] == {"region": 4, "class": 4}
    assert report.settings["small_regions"] == 2
    assert "4 clicks (region) and 4 clicks (class); 2 regions with less than 1%" in report.notes[0]
    for row in report.rows:
        assert 0 < row.further["IoU at the proposed threshold"] <= row.figure <= 1
        assert 0 < row.further["average precision"] <= 1
        assert row.pictures == 2
    lowres, bilinear = report.rows[:2]
    assert lowres.difference == pytest.approx(lowres.figure - bilinear.figure)
    assert lowres.interval[0] <= lowres.difference <= lowres.interval[1]
    assert set(lowres.details["to_bilinear"]) == {BEST, PROPOSED, PRECISION}
    assert bilinear.difference is None


def test_odd_pictures_are_measured(tmp_path, backbone):
    generator = np.random.default_rng(0)
    pictures = {
        "grey": generator.integers(0, 256, (33, 47), dtype=np.uint8),
        "narrow": generator.integers(0, 256, (6, 90, 3), dtype=np.uint8),
        "one-colour": np.full((40, 61, 3), 128, np.uint8),
        "tiny": generator.integers(0, 256, (3, 4, 3), dtype=np.uint8),
        "thousand": generator.integers(0, 256, (75, 120, 3), dtype=np.uint8),
        "pixels": generator.integers(0, 256, (20, 30, 3), dtype=np.uint8),
    }
    labels = {name: np.ones(pixels.shape[:2], np.uint16) for name, pixels in pictures.items()}
    for each in labels.values():
        each[:, each.shape[1] // 2 :] = 2
    labels["thousand"][:, 60:] = 2 + np.arange(75 * 60).reshape(75, 60) // 4
    labels["pixels"][:] = 1 + np.arange(600).reshape(20, 30)
    for kind, arrays in (("images", pictures), ("labels", labels)):
        (tmp_path / kind).mkdir()
        for name, array in arrays.items():
            pillow.fromarray(array).save(tmp_path / kind / f"{name}.png")
    data = open_dataset(tmp_path, kinds=task().kinds)
    plan = Plan(backbone, parse_methods("attention,bilinear"), data, size="14")  # one cell along the shorter side
    with Records(tmp_path / "out") as records:
        report = task().evaluate(plan, records, tmp_path / "out")
    reasons = dict(report.failures)
    assert set(reasons) == {"pixels"}
    assert "leaves some outside" in reasons["pixels"]
    assert report.settings["clicks"]["region"] == 4 * 2 + 1
    assert report.settings["small_regions"] == 1125
    for row in report.rows:
        assert row.pictures == 5
        assert np.isfinite([row.figure, *row.further.values()]).all()


def test_without_any_region_there_is_a_sentence(tmp_path, backbone):
    folder = write_regions(tmp_path)
    for path in (folder / "labels").iterdir():
        pillow.new("L", (96, 64), 30).save(path)
    plan = Plan(backbone, parse_methods("bilinear"), open_dataset(folder, kinds=task().kinds), size="56x84")
    with Records(tmp_path / "out") as records, pytest.raises(EvaluationError, match="No picture could be measured"):
        task().evaluate(plan, records, tmp_path / "out")


def test_pictures_of_one_class_have_no_clicks_on_classes(tmp_path, backbone):
    folder = write_regions(tmp_path)
    for path in (folder / "labels").iterdir():
        labels = np.full((64, 96), 30, np.uint8)
        labels[:, 40:50] = 0
        pillow.fromarray(labels).save(path)
    plan = Plan(backbone, parse_methods("bilinear"), open_dataset(folder, kinds=task().kinds), size="56x84")
    with Records(tmp_path / "out") as records, pytest.raises(EvaluationError, match="have one class each"):
        task().evaluate(plan, records, tmp_path / "out")
