"""One table of all tasks: its cells and marks, and the folder that each task uses."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image as pillow

from featup_app.base.errors import EvaluationError
from featup_app.cli.tables import print_summary
from featup_app.evaluation import Report, Row, Sources, find_task, html_page, parse_methods, summarise
from featup_app.evaluation.methods import PAPER_ROWS
from featup_app.evaluation.sources import parse_limits
from featup_app.evaluation.summary import COLUMNS, write_summary
from featup_app.evaluation.tasks import TASKS
from featup_app.fields import METHODS

METHOD_LABELS = ("bilinear", "jbu", "implicit:steps=2")


def cam_report() -> Report:
    rows = (
        Row("bilinear", "hard", 20.0, 1.0, None, None, 0.1, 5, further={"average increase": 10.0}),
        Row("jbu", "hard", 17.0, 1.0, -3.0, (-4.0, -1.0), 0.1, 5, further={"average increase": 12.0}),
        Row("implicit:steps=2", "hard", 21.0, 1.0, 1.0, (-1.0, 2.0), 0.1, 5, further={"average increase": None}),
        Row("jbu", "soft", 99.0, 1.0, None, None, 0.1, 5, further={"average increase": 0.0}),
    )
    settings = {"backbone": "lite", "layer": "stage 4"}
    return Report("cam", "average drop", "pictures", False, rows, (), settings, (("average increase", True),))


def end_report() -> Report:
    rows = (
        Row("bilinear", "trained together", 0.5, 0.01, None, None, 0.1, 5),
        Row("jbu", "trained together", 0.4, 0.01, -0.1, (-0.2, -0.05), 0.1, 5),
    )
    failures = (("implicit:steps=2", "it <cannot> stand inside a network"),)
    return Report("end2end", "mIoU", "1 seeds", True, rows, failures, {"backbone": "dino", "layer": ("a", "b")})


@pytest.fixture
def summary():
    passed_over = {"depth": "no depths here"}
    return summarise(METHOD_LABELS, ("cam", "end2end", "depth"), (cam_report(), end_report()), passed_over)


def test_cells_are_marked_where_the_interval_leaves_out_zero_and_say_why_they_are_empty(summary):
    titles = [column.title for column in summary.columns]
    cells = {label: dict(zip(titles, found, strict=True)) for label, found in summary.rows}
    drop, increase, end = "CAM average drop (%)", "CAM average increase (%)", "end-to-end mIoU"
    assert tuple(cells) == METHOD_LABELS
    assert cells["jbu"][drop].figure == 17.0, "the first protocol counts"
    assert [cells[label][drop].differs for label in METHOD_LABELS] == [None, "better", None]
    assert cells["jbu"][end].differs == "worse"
    assert cells["jbu"][increase].differs is None, "this figure has no interval"
    assert cells["implicit:steps=2"][increase].figure is None
    assert cells["implicit:steps=2"][end].reason == "it <cannot> stand inside a network"
    assert {cells[label]["depth RMSE (m)"].reason for label in METHOD_LABELS} == {"no depths here"}
    assert dict(zip(titles, summary.best(), strict=True))[drop] == "jbu"
    assert dict(zip(titles, summary.best(), strict=True))["depth RMSE (m)"] is None
    reasons = {reason: names for names, reason in summary.reasons()}
    assert reasons["no depths here"] == "bilinear (depth), jbu (depth), implicit:steps=2 (depth)"


def test_the_table_is_the_same_in_every_file_and_on_the_terminal(summary, tmp_path, capsys):
    paths = write_summary(summary, tmp_path)
    facts = json.loads(paths[0].read_text())
    assert facts["rows"][1]["cells"]["CAM average drop (%)"]["interval"] == [-4.0, -1.0]
    assert facts["notes"]["cam"] == "5 pictures, hard, lite at stage 4"
    lines = list(csv.DictReader(io.StringIO(paths[1].read_text())))
    assert (lines[1]["CAM average drop (%)"], lines[1]["CAM average drop (%): against bilinear"]) == ("17.0", "better")
    assert lines[2]["end-to-end mIoU"] == ""
    page = html_page([cam_report(), end_report()], summary=summary)
    for words in (
        "All tasks",
        "17.00 +",
        "0.4000 -",
        "it &lt;cannot&gt; stand",
        "5 pictures, trained together, dino at a, b",
    ):
        assert words in page
    assert page.index("All tasks") < page.index("Class activation maps")
    print_summary(summary)
    told = capsys.readouterr().out
    assert "17.00 +" in told
    assert "No figure for implicit:steps=2 (end2end): it <cannot> stand inside a network" in told


def test_columns_are_figures_that_tasks_have():
    names = [task.name for task in TASKS]
    assert all(column.task in names for column in COLUMNS)
    assert {column.task for column in COLUMNS} == set(names)


# -- methods -----------------------------------------------------------------------------------------------------------


def test_all_methods_are_the_rows_of_the_paper_and_may_be_written_out():
    assert tuple(choice.label for choice in parse_methods("all")) == PAPER_ROWS
    assert set(PAPER_ROWS) < {method.name for method in METHODS}
    labels = [choice.label for choice in parse_methods("dip:steps=7:seed=2,all,jbu,jbu=classical,guided_filter")]
    assert labels[3] == "dip:steps=7:seed=2"
    assert labels[-4:] == ["jbu", "jbu=classical", "implicit", "guided_filter"]
    assert labels[:3] == ["lowres", "bilinear", "resize_conv"]


def test_options_reach_the_method_and_tell_results_apart():
    short, long = parse_methods("dip:steps=7:seed=2,dip")
    assert short.options == (("steps", 7), ("seed", 2))
    prepared = short.prepare("none", "layer", 4)
    assert prepared.options == {"steps": 7, "seed": 2}
    assert prepared.key() != long.prepare("none", "layer", 4).key()
    fitted = parse_methods("implicit:steps=1")[0].prepare("none", "layer", 4)
    assert fitted.identity["steps"] == 1
    assert "recipe" in fitted.identity
    assert parse_methods("guided_filter:epsilon=0.5")[0].options == (("epsilon", 0.5),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dip:steps", "no number"),
        ("dip:steps=-1", "no number"),
        ("dip:colour=1", "it takes: steps, seed"),
        ("lowres:steps=1", "it takes none"),
        ("lowres=file", "Methods with weights: resize_conv, carafe, sapa, jbu"),
        ("all,all,jbu,jbu", "twice"),
    ],
)
def test_what_cannot_be_set_is_said(text, words):
    with pytest.raises(EvaluationError, match=words):
        parse_methods(text)


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """Photos, labelled pictures in two parts, and a scene with depths."""

    def picture(path, mode="RGB"):
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (8, 8, 3) if mode == "RGB" else (8, 8)
        pillow.fromarray(np.full(shape, 1, np.uint16 if mode == "I;16" else np.uint8)).save(path)

    for index in range(3):
        picture(tmp_path / "photos" / f"{index}.png")
        for part in ("train", "val"):
            picture(tmp_path / part / "images" / f"{part}{index}.png")
            picture(tmp_path / part / "labels" / f"{part}{index}.png", "L")
        picture(tmp_path / "kinect" / "room" / "color" / f"{index}.png")
        picture(tmp_path / "kinect" / "room" / "depth" / f"{index}.png", "I;16")
    return tmp_path


def test_each_task_takes_the_folder_that_has_what_it_needs(folders):
    data = (folders / "val", folders / "photos", folders / "kinect")
    sources = Sources(data, (folders / "train",), per_metre=500.0, limit={"": 2, "train": 3, "cam": 1})
    opened = {task.name: sources.open(task) for task in TASKS}
    where = {name: (found.folder.name, train and train.folder.name) for name, (found, train) in opened.items()}
    assert where == {
        "quality": ("photos", None),
        "cam": ("photos", None),
        "seg": ("val", "train"),
        "end2end": ("val", "train"),
        "preserve": ("val", "train"),
        "depth": ("kinect", None),
        "clicks": ("val", None),
    }
    assert opened["depth"][0].items[0].per_metre == 500.0
    counts = {name: len(found.items) for name, (found, _) in opened.items()}
    assert counts == {"quality": 2, "cam": 1, "seg": 2, "end2end": 2, "preserve": 2, "depth": 2, "clicks": 2}
    assert opened["seg"][1] is not None
    assert len(opened["seg"][1].items) == 3


def test_a_task_without_a_folder_says_so_and_missing_folders_are_named(folders):
    photos, kinect = folders / "photos", folders / "kinect"
    with pytest.raises(
        EvaluationError, match="seg needs pictures with classes of their pixels, and none of the 2 folders"
    ):
        Sources((photos, kinect)).open(find_task("seg"))
    with pytest.raises(EvaluationError, match="--train"):
        Sources((photos, folders / "val"), (kinect,)).open(find_task("seg"))
    with pytest.raises(EvaluationError, match="no folder"):
        Sources((photos, folders / "missing"))
    assert Sources((kinect, folders / "val")).open(find_task("cam"))[0].folder == kinect
    named = Sources((photos, kinect), layout="rgbd")
    assert named.open(find_task("depth"))[0].layout == "rgbd"
    assert named.open(find_task("cam"))[0].layout == "photos"


def test_limits_as_a_person_writes_them():
    assert parse_limits("16") == {"": 16}
    assert parse_limits("16, quality = 8,train=40") == {"": 16, "quality": 8, "train": 40}
    for text in ("0", "some", "magic=3", "=3", "quality=-1", "1.5", "quality="):
        with pytest.raises(EvaluationError, match="not understood"):
            parse_limits(text)
