"""``--checkpoint``: weights of a person's own, in every command that names a backbone; and models of one input size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from featup_app.backbones.loading import build
from featup_app.export import load_export


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures/, a checkpoint own.pth of a small network with 4 classes, and one for patches of another size."""
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "pictures").mkdir()
    for number in range(3):
        coarse = np.random.default_rng(number).integers(0, 256, (8, 10, 3), dtype=np.uint8)
        pillow.fromarray(coarse.repeat(12, 0).repeat(12, 1)).save(folder / "pictures" / f"{number}.png")
    torch.manual_seed(0)
    torch.save({"net": build("test_vit", classes=4).state_dict()}, folder / "own.pth")
    torch.save(build("test_vit", classes=4, patch_size=8).state_dict(), folder / "fine.pth")
    return folder


OWN = ("--backbone", "test_vit", "--checkpoint")


def test_export(files: Path, tmp_path: Path, command) -> None:
    picture = files / "pictures" / "0.png"
    code, out, err = command(
        "export",
        picture,
        "-o",
        tmp_path,
        *OWN,
        files / "own.pth",
        "--method",
        "bilinear",
        "--size",
        "64x80",
        "--views",
        "cam",
    )
    assert (code, err) == (0, "")
    facts = load_export(next(Path(line) for line in out.splitlines() if line.endswith(".npz"))).provenance
    assert (facts["backbone"]["name"], facts["backbone"]["weights"]) == ("test_vit@own.pth", "own.pth")
    assert any("cam-class-" in line for line in out.splitlines())
    code, _, err = command("export", picture, "-o", tmp_path / "fine", *OWN, files / "fine.pth", "--method", "bilinear")
    assert code == 0
    assert "its patches of 8x8 pixels were resampled to 16x16." in err


def test_a_checkpoint_that_is_not_there_is_refused_once(files: Path, tmp_path: Path, command) -> None:
    code, out, err = command(
        "export", *sorted((files / "pictures").iterdir()), "-o", tmp_path, *OWN, tmp_path / "no.pth"
    )
    assert (code, out) == (2, "")
    assert err.count("There is no file") == 1
    assert list(tmp_path.iterdir()) == []


def test_fit(files: Path, tmp_path: Path, command) -> None:
    target = tmp_path / "fit.safetensors"
    code, _, err = command(
        "fit",
        files / "pictures" / "0.png",
        "-o",
        target,
        *OWN,
        files / "own.pth",
        "--size",
        "64x80",
        "--steps",
        "1",
        "--views",
        "16",
    )
    assert code == 0, err
    assert target.is_file()


def test_evaluate(files: Path, tmp_path: Path, command) -> None:
    code, _, err = command(
        "evaluate", "--data", files / "pictures", "-o", tmp_path, *OWN, files / "own.pth", "--methods", "bilinear", "--size",
        "64x80", "--task", "cam", "--pictures", "0",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["settings"]["backbone"] == "test_vit@own.pth"
    assert report["rows"][0]["parameters"] == 0, "the process that measures costs loads the same checkpoint"


def test_train(files: Path, tmp_path: Path, command) -> None:
    code, _, err = command(
        "train",
        files / "pictures",
        "-o",
        tmp_path / "a.safetensors",
        *OWN,
        files / "own.pth",
        "--backbone",
        "test_resnet",
    )
    assert code == 2
    assert "--checkpoint has the weights of one model" in err
    code, _, err = command(
        "train", files / "pictures", "-o", tmp_path / "a.safetensors", *OWN, files / "own.pth", "--steps", "1", "--size", "64",
        "--views", "2", "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads((tmp_path / "a.json").read_text())["backbone"] in ("test_vit@own.pth", ["test_vit@own.pth"])


def test_a_model_of_one_size_gets_it(files: Path, tmp_path: Path, command) -> None:
    torch.save(build("test_coatnet", classes=3).state_dict(), files / "coat.pth")
    own = ("--backbone", "test_coatnet", "--checkpoint", files / "coat.pth", "--method", "bilinear")
    picture = files / "pictures" / "0.png"
    code, out, err = command("export", picture, "-o", tmp_path, *own, "--views", "cam,pca")
    assert code == 0, err
    facts = load_export(next(Path(line) for line in out.splitlines() if line.endswith(".npz"))).provenance
    assert facts["preprocess"]["input_hw"] == [160, 160]
    code, _, err = command("export", picture, "-o", tmp_path / "other", *own, "--size", "96x128")
    assert code == 2
    assert "cannot work at 96x128 pixels (it accepts one size only); use 160x160, for which it was made." in err
