"""File > Export: the same bytes as the command line."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
from PySide6.QtWidgets import QDialog

from featup_app.base.errors import Cancelled
from featup_app.engine.preferences import load_preferences, save_preferences
from featup_app.export import load_export, picture_provenance
from featup_app.gui import export_desk
from featup_app.gui.export_dialog import ExportDialog
from featup_app.images import resized, sample_images
from featup_app.lenses import SimilarityLens


@pytest.fixture
def driver(start, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    driver = start(sample_images()[1])
    driver.wait_until_idle()
    return driver


def export(driver, monkeypatch, folder, change=lambda dialog: None) -> None:
    """Choose File > Export, fill in the dialog, accept it, and wait for the message."""

    class Accepted(ExportDialog):
        def exec(self) -> int:
            self.folder_edit.setText(str(folder))
            change(self)
            self.accept()
            return QDialog.DialogCode.Accepted

    monkeypatch.setattr(export_desk, "ExportDialog", Accepted)
    driver.window.notice.hide()
    driver.window.actions_by_name["export"].trigger()
    driver.wait_for(driver.window.notice.isVisible)
    driver.wait_until_idle()


def test_window_and_command_line_write_the_same_bytes(driver, monkeypatch, tmp_path):
    from featup_app.cli.main import run

    driver.click("pca", 300, 120)
    driver.wait_until_idle()
    x, y = driver.studio.query
    export(driver, monkeypatch, tmp_path / "window")
    assert "Saved 4 files" in driver.window.notice.text.text()
    arguments = [
        "export",
        str(sample_images()[1]),
        "-o",
        str(tmp_path / "line"),
        "--size",
        "112",
        "--output-size",
        "4x",
    ]
    views = f"pca,similarity@{x!r},{y!r},cam:{driver.studio.views['cam'].chosen.index}"
    monkeypatch.setattr("sys.argv", ["featup-app", *arguments, "--views", views])
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code in (0, None)
    names = sorted(path.name for path in (tmp_path / "window").iterdir())
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "window" / name).read_bytes() == (tmp_path / "line" / name).read_bytes(), name


def test_what_is_exported_is_what_is_seen(driver, monkeypatch, tmp_path):
    def only_half_precision(dialog) -> None:
        dialog.format.setCurrentIndex(dialog.format.findData("safetensors"))
        dialog.dtype.setCurrentIndex(dialog.dtype.findData("float16"))
        assert "MB" in dialog.estimate.text()

    measure = driver.window.inspector.lenses["similarity"].measure
    measure.setCurrentIndex(measure.findData("cosine"))
    driver.wait_for(lambda: driver.studio.views["similarity"].request.measure == "cosine")
    driver.wait_until_idle()
    export(driver, monkeypatch, tmp_path, only_half_precision)
    loaded = load_export(next(tmp_path.glob("*.safetensors")))
    view = driver.studio.views["similarity"]
    features = np.asarray(loaded.features, np.float32)
    assert features.shape[1:] == view.values.shape
    row, column = view.facts.geometry.pixel_of(view.request.point, view.facts.size)
    query = features[:, row, column]
    cosine = np.tensordot(query, features, 1) / np.linalg.norm(features, axis=0) / np.linalg.norm(query)
    assert np.abs(cosine - view.values).max() < 2e-3
    assert json.dumps(dict(loaded.provenance))
    from PIL import Image as Picture

    assert (np.asarray(Picture.open(next(tmp_path.glob("*.pca.png")))) == driver.studio.views["pca"].pixels).all()


def test_an_export_has_the_opacity_that_is_seen(driver, monkeypatch, tmp_path):
    from PIL import Image as Picture

    driver.views["pca"].opacity.setValue(50)
    export(driver, monkeypatch, tmp_path, lambda dialog: dialog.features.setChecked(False))
    picture = driver.studio.views["pca"].picture()
    below = resized(driver.studio.image.pixels, picture.shape[:2])
    written = next(tmp_path.glob("*.pca.png"))
    mixed = (picture.astype(float) + below) / 2
    assert np.abs(np.asarray(Picture.open(written), float) - mixed).max() <= 1
    assert picture_provenance(written)["view"]["opacity_over_image"] == 0.5
    other = next(tmp_path.glob("*.similarity-*.png"))
    assert "opacity_over_image" not in picture_provenance(other)["view"]


def test_the_dialog_remembers_and_has_a_name(driver, monkeypatch, tmp_path):
    def choose(dialog) -> None:
        assert dialog.name_edit.text() == "coffee"
        dialog.name_edit.setText("a/b")
        assert "/" in dialog.problem.text()
        assert not dialog._save.isEnabled()
        dialog.name_edit.setText("my & mug")
        dialog.features.setChecked(False)
        dialog.pictures["cam"].setChecked(False)

    export(driver, monkeypatch, tmp_path / "out", choose)
    assert sorted(path.name.split(".")[:2] for path in (tmp_path / "out").iterdir())[0] == ["my & mug", "pca"]
    assert len(list((tmp_path / "out").iterdir())) == 2
    save_preferences(driver.window.preferences)
    remembered = load_preferences()
    dialog = ExportDialog(driver.window, driver.studio, remembered, {})
    assert dialog.folder() == tmp_path / "out"
    assert not dialog.features.isChecked()
    assert [name for name, box in dialog.pictures.items() if box.isChecked()] == ["pca", "similarity"]
    dialog.deleteLater()


def test_bfloat16_needs_safetensors_and_the_dialog_says_so(driver, monkeypatch, tmp_path):
    seen = []

    def ask(dialog) -> None:
        dialog.dtype.setCurrentIndex(dialog.dtype.findData("bfloat16"))
        seen.append((dialog.problem.text(), dialog._save.isEnabled()))
        dialog.format.setCurrentIndex(dialog.format.findData("safetensors"))
        seen.append((dialog.problem.text(), dialog._save.isEnabled()))

    export(driver, monkeypatch, tmp_path, ask)
    assert "safetensors" in seen[0][0]
    assert not seen[0][1]
    assert seen[1] == ("", True)


def test_nothing_is_replaced_unasked_and_a_cancelled_export_leaves_nothing(driver, monkeypatch, tmp_path):
    first = tmp_path / "first"
    export(driver, monkeypatch, first)
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    export(driver, monkeypatch, first)
    assert "already" in driver.window.notice.text.text()
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    export(driver, monkeypatch, first, lambda dialog: dialog.overwrite.setChecked(True))
    assert "Saved" in driver.window.notice.text.text()

    def cancelled(*args, **kwargs):
        raise Cancelled

    monkeypatch.setattr(SimilarityLens, "view", cancelled)
    driver.window.notice.hide()
    folder = tmp_path / "new"
    driver.window.notice.show_message("information", "waiting")
    start_export(driver, monkeypatch, folder)
    driver.wait_until_idle()
    assert not folder.exists()


def test_an_export_outlives_another_image_and_asks_before_the_window_closes(driver, monkeypatch, tmp_path):
    going, asked = threading.Event(), []

    def slow(session, image, settings, options, folder, *, stem, progress):
        while not going.is_set():
            progress("writing", 0, 0)
            time.sleep(0.01)
        return [tmp_path / f"{image.name}.npz"]

    monkeypatch.setattr(export_desk, "export_image", slow)
    monkeypatch.setattr(export_desk, "ask_before_closing", lambda *_, **__: asked.append(1) or "stay")
    start_export(driver, monkeypatch, tmp_path)
    driver.studio.open(sample_images()[0])
    driver.wait_for(lambda: driver.studio.image.name == "cat.jpg")
    assert not driver.window.close()
    assert asked == [1]
    going.set()
    driver.wait_for(lambda: driver.window.notice.isVisible())
    assert "coffee.jpg.npz" in driver.window.notice.text.text()
    driver.wait_until_idle()
    assert driver.studio.views["pca"].facts.geometry.image_hw == (300, 451)


@pytest.mark.parametrize("answer", ["save", "discard"])
def test_closing_finishes_a_running_export_or_cancels_it(driver, monkeypatch, tmp_path, answer):
    going, ended = threading.Event(), []

    def slow(session, image, settings, options, folder, *, stem, progress):
        try:
            while not going.is_set():
                progress("writing", 0, 0)
                time.sleep(0.01)
        except Cancelled:
            ended.append("cancelled")
            raise
        ended.append("written")
        return [tmp_path / "written.npz"]

    monkeypatch.setattr(export_desk, "export_image", slow)
    monkeypatch.setattr(export_desk, "ask_before_closing", lambda *_, **__: answer)
    start_export(driver, monkeypatch, tmp_path)
    driver.wait_for(lambda: driver.window.engine.busy)
    closed = driver.window.close()
    assert closed == (answer == "discard")
    going.set()
    driver.wait_for(lambda: not driver.window.isVisible())
    driver.wait_for(lambda: bool(ended))
    assert ended == ["written" if answer == "save" else "cancelled"]


def start_export(driver, monkeypatch, folder) -> None:
    class Accepted(ExportDialog):
        def exec(self) -> int:
            self.folder_edit.setText(str(folder))
            return QDialog.DialogCode.Accepted

    monkeypatch.setattr(export_desk, "ExportDialog", Accepted)
    driver.window.actions_by_name["export"].trigger()
