"""``featup-app train`` with a bundled backbone: files, resumption, signals, and messages for bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import featup_app
from featup_app.cli.main import run

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--backbone", "tf_efficientnet_lite0", "--size", "64", "--views", "2"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for index in range(3):
        coarse = random.integers(0, 255, (4, 5, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(coarse, (80, 64), interpolation=cv2.INTER_CUBIC))
    return folder


def train(photos, folder, *arguments):
    run(["train", str(photos), *SMALL, "--cache", str(folder / "cache"), *arguments])


def test_training_writes_weights_that_upsample(photos, tmp_path, capsys):
    output = tmp_path / "out.safetensors"
    with pytest.raises(SystemExit) as stopped:
        train(photos, tmp_path, "--steps", "3", "--json", "-o", str(output))
    assert stopped.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps"] == 3
    assert [Path(file).suffix for file in report["files"]] == [".safetensors", ".json", ".png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out.json", "out.png", "out.safetensors"]
    image = featup_app.load_image(photos / "0.png")
    features = featup_app.load_backbone("tf_efficientnet_lite0").extract(image, size=64)
    field = featup_app.upsample(features, image, "jbu", upsampler=output)
    assert field.features(size=(32, 40)).isfinite().all()


def test_another_method_is_trained_by_its_name(photos, tmp_path, capsys):
    output = tmp_path / "out.safetensors"
    with pytest.raises(SystemExit) as stopped:
        train(photos, tmp_path, "--method", "carafe", "--steps", "2", "--json", "-o", str(output))
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out)["method"] == "carafe"
    assert featup_app.load_upsampler(output).method == "carafe"


def test_the_restoration_can_be_chosen_and_left_out(photos, tmp_path, capsys):
    output = tmp_path / "out.safetensors"
    found = {}
    for weight in ("0", "5"):
        with pytest.raises(SystemExit) as stopped:
            train(photos, tmp_path, "--restoration", weight, "--steps", "1", "--json", "-o", str(output))
        assert stopped.value.code == 0
        assert json.loads(capsys.readouterr().out)["recipe"]["restoration"] == float(weight)
        found[weight] = featup_app.load_upsampler(output)
    assert (found["0"].restoration, found["0"].universal) == (None, True)
    assert found["5"].restoration is not None
    assert found["5"].channels == found["5"].restoration.detail.shape[0]


def test_ctrl_c_keeps_the_best_and_training_goes_on_from_there(photos, tmp_path, capsys):
    output = tmp_path / "out.safetensors"
    line = [sys.executable, "-m", "featup_app", "train", str(photos), *SMALL, "--cache", str(tmp_path / "cache")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    checkpoint = tmp_path / "out.training.pt"
    process = subprocess.Popen(
        [*line, "--steps", "100000", "-o", str(output)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    deadline = time.monotonic() + 180
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Stopped by request" in err
    assert "held-out reprojection error" in out
    assert output.exists()
    assert checkpoint.exists()
    steps = json.loads(output.with_suffix(".json").read_text())["steps"]
    with pytest.raises(SystemExit) as stopped:
        train(photos, tmp_path, "--steps", str(steps + 2), "--resume", str(checkpoint), "-o", str(output))
    assert stopped.value.code == 0
    assert json.loads(output.with_suffix(".json").read_text())["steps"] == steps + 2
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "-o", "a.safetensors"], 'no image and no folder "nowhere"'),
        (["PHOTOS", "-o", "a.pt"], "safetensors"),
        (["PHOTOS", "-o", "a.safetensors", "--recipe", "mine"], "default, paper"),
        (["PHOTOS", "-o", "a.safetensors", "--method", "bilinear"], "choose one of: resize_conv, carafe"),
        (
            ["PHOTOS", "-o", "a.safetensors", *SMALL, "--method", "sapa", "--backbone", "dinov2-s14-imgfocus"],
            "trained for one backbone",
        ),
        (["PHOTOS", "-o", "a.safetensors", "--steps", "0"], "at least 1"),
        (["PHOTOS", "-o", "a.safetensors", "--restoration", "-1"], "not negative"),
        (["PHOTOS", "-o", "a.safetensors", "--backbone", "no_such_model"], "no_such_model"),
        (["PHOTOS", "-o", "a.safetensors", *SMALL, "--layer", "99"], "99"),
        (["PHOTOS", "-o", "a.safetensors", *SMALL, "--resume", "PHOTOS/0.png"], "Cannot resume"),
        (["EMPTY", "-o", "a.safetensors"], "holds no images"),
    ],
)
def test_bad_input_is_one_sentence(photos, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATUP_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    arguments = [
        argument.replace("PHOTOS", str(photos)).replace("EMPTY", str(tmp_path / "empty")) for argument in arguments
    ]
    with pytest.raises(SystemExit) as stopped:
        run(["train", *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2, error
    assert words in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("a.*"))
