"""The page of an evaluation, complete, self-contained and escaped; and the costs of methods in its tables."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from featup_app.backbones import load_backbone
from featup_app.base.peak_memory import extra_megabytes
from featup_app.cli import terminal
from featup_app.cli.tables import print_report
from featup_app.evaluation import Plan, parse_methods, photos
from featup_app.evaluation.costs import Cost, learned_numbers, measure_costs, with_costs
from featup_app.evaluation.html_report import html_page, write_html
from featup_app.evaluation.records import Records
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.samples import Sample, sample_pictures
from featup_app.fields import JBUStack, Upsampler
from featup_app.images import load_image, resized, sample_images


class Page(HTMLParser):
    """Collects tags and texts, and fails if tags are not closed in order."""

    VOID = ("meta", "img", "rect", "line")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def report() -> Report:
    rows = (
        Row("lowres", "transfer", 0.4, 0.02, -0.1, (-0.12, -0.05), 0.1, 34, further={"accuracy": 0.8}),
        Row("bilinear", "transfer", 0.5, 0.01, None, None, 0.2, 34, further={"accuracy": 0.9}),
        Row("jbu=<b>my&street</b>", "transfer", 0.52, 0.03, 0.02, (-0.01, 0.05), 0.3, 34, further={"accuracy": None}),
        Row("bilinear", "trained", float("nan"), 0.0, None, None, 0.2, 34, further={"accuracy": 0.9}),
    )
    settings = {"backbone": "dinov2", "layer": "block 10", "seed": 0, "train": [f"frame {n}" for n in range(60)]}
    failures = (("a<script>alert(1)</script>.png", "it is broken & bent"),)
    return Report("seg", "mIoU", "3 folds", True, rows, failures, settings, (("accuracy", True),))


def test_the_page_holds_tables_bars_pictures_and_settings():
    sample = Sample("cat & dog.png", (("image", b"\xff\xd8one"), ("bilinear", b"\xff\xd8two")))
    text = html_page([with_costs(report(), {"bilinear": Cost(1.5, 48.6, 173_540)})], samples=[sample],
                     passed_over=[("depth", "no depths <here>")])  # fmt: skip
    page = Page(text)
    assert page.count("table") == 1
    assert page.count("tr") == 5
    assert page.count("svg") == 1, "a figure that is not a number has no bar"
    assert sum(attrs.get("class") == "bar" for _, attrs in page.tags) == 3
    assert [attrs["src"][:22] for tag, attrs in page.tags if tag == "img"] == ["data:image/jpeg;base64"] * 2
    told = " ".join(page.texts)
    for words in ("173\u202f540", "49", "frame 0", "58 more", "no depths <here>", "cat & dog.png", "-0.0100 … +0.0500"):
        assert words in told
    best = [index for index, (tag, attrs) in enumerate(page.tags) if tag == "td" and attrs.get("class") == "best"]
    assert len(best) == 1


def test_nothing_from_outside_becomes_markup_and_nothing_is_fetched():
    text = html_page([report()], passed_over=[("<i>", '"><script>')])
    assert "<script" not in text
    assert "<b>my" not in text
    assert "&lt;b&gt;my&amp;street" in text
    page = Page(text)
    assert page.count("link") == page.count("script") == 0
    assert not [attrs for _, attrs in page.tags if str(attrs.get("src", "data:"))[:5] != "data:" or "href" in attrs]
    assert "http" not in text
    assert "prefers-color-scheme: dark" in text


def test_several_tasks_share_one_page_and_bars_stay_inside(tmp_path):
    lower = dataclasses.replace(
        report(),
        task="quality",
        higher_is_better=False,
        rows=(Row("jbu", "views", 0.7, 0.9, -0.1, None, 1.0, 3),),
        further=(),
    )
    path = write_html([report(), lower], tmp_path)
    assert path.name == "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.count("section") == 2
    width = max(float(attrs["width"]) for tag, attrs in page.tags if tag == "svg")
    for tag, attrs in page.tags:
        if tag == "line":
            assert 0 <= float(attrs["x1"]) <= float(attrs["x2"]) <= width
        if tag == "rect":
            assert float(attrs["width"]) >= 0


def test_costs_stand_in_every_row_of_the_method_and_in_the_files():
    told = with_costs(report(), {"bilinear": Cost(1.5, None, 0), "other": Cost(1, 1, 1)})
    assert [row.parameters for row in told.rows] == [None, 0, None, 0]
    assert told.rows[1].details["cost"]["seconds"] == 1.5
    lines = told.as_csv().splitlines()
    assert lines[0].endswith("accuracy,peak memory (MB),parameters")
    assert lines[1].endswith(",0.8,,")
    assert lines[2].endswith(",0.9,,0")


def test_learned_numbers_are_those_that_take_part():
    stack = JBUStack(8)
    stages, correction = 4 * 6233, 8 * 8 + 8
    bound = {"upsampler": Upsampler(stack, 8)}
    assert learned_numbers(SimpleNamespace(), bound) == stages + correction
    assert learned_numbers(SimpleNamespace(), {"upsampler": Upsampler(stack, None)}) == stages
    fitted = SimpleNamespace(network=torch.nn.Linear(3, 2), parts=(torch.nn.Linear(1, 1), 5), size=(2, 3))
    assert learned_numbers(fitted, {}) == 8 + 2


def test_peak_memory_counts_what_is_needed_beyond_the_result():
    def needs(size: int) -> np.ndarray:
        return np.ones(size, np.float32) + np.ones(size, np.float32)

    found = extra_megabytes(lambda: needs(10_000_000))
    if found is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert 30 < found < 90


@pytest.fixture
def plan(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "0 broken.png").write_bytes(b"no picture")
    for path in sample_images()[:2]:
        pillow.fromarray(resized(load_image(path).pixels, (64, 96))).save(folder / f"{path.stem}.png")
    return Plan(
        backbone=load_backbone("tf_efficientnet_lite0"),
        methods=parse_methods("bilinear,jbu"),
        data=photos(folder),
        size="64x96",
    )


def test_costs_are_measured_in_another_process_and_remembered(plan, tmp_path):
    with Records(tmp_path / "report", name="extras.jsonl") as records:
        costs = measure_costs(plan, records)
    assert set(costs) == {"bilinear", "jbu"}
    assert costs["bilinear"].parameters == 0
    assert costs["jbu"].parameters > 20_000
    assert all(cost.seconds > 0 for cost in costs.values())
    lines = (tmp_path / "report" / "extras.jsonl").read_text()
    told = []
    with Records(tmp_path / "report", name="extras.jsonl") as records:
        assert measure_costs(plan, records, progress=lambda *said: told.append(said)) == costs
    assert told == []
    assert (tmp_path / "report" / "extras.jsonl").read_text() == lines


def test_samples_show_each_method_and_are_remembered(plan, tmp_path):
    with Records(tmp_path / "report", name="extras.jsonl") as records:
        samples = sample_pictures(plan, records, count=3)
    assert [sample.name for sample in samples] == ["cat.png", "coffee.png"], "the broken picture is skipped"
    for sample in samples:
        assert [caption for caption, _ in sample.pictures] == ["image", "bilinear", "jbu"]
        assert all(jpeg[:2] == b"\xff\xd8" for _, jpeg in sample.pictures)
    with Records(tmp_path / "report", name="extras.jsonl") as records:
        assert sample_pictures(plan, records, count=3) == samples


def test_a_table_that_is_too_wide_is_cut_in_two(monkeypatch, capsys):
    whole = dataclasses.replace(report(), notes=("A note.",))
    print_report(whole)
    text = capsys.readouterr().out
    assert text.count("method") == 1
    assert text.splitlines()[-1] == "A note."
    monkeypatch.setattr(terminal, "_PIPE_WIDTH", 100)
    print_report(whole)
    narrow = capsys.readouterr().out
    first, second = narrow.index("method"), narrow.rindex("method")
    assert "accuracy" not in narrow[first:second]
    assert "accuracy" in narrow[second:]
    assert "0.9000" in narrow[second:]
    assert narrow.count("bilinear") == text.count("bilinear") + 2, "both rows stand in both tables"
