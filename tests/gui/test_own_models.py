"""Models outside the list in the window: with a file of weights, and of one input size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featup_app.backbones.loading import build
from featup_app.gui.dialogs import OtherModelDialog
from featup_app.images import sample_images

LITE = "tf_efficientnet_lite0"


@pytest.fixture
def answer(monkeypatch):
    """Answers the dialog "Other model or file"."""

    def give(name: str, path: Path) -> None:
        monkeypatch.setattr(OtherModelDialog, "exec", lambda dialog: True)
        monkeypatch.setattr(OtherModelDialog, "answer", lambda dialog: (name, str(path)))

    return give


@pytest.fixture
def driver(start):
    driver = start(sample_images()[0])
    driver.wait_until_idle()
    return driver


def saved(name: str, path: Path, **options: object) -> Path:
    torch.manual_seed(0)
    torch.save(build(name, **options).state_dict(), path)
    return path


def test_a_model_of_one_size_is_set_to_it(driver, answer, tmp_path):
    controls, studio = driver.window.controls, driver.studio
    answer("test_coatnet", saved("test_coatnet", tmp_path / "own.pth", classes=5))
    driver.window._ask_for_model()
    driver.wait_until_idle()
    assert controls.backbone.currentText() == "own.pth (test_coatnet)"
    assert controls.input.currentText() == "auto (160)"
    assert not controls.input.isEnabled()
    assert studio.views["pca"].facts.geometry.input_hw == (160, 160)
    assert studio.views["cam"].kind == "CAM"
    studio.choose(studio.settings.with_(input_size="96x128"))
    driver.wait_for(driver.window.notice.isVisible)
    assert "it accepts one size only" in driver.window.notice.text.text()
    driver.wait_until_idle()
    assert studio.settings.input_size is None


def test_own_weights_under_a_bundled_name_have_an_entry_of_their_own(driver, answer, tmp_path):
    controls, studio = driver.window.controls, driver.studio
    answer(LITE, saved(LITE, tmp_path / "mine.pth", classes=5))
    driver.window._ask_for_model()
    driver.wait_until_idle()
    assert controls.backbone.currentText() == f"mine.pth ({LITE})"
    assert studio.views["pca"].facts.backbone_title == "mine (EfficientNet-Lite0)"
    upsampler = studio.views["pca"].facts.upsampler
    assert upsampler is None or upsampler.universal
    controls.backbone.setCurrentIndex(controls.backbone.findData(LITE))
    controls.backbone.activated.emit(controls.backbone.currentIndex())
    driver.wait_until_idle()
    assert studio.settings.weights_file is None
    assert studio.views["pca"].facts.backbone_title.startswith("EfficientNet-Lite0")
    assert controls.input.isEnabled()
