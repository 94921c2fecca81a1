"""Tools > Train upsampler: the dialog, the panel, what is kept and what is not, and leaving in the middle."""

from __future__ import annotations

import threading

import pytest
from PIL import Image as Picture
from PySide6.QtWidgets import QMessageBox

from featup_app.engine import training
from featup_app.fields import load_upsampler
from featup_app.gui.train import training_desk
from featup_app.images import sample_images

SMALL = "tf_efficientnet_lite0"
LONG = 100_000


@pytest.fixture
def photos(tmp_path):
    """Three small pictures in a folder of their own."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, path in enumerate(sample_images()[:3]):
        Picture.open(path).convert("RGB").resize((128, 96)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def driver(config, start, photos, tmp_path, monkeypatch):
    """The window with the smallest backbone, few views, measurements every few steps, and folders of this test's own."""
    monkeypatch.setenv("FEATUP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("FEATUP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(training, "_measure_every", lambda request, images: 2)
    monkeypatch.setattr(training_desk, "ask_before_closing", lambda *_, **__: "discard")
    config(backbone=SMALL, input_size="64", output_size="2x")
    driver = start(photos / "0.png")
    driver.wait_until_idle()
    return driver


def open_dialog(driver, *, steps: int = LONG):
    driver.window.actions_by_name["train"].trigger()
    dialog = driver.window.training.dialog
    assert dialog.isVisible()
    dialog.unit.setCurrentIndex(dialog.unit.findData("steps"))
    dialog.length.setValue(steps)
    return dialog


def begin(driver, *, steps: int = LONG):
    dialog = open_dialog(driver, steps=steps)
    driver.wait_for(dialog.start.isEnabled)
    request = dialog.request()
    driver.window.notice.hide()
    dialog.start.click()
    assert driver.window.training.running
    return request


def wait_for_points(driver, count: int) -> None:
    curve = driver.window.training.panel.curve
    driver.wait_for(lambda: len(curve.points) >= count or not driver.window.training.running)
    assert len(curve.points) >= count, driver.window.notice.text.text()


def wait_for_end(driver) -> None:
    driver.wait_for(lambda: not driver.window.training.running)
    driver.qtbot.wait(20)


def left_over(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "data").rglob("*") if path.is_file())


def test_the_dialog_begins_with_the_window_and_says_what_a_training_takes(driver, photos, tmp_path):
    driver.window.actions_by_name["train"].trigger()
    dialog = driver.window.training.dialog
    assert not dialog.start.isEnabled()
    assert dialog.images.text() == str(photos)
    assert dialog.features.currentText().startswith("EfficientNet-Lite0")
    assert dialog.request().minutes == 15
    assert dialog.request().output.parent == tmp_path / "data" / "upsamplers"
    assert dialog.request().output.name.startswith(SMALL)
    driver.wait_for(dialog.start.isEnabled)
    estimate = dialog.estimate.text()
    assert "3 images found: 2 to train on, 1 to measure on." in estimate
    assert "MB of disk" in estimate or "kB of disk" in estimate
    assert "15 minutes of training" in estimate
    dialog.features.setCurrentIndex(1)
    assert dialog.request().backbones == training.UNIVERSAL_BACKBONES
    assert dialog.request().output.name.startswith("universal-")
    assert not dialog.seed.isVisible()
    dialog.more.click()
    assert dialog.seed.isVisible()
    dialog.reject()
    assert driver.window.training.dialog is None
    assert left_over(tmp_path) == []


def test_what_cannot_be_done_is_said_and_nothing_starts(driver, tmp_path):
    dialog = open_dialog(driver)
    dialog.images.setText(str(tmp_path / "nowhere"))
    assert "There is no image and no folder" in dialog.problem.text()
    empty = tmp_path / "empty"
    empty.mkdir()
    dialog.images.setText(str(empty))
    assert dialog.problem.text() == ""
    driver.wait_for(lambda: "holds no images" in dialog.problem.text())
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no picture")
    dialog.images.setText(str(broken))
    driver.wait_for(lambda: "There is no image to train with" in dialog.problem.text())
    dialog.images.setText("")
    assert "Choose a folder of images" in dialog.problem.text()
    dialog.images.setText(str(tmp_path / "photos"))
    for name, sentence in (("weights.txt", "give"), ("taken.safetensors", "is already there")):
        (tmp_path / "taken.json").write_text("{}")
        dialog.output.setText(str(tmp_path / name))
        assert sentence in dialog.problem.text()
    assert dialog.problem.isVisible()
    assert not dialog.start.isEnabled()
    dialog.start.click()
    assert not driver.window.training.running
    dialog.reject()


def test_a_training_runs_to_its_end_and_its_weights_can_be_used_at_once(driver, photos):
    window, studio, panel = driver.window, driver.studio, driver.window.training.panel
    assert not window.training.dock.isVisible()
    request = begin(driver, steps=4)
    assert window.training.dock.isVisible()
    driver.studio.open(photos / "1.png")  # the window goes on working meanwhile
    driver.wait_for(lambda: studio.image.name == "1.png")
    driver.wait_until_idle()
    assert "pca" in studio.views
    driver.wait_for(lambda: not window.training.running)
    driver.wait_for(window.notice.isVisible)
    assert [step for step, _ in panel.curve.points] == [0, 2, 4]
    assert panel.values["step"].text() == "4 of 4"
    error = panel.values["best"].text()
    assert panel.values["held_out"].text() == error
    assert (
        f"held-out error is {error}" in window.notice.text.text()
        or f"held-out error {error}" in window.notice.text.text()
    )
    assert not window.training.progress.isVisible()
    assert {path.name for path in request.output.parent.iterdir()} == {path.name for path in request.files}
    assert load_upsampler(request.output).home("backbone") == "tf_efficientnet_lite0"
    assert request.output.name in window.notice.text.text()

    assert panel.use.isVisible()
    assert window.notice.action.text() == "Use it now"
    window.notice.action.click()
    driver.wait_for(lambda: studio.settings.upsampler == str(request.output))
    driver.wait_until_idle()
    assert studio.views["pca"].facts.upsampler.kind == "file"


def test_weights_for_another_backbone_bring_that_backbone(driver):
    request = begin(driver, steps=2)
    wait_for_end(driver)
    driver.studio.choose(driver.studio.settings.with_(backbone=training.UNIVERSAL_BACKBONES[0], input_size="56"))
    driver.wait_until_idle()
    driver.window.training.panel.use.click()
    driver.wait_for(lambda: driver.studio.settings.upsampler == str(request.output))
    driver.wait_until_idle()
    assert driver.studio.settings.backbone == SMALL
    assert driver.studio.views["pca"].facts.channels == 320
    assert driver.studio.views["pca"].facts.upsampler.kind == "file"


def test_a_stopped_training_keeps_its_best_state(driver):
    window, panel = driver.window, driver.window.training.panel
    request = begin(driver)
    wait_for_points(driver, 2)
    assert set(panel.curve._baselines) == {"bilinear", "classical"}
    driver.wait_for(window.training.progress.isVisible)
    window.actions_by_name["train"].trigger()
    assert window.training.dialog is None, "one training at a time"
    panel.pause.click()
    driver.qtbot.wait(300)
    count = panel.values["step"].text()
    driver.qtbot.wait(500)
    assert panel.values["step"].text() == count
    assert panel.pause.text() == "Resume"
    panel.pause.click()
    driver.wait_for(lambda: panel.values["step"].text() != count)
    driver.studio.cancel()
    assert window.training.running, "cancelling the views does not cancel the training"
    window.notice.hide()
    panel.stop.click()
    wait_for_end(driver)
    assert load_upsampler(request.output).home("backbone") == "tf_efficientnet_lite0"
    assert request.output.with_suffix(".json").is_file()
    assert request.output.with_suffix(".png").is_file()
    assert not request.checkpoint.exists()
    assert window.notice.isVisible()
    assert panel.headline.text().startswith("Stopped at step")


def test_stopping_before_there_is_anything_to_keep_says_so(driver, monkeypatch, tmp_path):
    waiting = threading.Event()

    def slow(request, images):
        waiting.wait(20)
        return 2

    monkeypatch.setattr(training, "_measure_every", slow)
    begin(driver)
    driver.window.training.panel.stop.click()
    waiting.set()
    wait_for_end(driver)
    assert "nothing to keep" in driver.window.notice.text.text()
    assert left_over(tmp_path) == []


def test_of_a_discarded_training_nothing_is_left(driver, tmp_path, monkeypatch):
    panel, answers = driver.window.training.panel, [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(QMessageBox, "question", lambda *_: answers.pop(0))
    begin(driver)
    wait_for_points(driver, 2)
    panel.discard.click()
    assert len(answers) == 1
    driver.qtbot.wait(200)
    assert driver.window.training.running
    panel.pause.click()  # given up while it waits
    panel.discard.click()
    wait_for_end(driver)
    assert left_over(tmp_path) == []
    assert not panel.use.isVisible()
    assert panel.headline.text() == "Training discarded"


def test_a_failure_is_reported_and_another_training_can_start(driver, photos, monkeypatch):
    def broken(result, request, images, progress):
        from featup_app.base.errors import UpsamplerError

        raise UpsamplerError(
            f'Cannot write "{request.output}": no space left on device; choose another name or folder.'
        )

    with monkeypatch.context() as patch:
        patch.setattr(training, "_save", broken)
        request = begin(driver, steps=2)
        wait_for_end(driver)
    assert driver.window.notice.property("severity") == "error"
    assert "no space left" in driver.window.notice.text.text()
    assert "--resume goes on from there" in driver.window.notice.text.text()
    assert request.checkpoint.is_file()
    other = begin(driver, steps=2)
    assert other.output != request.output
    wait_for_end(driver)
    assert load_upsampler(other.output).home("backbone") == "tf_efficientnet_lite0"


@pytest.mark.parametrize("answer", ["discard", "save"])
def test_closing_in_the_middle_asks_and_leaves_no_thread(driver, tmp_path, monkeypatch, answer):
    asked = []

    def ask(*_, **__) -> str:
        asked.append(answer)
        return "stay" if len(asked) == 1 else answer

    monkeypatch.setattr(training_desk, "ask_before_closing", ask)
    request = begin(driver)
    wait_for_points(driver, 2)
    assert not driver.window.close()
    assert driver.window.training.running
    driver.window.close()
    driver.wait_for(lambda: not driver.window.isVisible())
    assert len(asked) == 2
    assert "featup-training" not in {thread.name for thread in threading.enumerate()}
    if answer == "save":
        assert load_upsampler(request.output).home("backbone") == "tf_efficientnet_lite0"
        assert not request.checkpoint.exists()
    else:
        assert left_over(tmp_path) == []
