"""``featup-app evaluate`` as a person runs it, on data sets of a few small pictures and the bundled backbone."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from evaluation_pictures import write_halves, write_photos, write_regions
from PIL import Image as pillow

from featup_app.backbones import load_backbone
from featup_app.evaluation import labelled_images, load_frames
from featup_app.fields import JBUStack, save_upsampler

SIZE = ("--size", "56x84")


@pytest.fixture
def evaluate(command):
    """Runs ``evaluate`` in this process: (exit code, stdout, stderr)."""
    return lambda *arguments: command("evaluate", "--no-costs", "--pictures", "0", *arguments)


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


@pytest.fixture
def labelled(tmp_path):
    return write_halves(tmp_path, void=True)


def test_quality_of_photos_is_a_table_and_two_files(tmp_path, photos, evaluate):
    (photos / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "report"
    code, text, errors = evaluate("--methods", "lowres,bilinear,jbu=classical", "--data", photos, *SIZE, "-o", out)
    assert code == 0
    assert "broken.jpg was passed over" in errors
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["lowres", "bilinear", "jbu=classical"]
    assert lines[4:] == [str(out / f"report.{kind}") for kind in ("json", "csv", "html")]
    report = json.loads((out / "report.json").read_text())
    assert [row["pictures"] for row in report["rows"]] == [2, 2, 2]
    assert all(0 < row["figure"] < 5 for row in report["rows"])
    bilinear, jbu = report["rows"][1:]
    assert bilinear["difference"] is None
    assert jbu["difference"] == pytest.approx(jbu["figure"] - bilinear["figure"])
    assert jbu["interval"][0] <= jbu["difference"] <= jbu["interval"][1]
    assert [failure["picture"] for failure in report["failures"]] == ["broken.jpg"]
    with (out / "report.csv").open() as stream:
        assert [row["method"] for row in csv.DictReader(stream)] == ["lowres", "bilinear", "jbu=classical"]


def test_a_stopped_run_goes_on_and_gives_the_same_figures(tmp_path, photos, evaluate):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    arguments = ("--methods", "lowres,bilinear", "--data", photos, *SIZE, "--json")
    first = json.loads(evaluate(*arguments, "-o", whole)[1])
    lines = (whole / "results.jsonl").read_text().splitlines(keepends=True)
    stopped.mkdir()
    (stopped / "results.jsonl").write_text("".join(lines[:3]) + lines[3][:40])
    second = json.loads(evaluate(*arguments, "-o", stopped)[1])
    assert [row["figure"] for row in second["rows"]] == [row["figure"] for row in first["rows"]]
    kept = (stopped / "results.jsonl").read_text().splitlines()
    assert len(kept) == 5, "three kept lines, one incomplete, one measured again"
    assert kept[:3] == [line.rstrip("\n") for line in lines[:3]]


def test_segmentation_in_both_protocols(tmp_path, labelled, evaluate):
    out = tmp_path / "report"
    arguments = (
        "--task", "seg", "--methods", "lowres,bilinear", "--protocol", "transfer,trained", "--data", labelled / "val",
        "--train", labelled / "train", *SIZE, "--folds", "2", "-o", out, "--json",
    )  # fmt: skip
    code, text, errors = evaluate(*arguments)
    assert (code, errors) == (0, "")
    report = json.loads(text)
    assert [(row["method"], row["protocol"]) for row in report["rows"]] == [
        ("lowres", "transfer"),
        ("bilinear", "transfer"),
        ("lowres", "trained"),
        ("bilinear", "trained"),
    ]
    for row in report["rows"]:
        assert row["figure"] > 0.6, "the probe separates cat and cup"
        assert row["details"]["accuracy"] > 0.7
        assert len(row["details"]["fold_miou"]) == 2
        assert set(row["details"]["class_iou"]) == {"cat", "cup"}
    lines = len((out / "results.jsonl").read_text().splitlines())
    again = json.loads(evaluate(*arguments)[1])
    assert again["rows"] == report["rows"]
    assert len((out / "results.jsonl").read_text().splitlines()) == lines, "nothing was measured twice"


def test_frames_for_experiments_are_read_back_from_their_cache(tmp_path, labelled):
    backbone, data, cache = load_backbone("dinov2-s14-imgfocus"), labelled_images(labelled / "val"), tmp_path / "c.npz"
    made = load_frames(data, backbone, size="56x84", cache=cache)
    written = cache.stat().st_mtime_ns
    read = load_frames(data, backbone, size="56x84", cache=cache)
    assert cache.stat().st_mtime_ns == written
    for one, two in zip(made, read, strict=True):
        assert torch.equal(one.features.data, two.features.data)
        assert torch.equal(one.labels, two.labels)
        assert one.features.geometry == two.features.geometry
        assert one.features.layer == two.features.layer
    other = load_frames(data, backbone, size="56x84", layer="block 8", cache=cache)
    assert not torch.equal(other[0].features.data, made[0].features.data)
    assert cache.stat().st_mtime_ns != written


def test_logistic_probes(tmp_path, labelled, evaluate):
    code, text, _ = evaluate(
        "--task", "seg", "--methods", "bilinear", "--probe", "logistic", "--data", labelled / "val", "--train",
        labelled / "train", *SIZE, "--folds", "2", "-o", tmp_path / "report", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(text)["rows"][0]["figure"] > 0.6


def test_weights_with_a_channel_norm_are_measured_in_their_own_space(tmp_path, photos, labelled, evaluate):
    torch.manual_seed(0)
    stack, twice = JBUStack(384), (torch.full((384,), 2.0), torch.zeros(384))
    plain = save_upsampler(tmp_path / "plain.safetensors", stack, norm=(twice[0] / 2, twice[1]), provenance={})
    scaled = save_upsampler(tmp_path / "scaled.safetensors", stack, norm=twice, provenance={})
    methods = ("--methods", f"lowres,jbu={plain},jbu={scaled}")
    text = evaluate(*methods, "--data", photos, *SIZE, "-o", tmp_path / "quality", "--json")[1]
    lowres, one, two = (row["figure"] for row in json.loads(text)["rows"])
    assert 0 < one < 3 * lowres
    assert two == pytest.approx(one, rel=0.05), "the error is relative to the variance of the space"
    folders = ("--data", labelled / "val", "--train", labelled / "train")
    text = evaluate("--task", "seg", *methods, *folders, *SIZE, "--folds", "2", "-o", tmp_path / "seg", "--json")[1]
    assert all(row["figure"] > 0.5 for row in json.loads(text)["rows"]), "a probe of other features would fail"
    assert len(list((tmp_path / "seg").glob("probes-*.npz"))) == 3


def test_a_broken_training_picture_is_listed_and_passed_over(tmp_path, labelled, evaluate):
    (labelled / "train" / "images" / "1.png").write_bytes(b"no picture")
    code, text, errors = evaluate(
        "--task", "seg", "--methods", "bilinear", "--data", labelled / "val", "--train", labelled / "train", *SIZE,
        "--folds", "2", "-o", tmp_path / "report", "--json",
    )  # fmt: skip
    assert code == 0
    assert "1 (training) was passed over" in errors
    assert json.loads(text)["rows"][0]["difference"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "magic"), "quality, seg"),
        (("--train", "."), "fits nothing"),
        (("--methods", "magic"), "no upsampling method"),
        (("--methods", "jbu=none.pth"), "There is no file"),
        (("--protocol", "none"), "no protocol to choose"),
        (("--probe", "none"), "no probe to choose"),
    ],
)
def test_wrong_words_are_one_sentence(tmp_path, photos, evaluate, arguments, words):
    code, text, errors = evaluate("--data", photos, "-o", tmp_path / "report", *arguments)
    assert (code, text) == (2, "")
    assert errors.count("\n") == 1
    assert words in errors


@pytest.mark.parametrize(
    ("arguments", "words"), [(("--protocol", "none"), "transfer, trained"), (("--probe", "none"), "ridge, logistic")]
)
def test_wrong_protocols_and_probes_are_shown_the_right_ones(tmp_path, labelled, evaluate, arguments, words):
    folders = ("--task", "seg", "--data", labelled / "val", "--train", labelled / "train")
    code, text, errors = evaluate(*folders, "-o", tmp_path / "report", *arguments)
    assert (code, text) == (2, "")
    assert words in errors


def test_all_tasks_that_the_data_allow_are_run(tmp_path, labelled, evaluate):
    out = tmp_path / "report"
    arguments = (
        "--task", "all", "--methods", "lowres,bilinear", "--data", labelled / "val", "--train", labelled / "train", *SIZE,
        "--folds", "2", "--steps", "2", "--repeats", "1", "-o", out, "--json",
    )  # fmt: skip
    code, text, errors = evaluate(*arguments)
    assert code == 0
    reports = {report["task"]: report for report in json.loads(text)["reports"]}
    assert set(reports) == {"quality", "seg", "preserve", "cam", "clicks", "end2end"}
    assert "The task depth was passed over" in errors
    assert reports["cam"]["settings"]["backbone"] == "tf_efficientnet_lite0", "the chosen backbone has no classes"
    assert reports["seg"]["settings"]["backbone"] == "dinov2-s14-imgfocus"
    ridge = {row["method"]: row for row in reports["preserve"]["rows"] if row["protocol"] == "ridge"}
    transfer = {row["method"]: row for row in reports["seg"]["rows"]}
    assert ridge["bilinear"]["figure"] == 0
    assert ridge["lowres"]["figure"] == pytest.approx(transfer["lowres"]["difference"])
    assert ridge["lowres"]["further"]["mIoU"] == transfer["lowres"]["figure"]
    assert (out / "preserve" / "report.csv").read_text().startswith("method,protocol,mIoU minus bilinear's")


def test_probes_are_not_fitted_on_what_they_label(tmp_path, labelled, evaluate):
    arguments = ("--task", "seg", "--data", labelled / "val", "-o", tmp_path / "report")
    code, _, errors = evaluate(*arguments)
    assert code == 2
    assert "--train" in errors
    code, _, errors = evaluate(*arguments, "--train", labelled / "val")
    assert code == 2
    assert "would be measured with what was fitted on them" in errors


def test_one_click_on_numbered_regions(tmp_path, evaluate):
    folder, out = write_regions(tmp_path / "regions"), tmp_path / "report"
    arguments = ("--task", "clicks", "--methods", "bilinear,jbu=classical", "--data", folder, *SIZE, "-o", out)
    code, text, errors = evaluate(*arguments)
    assert (code, errors) == (0, "")
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["bilinear", "region"], ["jbu=classical", "region"], ["bilinear", "class"], ["jbu=classical", "class"],
    ]  # fmt: skip
    assert "8 clicks (region) and 8 clicks (class); 4 regions" in lines[5]
    assert "4 regions with less than 1% of the labelled pixels" in (out / "report.html").read_text()
    kept = (out / "results.jsonl").read_text()
    code, text, _ = evaluate(*arguments, "--json", "--workers", "2", "--protocol", "region,class")
    assert (out / "results.jsonl").read_text() == kept, "nothing was measured twice"
    assert [row["pictures"] for row in json.loads(text)["rows"]] == [4] * 4
    code, _, errors = evaluate("--task", "clicks", "--data", tmp_path, "-o", tmp_path / "none")
    assert code == 2
    assert "one number per region" in errors


def test_the_table_of_quality_shows_clicks_where_there_are_labels(tmp_path, photos, evaluate):
    folder, out = write_regions(tmp_path / "regions"), tmp_path / "report"
    pillow.new("L", (20, 20), 30).save(folder / "labels" / "1.png")
    arguments = ("--methods", "lowres,bilinear", "--data", folder, *SIZE, "-o", out)
    code, text, errors = evaluate(*arguments)
    assert (code, errors) == (0, "")
    for title in ("edges", "drift", "haze", "mottle", "letters", "halo", "region IoU", "class IoU"):
        assert title in text.splitlines()[0]
        assert f"<th>{title} (" in (out / "report.html").read_text()
    assert "Pictures without clicks: 1. The first reason:" in text
    quality = json.loads((out / "report.json").read_text())
    assert [row["pictures"] for row in quality["rows"]] == [4, 4], "a picture is measured without its labels too"
    kept = (out / "results.jsonl").read_text()
    clicks = json.loads(evaluate("--task", "clicks", *arguments, "--json")[1])
    assert (out / "results.jsonl").read_text() == kept, "the task clicks measures the same"
    assert [row["further"]["region IoU"] for row in quality["rows"]] == [row["figure"] for row in clicks["rows"][:2]]
    assert [row["further"]["class IoU"] for row in quality["rows"]] == [row["figure"] for row in clicks["rows"][2:]]
    text = evaluate("--methods", "bilinear", "--data", photos, *SIZE, "-o", tmp_path / "plain")[1]
    assert "region IoU" not in text


def test_a_wrong_folder_is_shown_the_right_tree(tmp_path, photos, evaluate):
    code, _, errors = evaluate("--task", "seg", "--data", photos, "--train", photos, "-o", tmp_path / "report")
    assert code == 2
    assert "images/" in errors
    assert "labels/" in errors
    assert not (tmp_path / "report").exists()
