"""``featup-app fit`` with a bundled backbone: the file, the commands that use it, Ctrl-C, and messages for bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from featup_app.cli import fit as command_of_fit
from featup_app.cli.main import run
from featup_app.engine import memory
from featup_app.export import load_export
from featup_app.fields.implicit.files import read_fit_facts
from featup_app.images import sample_images

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
CAT, COFFEE, _ = sample_images()
SMALL = ("--backbone", "tf_efficientnet_lite0", "--size", "96")
FEW = (*SMALL, "--views", "16")


@pytest.fixture(scope="module")
def cat_fit(tmp_path_factory) -> Path:
    """A short fit of the cat."""
    path = tmp_path_factory.mktemp("fits") / "cat.safetensors"
    with pytest.raises(SystemExit) as stop:
        run(["fit", str(CAT), "-o", str(path), *FEW])
    assert not stop.value.code
    return path


def test_the_last_line_of_json_is_the_result(tmp_path, command):
    path = tmp_path / "cat.safetensors"
    code, out, err = command("fit", CAT, "-o", path, *FEW, "--json", "--seed", "3")
    assert (code, err) == (0, "")
    *curve, result = [json.loads(line) for line in out.splitlines()]
    assert [point["step"] for point in curve] == [1, 2]
    assert result["steps"] == 2
    assert 0 < result["heldout_error"] < result["bilinear_heldout_error"]
    assert result["heldout_error"] == pytest.approx(curve[-1]["heldout_error"], rel=0.1)
    assert result["jbu_heldout_error"] > 0
    assert result["seconds"] == curve[-1]["seconds"] > 0
    assert (result["file"], result["image"], result["seed"]) == (str(path), "cat.jpg", 3)
    assert result["recipe"]["views"] == 16
    facts = read_fit_facts(path)
    assert facts["fit"]["seed"] == 3
    assert facts["input_hw"] == result["input_hw"]


def test_text_names_errors_and_file(cat_fit, tmp_path, command):
    path = tmp_path / "again.safetensors"
    code, out, err = command("fit", CAT, "-o", path, *FEW)
    assert (code, err) == (0, "")
    first, last = out.splitlines()
    assert first.startswith("held-out reprojection error: implicit ")
    assert " (step 2 of 2, " in first
    assert ", bilinear " in first
    assert ", JBU " in first
    assert last == str(path)
    first, again = (read_fit_facts(file)["fit"] for file in (cat_fit, path))
    assert {**first, "seconds": 0} == {**again, "seconds": 0}


def test_steps_and_seconds_limit_a_fit_and_more_steps_extend_it(tmp_path, command):
    path = tmp_path / "fit.safetensors"
    for options, steps in ((("--steps", "1"), 1), (("--steps", "3"), 3), (("--seconds", "0.001"), 1)):
        code, out, _ = command("fit", CAT, "-o", path, *FEW, "--json", *options)
        assert code == 0
        assert json.loads(out.splitlines()[-1])["steps"] == steps


def test_the_published_recipe_runs(tmp_path, command):
    path = tmp_path / "fit.safetensors"
    options = ("--recipe", "paper", "--views", "4", "--steps", "2")
    code, out, _ = command("fit", CAT, "-o", path, *SMALL, *options, "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["recipe"]["name"], result["steps"], result["best_step"]) == ("paper", 2, 2)
    assert result["heldout_error"] > 0


def test_export_takes_a_fit_for_its_image_alone(cat_fit, tmp_path, command):
    options = ("--method", "implicit", "--upsampler", cat_fit, *SMALL, "--output-size", "2x", "--views", "pca")
    code, out, err = command("export", CAT, COFFEE, "-o", tmp_path, *options)
    assert code == 1
    assert out.splitlines() == [str(tmp_path / "cat.features.npz"), str(tmp_path / "cat.pca.png")]
    assert err.count("\n") == 2
    assert 'was made for the image "cat.jpg", and not for "coffee.jpg"; a fit serves one image' in err
    assert err.splitlines()[1].endswith("1 of 2 images were passed over.")
    export = load_export(tmp_path / "cat.features.npz")
    assert np.isfinite(export.features).all()
    settings = export.provenance["upsampler"]["settings"]
    assert settings["recipe"]["views"] == 16
    assert settings["heldout_error"] < settings["bilinear_heldout_error"]


def test_fits_that_cannot_be_used_get_one_sentence_for_all_images(cat_fit, tmp_path, command):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(cat_fit.read_bytes()[:1000])
    for options, words in (
        (("--upsampler", cut), "damaged or incomplete"),
        (("--upsampler", tmp_path / "absent.safetensors"), "There is no file"),
        (("--upsampler", "classical"), 'has no form called "classical"; give a file of "featup-app fit"'),
    ):
        code, out, err = command(
            "export", CAT, COFFEE, "-o", tmp_path / "out", "--method", "implicit", *options, *SMALL
        )
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert words in err
        assert not (tmp_path / "out").exists()
    for options, words in (
        (("--backbone", "tf_efficientnet_lite0", "--size", "128"), "made with another input size"),
        ((*SMALL, "--layer", "stage 3"), "made with another layer"),
        (("--size", "96"), "made with another backbone"),
    ):
        code, _, err = command(
            "export", CAT, "-o", tmp_path / "out", "--method", "implicit", "--upsampler", cat_fit, *options
        )
        assert code == 2
        assert words in err


def test_evaluate_takes_a_fit(cat_fit, tmp_path, command):
    data = tmp_path / "data"
    data.mkdir()
    for photo in (CAT, COFFEE):
        shutil.copy(photo, data)
    options = (*SMALL, "--no-costs", "--pictures", "0", "--json")
    methods = f"bilinear,implicit={cat_fit}"
    code, out, err = command("evaluate", "-o", tmp_path / "report", "--data", data, "--methods", methods, *options)
    assert code == 0, err
    report = json.loads(out)
    bilinear, fitted = (row["figure"] for row in report["rows"])
    assert fitted < bilinear
    (failure,) = report["failures"]
    assert "a fit serves one image" in failure["reason"]
    for methods, words in (
        ("implicit=absent.safetensors", 'There is no file "absent.safetensors"'),
        ("implicit=classical", 'The method "implicit" has no classical form'),
        ("bilinear=x", 'The method "bilinear" has no weights to choose'),
    ):
        code, _, err = command("evaluate", "-o", tmp_path / "no", "--data", data, "--methods", methods, *SMALL)
        assert code == 2
        assert words in err


def test_bad_input_is_one_sentence(tmp_path, command):
    path = tmp_path / "fit.safetensors"
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "text").write_text("text")
    for arguments, words in (
        ((tmp_path / "absent.jpg", "-o", path), "absent.jpg"),
        ((CAT, "-o", tmp_path / "fit.pt"), 'give "fit.pt" the ending .safetensors'),
        ((CAT, "-o", tmp_path / "folder.safetensors"), "choose another name"),
        ((CAT, "-o", tmp_path / "text" / "fit.safetensors"), "choose another name, or a folder"),
        ((CAT, "-o", path, "--recipe", "fast"), "Choose one of: default, paper"),
        ((CAT, "-o", path, "--seconds", "0"), "given 0 seconds; give more than 0"),
        ((CAT, "-o", path, "--seconds", "nan"), "given nan seconds"),
        ((CAT, "-o", path, "--backbone", "tf_efficientnet_lite0", "--layer", "stage 99"), "stage 99"),
        ((CAT, "-o", path, "--size", "huge"), 'The input size "huge" is not understood'),
    ):
        code, out, err = command("fit", *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.count("\n") == 1
        assert words in err
        assert not path.exists()


def test_a_fit_that_needs_too_much_memory_is_refused_before_it_begins(tmp_path, command, monkeypatch):
    path = tmp_path / "fit.safetensors"
    monkeypatch.setattr(memory, "available_bytes", lambda: int(328e6 / memory.SHARE))
    code, out, err = command("fit", CAT, "-o", path, *FEW)
    assert (code, out) == (2, "")
    assert 'Fitting "cat.jpg" at 96x160 needs about ' in err or 'Fitting "cat.jpg" at 96x128 needs about ' in err
    assert "add --smaller for a smaller setting that needs " in err
    code, out, _ = command("fit", CAT, "-o", path, *FEW, "--smaller", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["recipe"]["name"] == "default, smaller"
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**8)
    for option in ((), ("--smaller",)):
        code, _, err = command("fit", CAT, "-o", path, *FEW, *option)
        assert code == 2
        assert "give a --size below 96x" in err


def test_a_fit_that_diverges_says_so_and_keeps_the_best_state(tmp_path, command, monkeypatch):
    from featup_app.fields.implicit.recipe import FitRecipe

    wild = FitRecipe(name="wild", views=8, gradient_steps=40, rate=1e6, measure_every=1)
    monkeypatch.setattr(command_of_fit, "find_fit_recipe", lambda name: wild)
    path = tmp_path / "fit.safetensors"
    code, out, err = command("fit", CAT, "-o", path, *SMALL, "--json")
    assert code == 0
    assert err.startswith("featup-app: The fit diverged at step ")
    assert err.count("\n") == 1
    assert json.loads(out.splitlines()[-1])["best_step"] == read_fit_facts(path)["fit"]["steps"]


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console, this test's included")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_the_best_state(tmp_path, number):
    path = tmp_path / "fit.safetensors"
    arguments = [
        sys.executable,
        "-m",
        "featup_app",
        "fit",
        str(CAT),
        "-o",
        str(path),
        *SMALL,
        "--steps",
        "10000",
        "--json",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes) as child:
        lines = [child.stdout.readline() for _ in range(2)]
        child.send_signal(number)
        out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    assert json.loads(lines[1])["step"] == 2
    assert result["steps"] >= 2
    assert result["reason"] == "stopped"
    assert f"Stopped after step {result['steps']}; the best state, of step {result['best_step']}, was kept." in err
    assert read_fit_facts(path)["fit"]["steps"] == result["best_step"]


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console, this test's included")
def test_ctrl_c_before_the_first_step_leaves_nothing(tmp_path):
    path = tmp_path / "fit.safetensors"
    arguments = [sys.executable, "-m", "featup_app", "fit", str(CAT), "-o", str(path), "--size", "448"]
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 60
        while not _holds_torch(child.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=120)
    assert child.returncode == 130
    assert err == "featup-app: Stopped before the first step was done; nothing was written.\n"
    assert list(tmp_path.iterdir()) == []


def _holds_torch(process: int) -> bool:
    """Whether a process has loaded torch; on systems that do not report it, True after a second."""
    try:
        return "libtorch_cpu" in Path(f"/proc/{process}/maps").read_text()
    except OSError:
        time.sleep(1)
        return True
