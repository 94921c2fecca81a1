"""What the window's training does without a window: surveys, stopping, pausing, giving up, and what is left on the disk."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import torch
from PIL import Image as Picture
from training_fixtures import PatchBackbone, picture

import featup_app.backbones
from featup_app.base.errors import Cancelled, UpsamplerError
from featup_app.base.words import human_duration
from featup_app.engine import training
from featup_app.engine.training import TrainingControl, TrainingRequest, Workshop, proposed_output
from featup_app.fields import load_upsampler

IMAGES = 4
_HELD = 1.5
"""Seconds that a training is held, many times what its few steps take."""


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """A tiny backbone under every name, one thread, and folders of this test's own."""
    monkeypatch.setenv("FEATUP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("FEATUP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(featup_app.backbones, "load_backbone", lambda name, **_: PatchBackbone(name, seed=len(name)))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def asked(tmp_path):
    folder = tmp_path / "shots"
    folder.mkdir()
    for seed in range(IMAGES):
        Picture.fromarray(picture(seed).pixels).save(folder / f"{seed}.png")
    output = tmp_path / "made" / "weights.safetensors"
    return TrainingRequest((folder,), ("patches",), output, steps=4, size=32, views=3)


def left_over(asked) -> list[str]:
    return sorted(path.name for path in asked.output.parent.glob("*"))


def test_a_training_leaves_weights_report_and_curve(asked):
    seen = []
    outcome = Workshop().train(asked, TrainingControl(), on_state=seen.append)
    assert left_over(asked) == ["weights.json", "weights.png", "weights.safetensors"]
    assert sorted(path.name for path in outcome.files) == left_over(asked)
    assert load_upsampler(asked.output).restoration is not None
    assert (outcome.steps, outcome.stopped, outcome.notes) == (4, "", ())
    assert outcome.error <= outcome.classical
    assert seen[0].step == 0
    assert seen[-1].step == 4
    report = json.loads(asked.output.with_suffix(".json").read_text())
    assert report["data"] == "4 images from shots"


def test_several_backbones_give_a_universal_upsampler(asked):
    Workshop().train(replace(asked, backbones=("one", "another")), TrainingControl())
    assert load_upsampler(asked.output).universal


def test_the_survey_says_what_is_then_found(asked, tmp_path):
    survey = Workshop().survey(asked)
    assert (survey.images, survey.held_out) == (IMAGES, 1)
    assert survey.feature_seconds > 0
    assert survey.free_bytes > 10**6
    Workshop().train(asked, TrainingControl())
    taken = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.safetensors"))
    assert survey.cache_bytes == pytest.approx(taken, rel=0.2)


def test_a_survey_can_be_cancelled_while_it_looks_for_images(asked):
    def cancel(words: str, done: int, total: int, stage=None) -> None:
        assert words == "looking for images"
        raise Cancelled

    with pytest.raises(Cancelled):
        Workshop().survey(asked, cancel)


def test_stopping_keeps_the_best_state(asked):
    control = TrainingControl()

    def on_state(state) -> None:
        if state.step >= 2:
            control.stop()

    outcome = Workshop().train(replace(asked, steps=10**6), control, on_state=on_state)
    assert "Stopped by request" in outcome.stopped
    assert outcome.steps < 10**6
    assert left_over(asked) == ["weights.json", "weights.png", "weights.safetensors"]


def test_stopping_during_the_preparation_leaves_nothing(asked):
    control = TrainingControl()
    control.stop()
    with pytest.raises(Cancelled):
        Workshop().train(asked, control)
    assert left_over(asked) == []


@pytest.mark.parametrize("words", ["computing features", "training", "saving"])
def test_of_a_training_that_is_given_up_nothing_is_left(asked, words):
    def progress(now: str, done: int, total: int, stage: object = None) -> None:
        if now == words and (now != "training" or done == 2) and (now != "saving" or done == 1):
            progress.given_up = True
        if getattr(progress, "given_up", False):
            raise Cancelled

    with pytest.raises(Cancelled):
        Workshop().train(asked, TrainingControl(), progress=progress)
    assert left_over(asked) == []


def test_a_pause_holds_the_steps_and_their_clock(asked):
    control, steps, paused = TrainingControl(), [], threading.Event()

    def progress(words: str, done: int, total: int, stage=None) -> None:
        if words == "training":
            steps.append(done)
            if done == 2 and not paused.is_set():
                control.pause()
                paused.set()

    thread = threading.Thread(target=Workshop().train, args=(asked, control), kwargs={"progress": progress})
    thread.start()
    assert paused.wait(30)
    assert control.paused
    thread.join(_HELD)
    assert thread.is_alive()
    assert max(steps) == 2
    control.go_on()
    thread.join(30)
    assert max(steps) == 3
    seconds = json.loads(asked.output.with_suffix(".json").read_text())["seconds"]
    assert seconds < _HELD


def test_after_a_failure_the_last_state_can_be_resumed(asked, monkeypatch):
    def broken(*_: object) -> None:
        raise UpsamplerError("The disk is full.")

    monkeypatch.setattr(training, "_save", broken)
    with pytest.raises(UpsamplerError, match=r"The disk is full\. What was learned .* --resume goes on from there"):
        Workshop().train(asked, TrainingControl())
    assert left_over(asked) == ["weights.training.pt"]


def test_what_does_not_fit_is_said_before_anything_starts(asked, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"")
    for wrong, sentence in (
        (replace(asked, places=()), "Choose a folder of images"),
        (replace(asked, places=(tmp_path / "nowhere",)), "no image and no folder"),
        (replace(asked, output=Path()), "Choose a file for the weights"),
        (replace(asked, output=tmp_path / "a.bin"), "the ending .safetensors"),
        (replace(asked, output=file / "a.safetensors"), "Nothing can be written into"),
    ):
        with pytest.raises(UpsamplerError, match=sentence):
            wrong.check()
    asked.check()
    asked.output.parent.mkdir()
    asked.output.with_suffix(".png").write_bytes(b"a picture of someone's")
    with pytest.raises(UpsamplerError, match=r"weights\.png.* is already there"):
        asked.check()


def test_the_proposed_file_is_named_after_backbone_and_day_and_is_not_there(tmp_path):
    day = date(2026, 1, 2)
    first = proposed_output(("vit_small.dino",), "block 3", day)
    assert first == tmp_path / "data" / "upsamplers" / "vit_small-dino-block-3-2026-01-02.safetensors"
    first.parent.mkdir(parents=True)
    first.with_suffix(".json").write_text("{}")
    assert proposed_output(("vit_small.dino",), "block 3", day).stem == f"{first.stem}-2"
    assert proposed_output(("one", "two"), None, day).stem == "universal-2026-01-02"


def test_even_a_short_training_has_a_curve(asked):
    assert training._measure_every(replace(asked, steps=40), 100) == 4
    assert training._measure_every(replace(asked, steps=5), 100) == 1
    assert training._measure_every(replace(asked, steps=None, minutes=5), 400) == 400


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "1 second"), (95, "95 seconds"), (150, "2.5 minutes"), (900, "15 minutes"), (7200, "2 hours")],
)
def test_durations_in_words(seconds, words):
    assert human_duration(seconds) == words
