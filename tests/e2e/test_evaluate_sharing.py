"""``featup-app evaluate --workers``: several real processes, one table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image as pillow

from featup_app.images import load_image, resized, sample_images

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        pixels = resized(load_image(sample_images()[index % 3]).pixels, (64, 96))
        pillow.fromarray(pixels[:, ::-1] if index == 3 else pixels).save(folder / f"{index}.png")
    return folder


def command(photos, out, *more: str) -> list[str]:
    options = [
        "--methods",
        "lowres,bilinear",
        "--data",
        str(photos),
        "--size",
        "56x84",
        "-o",
        str(out),
        "--json",
        "--no-costs",
    ]
    return [sys.executable, "-m", "featup_app", "evaluate", *options, *more]


def lines_of(out) -> list[dict]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.is_file() else []


def test_two_workers_give_the_table_of_one_and_no_result_twice(tmp_path, photos):
    reports = []
    for count in ("1", "2"):
        out = tmp_path / count
        done = subprocess.run(command(photos, out, "--workers", count), capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        assert "ended early" not in done.stderr
        reports.append(json.loads(done.stdout))
        results = [(entry["configuration"], entry["picture"]) for entry in lines_of(out)]
        assert len(results) == len(set(results))
        assert not (out / ".claims").exists()
    one, two = ([(row["method"], row["figure"], row["interval"]) for row in report["rows"]] for report in reports)
    assert one == two


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot pause a process")
def test_the_same_command_in_two_terminals_shares_and_survives_a_kill(tmp_path, photos):
    out = tmp_path / "shared"
    first = subprocess.Popen(
        command(photos, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    while not (out / ".claims").is_dir():
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)  # it holds its claim and does not go on
    second = subprocess.Popen(
        command(photos, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    patience = time.monotonic() + 60  # it may have been stopped while it wrote, and then the other waits
    while len({entry["picture"] for entry in lines_of(out)}) < 2 and time.monotonic() < patience:
        assert second.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    printed, complaint = second.communicate(timeout=120)
    assert second.returncode == 0, complaint
    assert [row["pictures"] for row in json.loads(printed)["rows"]] == [4, 4]
