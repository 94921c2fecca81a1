"""Loading upsampler weights in the window, going back, and files that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PySide6.QtWidgets import QFileDialog
from weights_fixtures import bundled_folder

from featup_app.fields import JBUStack, save_upsampler
from featup_app.gui.controls import LOAD_UPSAMPLER
from featup_app.images import sample_images

DINO = "dinov2-s14-imgfocus"
OWN = {
    "title": "Cats",
    "backbone": DINO,
    "layer": "block 10",
    "data": "200 photos of cats",
    "created": "2026-01-02",
}


@pytest.fixture(autouse=True)
def nothing_bundled(tmp_path, monkeypatch):
    """The built-in weights of these tests are the classical ones, whatever comes with the program."""
    bundled_folder(tmp_path / "resources", monkeypatch)


@pytest.fixture
def write(tmp_path):
    """Writes a file with drawn weights: ``write(name, width=384, **provenance)``."""

    def make(name: str, width: int = 384, **provenance: object) -> str:
        generator = torch.Generator().manual_seed(0)
        stack = JBUStack(width)
        with torch.no_grad():
            for key, parameter in stack.named_parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator) + float("sigma" in key))
                if key.startswith("fixup_proj") and provenance.get("channels", 0) is None:
                    parameter.zero_()
        path = tmp_path / f"{name}.safetensors"
        save_upsampler(path, stack, provenance=provenance)
        return str(path)

    return make


@pytest.fixture
def choose(monkeypatch):
    """Answers the file dialog."""

    def answer(path: str) -> None:
        monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_, **__: (path, ""))

    return answer


@pytest.fixture
def driver(config, start):
    config(input_size="112", output_size="4x", method="jbu")
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    return driver


def load(driver) -> None:
    driver.window.notice.hide()
    driver.window.actions_by_name["load_upsampler"].trigger()
    driver.wait_for(driver.window.notice.isVisible)
    driver.wait_until_idle()


def test_a_loaded_file_is_used_at_once_and_given_back(driver, write, choose):
    window, studio, weights = driver.window, driver.studio, driver.window.controls.weights
    assert weights.currentText() == "built-in (classical)"
    before = studio.views["pca"].pixels
    path = write("cats", **OWN)
    choose(path)
    load(driver)
    assert window.notice.property("severity") == "information"
    assert "“Cats” for dinov2-s14-imgfocus, trained on 200 photos of cats" in window.notice.text.text()
    assert studio.settings.upsampler == path
    assert weights.currentText() == "Cats"
    for words in ("Cats", path, "200 photos of cats", DINO, "block 10", "2026-01-02"):
        assert words in weights.toolTip()
    assert studio.views["pca"].facts.upsampler.title == "Cats"
    assert studio.views["cam"].facts.upsampler.kind == "classical", "the classifier has its own weights"
    assert not np.array_equal(studio.views["pca"].pixels, before)

    window.actions_by_name["builtin_upsampler"].trigger()
    driver.wait_until_idle()
    assert weights.currentText() == "built-in (classical)"
    assert np.array_equal(studio.views["pca"].pixels, before)


def test_the_tool_bar_loads_and_chooses_too(driver, write, choose):
    studio, weights = driver.studio, driver.window.controls.weights
    path = write("all", 3, channels=None, title="Everything that was ever trained")
    choose(path)
    index = weights.findData(LOAD_UPSAMPLER)
    weights.setCurrentIndex(index)
    weights.activated.emit(index)
    driver.wait_for(driver.window.notice.isVisible)
    driver.wait_until_idle()
    assert studio.settings.upsampler == path
    assert "“Everything that was ever trained” for every backbone" in driver.window.notice.text.text()
    assert weights.currentText() == "Everything that was eve…"
    assert "Everything that was ever trained" in weights.toolTip()
    assert studio.views["cam"].facts.upsampler.title == "Everything that was ever trained"
    classical = weights.findText("classical")
    weights.setCurrentIndex(classical)
    weights.activated.emit(classical)
    driver.wait_until_idle()
    assert studio.settings.upsampler == "classical"
    assert weights.currentText() == "classical"
    method = driver.window.controls.method
    method.setCurrentIndex(method.findData("bilinear"))
    method.activated.emit(method.currentIndex())
    driver.wait_until_idle()
    assert not weights.isVisible()


def test_files_that_cannot_be_used_change_nothing(driver, write, choose, tmp_path):
    window, studio = driver.window, driver.studio
    choose(write("cats", **OWN))
    load(driver)
    good, picture = studio.settings, studio.views["pca"]
    text, damaged = tmp_path / "notes.txt", tmp_path / "damaged.safetensors"
    text.write_text("hello")
    damaged.write_bytes(Path(good.upsampler).read_bytes()[:5000])
    for path, words in (
        (str(text), "does not look like weights"),
        (str(text), "does not look like weights"),
        (str(damaged), "copy or download it again"),
        (str(tmp_path / "absent.ckpt"), "There is no file"),
        (write("small", 32), '"small" is for 32 channels, but the features of dinov2-s14-imgfocus, block 10, have 384'),
        (write("other", backbone="vit_tiny"), "trained for the backbone vit_tiny, but the features come from dinov2"),
    ):
        choose(path)
        load(driver)
        assert words in window.notice.text.text()
        assert window.notice.property("severity") == "error"
        assert studio.settings == good
        assert window.controls.weights.currentText() == "Cats"
        assert studio.views["pca"] is picture


def test_another_backbone_gives_up_the_file_and_says_so(driver, write, choose):
    window, studio, box = driver.window, driver.studio, driver.window.controls.backbone
    choose(write("cats", **OWN))
    load(driver)
    box.setCurrentIndex(box.findData("tf_efficientnet_lite0"))
    box.activated.emit(box.currentIndex())
    assert "“Cats” was trained for the features that were shown before" in window.notice.text.text()
    driver.wait_until_idle()
    assert studio.settings.upsampler is None
    assert studio.views["pca"].facts.backbone == "tf_efficientnet_lite0"
    assert window.controls.weights.currentText() == "built-in (classical)"


def test_the_choice_is_remembered_and_a_file_that_has_gone_is_given_up(config, start, write, tmp_path):
    path = write("cats", **OWN)
    config(input_size="112", output_size="4x", method="jbu", upsampler=path)
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    assert driver.studio.views["pca"].facts.upsampler.title == "Cats"
    assert driver.window.controls.weights.currentText() == "Cats"
    driver.window.close()
    stored = json.loads((tmp_path / "config" / "preferences.json").read_text())
    assert stored["settings"]["upsampler"] == path
    Path(path).unlink()
    again = start(sample_images()[0])
    again.wait_until_idle()
    assert "There is no file" in again.window.notice.text.text()
    assert again.studio.settings.upsampler is None
    assert "pca" in again.studio.views
