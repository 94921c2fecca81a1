"""The main window. It only connects its parts: choices go to the studio, answers to the image views and tabs."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PySide6.QtCore import QByteArray, Qt, QTimer
from PySide6.QtGui import QCloseEvent, QDragEnterEvent, QDropEvent, QGuiApplication, QImage
from PySide6.QtWidgets import (
    QApplication,
    QDockWidget,
    QFileDialog,
    QMainWindow,
    QMenu,
    QMessageBox,
    QVBoxLayout,
    QWidget,
)

from featup_app.backbones import list_backbones, status
from featup_app.base.progress import Progress
from featup_app.engine.preferences import Preferences, save_preferences
from featup_app.engine.settings import ViewSettings
from featup_app.gui import style
from featup_app.gui.actions import commands, make_actions
from featup_app.gui.basis_desk import BasisDesk
from featup_app.gui.compare.compare_desk import CompareDesk
from featup_app.gui.controls import Controls
from featup_app.gui.dialogs import UPSAMPLER_PATTERN, OtherModelDialog, about_text, keys_text, upsampler_sentence
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.export_desk import ExportDesk
from featup_app.gui.failure_report import explained, report
from featup_app.gui.fit.fit_desk import FitDesk
from featup_app.gui.fit.refinement import Refinement
from featup_app.gui.marks.pixel_desk import PixelDesk
from featup_app.gui.marks.query_desk import QueryDesk
from featup_app.gui.notices import NoticeBar
from featup_app.gui.opening import ImageOpener
from featup_app.gui.placing import place, place_of
from featup_app.gui.preferences_dialog import PreferencesDialog
from featup_app.gui.quality.quality_desk import QualityDesk
from featup_app.gui.status import StatusBar
from featup_app.gui.strip.strip_desk import StripDesk
from featup_app.gui.studio import FIRST, FITTED, Studio
from featup_app.gui.tool_bar import SettingsBar
from featup_app.gui.train.training_desk import TrainingDesk
from featup_app.gui.views.empty_state import EmptyState
from featup_app.gui.views.inspector import Inspector
from featup_app.gui.views.linked_views import LinkedViews
from featup_app.gui.views.view_grid import IMAGE, ViewGrid
from featup_app.gui.wheel import WheelGuard
from featup_app.images import Image, first_sample
from featup_app.lenses import LensView
from featup_app.lenses.look import UpsamplerFacts
from featup_app.lenses.pictures import laid_over


class MainWindow(QMainWindow):
    """The program's window.

    Args:
        preferences: remembered choices; written back when the window closes.
    """

    def __init__(self, preferences: Preferences) -> None:
        super().__init__()
        self.preferences = preferences
        self.setWindowTitle("FeatUp")
        self.setWindowIcon(style.icon("featup-app"))
        self.setAcceptDrops(True)

        self.engine = EngineBridge(self, keep_bytes=preferences.memory_budget)
        self.studio = Studio(self.engine, preferences.settings)
        self.grid = ViewGrid()
        self.empty = EmptyState()
        self.notice = NoticeBar(self._explain)
        self.controls = Controls(preferences.settings, list_backbones())
        self.inspector = Inspector()
        self.status = StatusBar()
        self.strip = StripDesk(self.engine, self.studio, self._is_held)
        self.opener = ImageOpener(self.strip, self.studio, self.notice.show_message, preferences, self)
        self.exporting = ExportDesk(
            self.engine, self.studio, self.notice.show_message, preferences, self.grid.opacities, self
        )
        self.training = TrainingDesk(self.studio, self.notice.show_message, self)
        self.fitting = FitDesk(self.engine, self.studio, self.notice.show_message, self)
        self.refinement = Refinement(self.fitting, self.studio, self.engine, self.notice.show_message)
        self.asking = QueryDesk(self.engine, self.studio, self.grid, self.inspector, self.notice.show_message, self)
        self.bases = BasisDesk(self.engine, self.studio, self.inspector, self.notice.show_message, self)
        self.comparing = CompareDesk(self.engine, self.studio, self.notice.show_message, self.grid)
        self.pixel = PixelDesk(self.engine, self.studio, self.grid, self.inspector)
        self.quality = QualityDesk(self.engine, self.studio, self.inspector.quality)
        self.actions_by_name = make_actions(self, self._handlers())
        self.bar = SettingsBar(self.controls, self.actions_by_name, self.opener.open_dialog)

        self._lay_out()
        self._make_menus()
        self._wire()
        WheelGuard(self)
        self._restore_layout()
        self._show_busy(False)
        self._show_list()
        self.actions_by_name["strip"].setChecked(preferences.strip)
        self.strip.show_strip(preferences.strip)
        self.actions_by_name["refine"].setChecked(preferences.refine)
        self.refinement.enable(preferences.refine)
        QTimer.singleShot(0, self._look_up_statuses)

    # -- building --------------------------------------------------------------------------------------------------

    def _handlers(self) -> dict[str, Callable[[], object]]:
        return {
            "open": self.opener.open_dialog,
            "open_folder": self.opener.open_folder_dialog,
            "paste": self.opener.paste,
            "export": self.exporting.open_dialog,
            "copy": self.copy_view,
            "load_upsampler": self.ask_for_upsampler,
            "builtin_upsampler": self._use_builtin_upsampler,
            "open_fit": self.fitting.files.ask_to_open,
            "save_fit": self.fitting.files.ask_to_save,
            "preferences": self._ask_for_preferences,
            "quit": self.close,
            "compute": self._compute,
            "cancel": self.studio.cancel,
            "refine": lambda: self.refinement.enable(self.actions_by_name["refine"].isChecked()),
            "fit": lambda: self._shown_views().fit(),
            "zoom_in": lambda: self._shown_views().zoom(1.25),
            "zoom_out": lambda: self._shown_views().zoom(0.8),
            "zoom_pixels": lambda: self._shown_views().zoom_to_pixels(),
            **{f"view_{name}": lambda name=name: self.grid.toggle_alone(name) for name in self.grid.views},
            "next": lambda: self.strip.step(1),
            "previous": lambda: self.strip.step(-1),
            "strip": lambda: self.strip.show_strip(self.actions_by_name["strip"].isChecked()),
            "compare": self.comparing.toggle,
            "train": self.training.open_dialog,
            "keys": lambda: QMessageBox.information(self, "Keys and mouse", keys_text()),
            "about": lambda: QMessageBox.about(self, "About FeatUp", about_text()),
        }

    def _lay_out(self) -> None:
        centre = QWidget()
        column = QVBoxLayout(centre)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        holder = QVBoxLayout()
        holder.setContentsMargins(style.SPACING, style.SPACING, style.SPACING, 0)
        holder.addWidget(self.notice)
        column.addLayout(holder)
        column.addWidget(self.grid, 1)
        column.addWidget(self.comparing.panel, 1)
        column.addWidget(self.empty, 1)
        column.addWidget(self.strip.strip)
        self.empty.hide()  # shown if the first picture cannot be opened
        self.setCentralWidget(centre)

        self.addToolBar(self.bar)

        dock = QDockWidget("Inspector")
        dock.setObjectName("inspector")
        dock.setWidget(self.inspector)
        self.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, dock)
        self.inspector_dock = dock
        for desk in (self.training, self.fitting):
            self.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, desk.dock)
        self.tabifyDockWidget(self.training.dock, self.fitting.dock)
        self.setStatusBar(self.status)
        self.status.insertPermanentWidget(1, self.training.progress)

    def _make_menus(self) -> None:
        menus: dict[str, QMenu] = {}
        for command in commands():
            menu = menus.get(command.menu)
            if menu is None:
                menu = menus[command.menu] = self.menuBar().addMenu(command.menu)
            if command.separated:
                menu.addSeparator()
            menu.addAction(self.actions_by_name[command.name])
            if command.name == "paste":
                menu.addMenu(self.opener.recent_menu)

        view_menu = menus["&View"]
        view_menu.addSeparator()
        for dock in (self.inspector_dock, self.training.dock, self.fitting.dock):
            view_menu.addAction(dock.toggleViewAction())

    def _wire(self) -> None:
        studio, engine, grid, inspector = self.studio, self.engine, self.grid, self.inspector
        self.controls.chosen.connect(studio.choose)
        self.controls.other_model_asked.connect(self._ask_for_model)
        self.controls.upsampler_asked.connect(self.ask_for_upsampler)
        self.controls.upsampler_dropped.connect(lambda sentence: self.notice.show_message("information", sentence))
        studio.settings_changed.connect(self.controls.show_settings)
        studio.backbone_ready.connect(self.controls.show_backbone)
        studio.upsampler_loaded.connect(self._show_loaded_upsampler)
        studio.image_changed.connect(self._show_image)
        studio.query_changed.connect(grid.show_query)
        studio.request_changed.connect(lambda name, request: inspector.lenses[name].show_request(request))
        studio.view_ready.connect(self._show_view)
        studio.stale.connect(lambda name, stale: grid.views[name].set_stale(stale))
        studio.earlier.connect(lambda name, earlier: grid.views[name].show_earlier(earlier))
        studio.succeeded.connect(self.notice.forget_failure)
        studio.failed.connect(lambda sentence, details: self.notice.show_message("error", sentence, details=details))
        for views in (grid, self.comparing.panel):
            views.hovered.connect(lambda point: self.status.show_point(point, studio))
        grid.clicked.connect(studio.choose_query)
        grid.unclicked.connect(studio.take_back_query)
        grid.moved.connect(studio.move_query)
        grid.picked.connect(inspector.show_tab)
        grid.file_bar.selected.connect(studio.select)
        grid.file_bar.refused.connect(lambda sentence: self.notice.show_message("warning", sentence))
        studio.failed.connect(self._show_what_is_open)
        studio.not_repeated.connect(self._offer_remembered)
        self.empty.open_asked.connect(self.opener.open_dialog)
        self.empty.sample_asked.connect(lambda: self.opener.open([first_sample()]))
        self.strip.changed.connect(self._show_list)
        for tab in inspector.lenses.values():
            tab.asked.connect(studio.ask)
            tab.query_chosen.connect(studio.choose_query)
        engine.started.connect(lambda job: self._show_busy(True))
        engine.progressed.connect(self.status.show_progress)
        engine.finished.connect(lambda job: self._show_busy(engine.busy))

    def _shown_views(self) -> LinkedViews:
        return self.comparing.panel if self.comparing.shown else self.grid

    # -- opening ---------------------------------------------------------------------------------------------------

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if event.mimeData().hasUrls() or event.mimeData().hasImage():
            event.acceptProposedAction()
            several = len(event.mimeData().urls()) > 1
            self.status.showMessage("Drop to open these pictures" if several else "Drop to open this")

    def dropEvent(self, event: QDropEvent) -> None:
        self.status.clearMessage()
        if self.opener.open_data(event.mimeData()):
            event.acceptProposedAction()

    def _show_image(self, image: Image) -> None:
        self.notice.hide()
        self.empty.hide()
        self.grid.setVisible(not self.comparing.shown)
        self.grid.show_image(image)
        for tab in self.inspector.lenses.values():
            tab.show_image(image)
        self.inspector.facts.show_image(image)
        name = image.name.replace("[*]", "[*][*]")  # the mark that Qt replaces in titles
        self.setWindowTitle(f"{name} – FeatUp")

    def _show_what_is_open(self) -> None:
        """After a failure: set the boxes of page, channels and range back to what is shown, or show ways to open something."""
        image = self.studio.image
        self.empty.setVisible(image is None)
        self.grid.setVisible(image is not None and not self.comparing.shown)
        if image is not None:
            self.grid.file_bar.show_image(image)

    def _offer_remembered(self, remembered: ViewSettings) -> None:
        self.notice.show_message(
            "information",
            f"The output size of the last time ({remembered.output_size}) is large for this picture, so it is not computed yet.",
            action=("Compute it", lambda: self.studio.choose(remembered)),
        )

    # -- answers ---------------------------------------------------------------------------------------------------

    def _show_view(self, name: str, view: LensView) -> None:
        self.grid.views[name].show_view(view)
        self.inspector.lenses[name].show_view(view)
        if name == FIRST:  # once for each choice of settings, and not at every click
            self.inspector.facts.show_facts(view.facts)
            self.controls.show_upsampler(view.facts.upsampler)

    def _show_list(self) -> None:
        """The keys for the next and the previous picture are free for other things where there is one picture."""
        for name in ("next", "previous"):
            self.actions_by_name[name].setEnabled(len(self.strip.pictures) > 1)

    def _is_held(self) -> bool:
        """Whether a training or a fit needs the computer."""
        return self.training.running or self.fitting.running

    def _show_busy(self, busy: bool) -> None:
        self.status.show_busy(busy)
        self.bar.cancel.setEnabled(busy)
        self.actions_by_name["cancel"].setEnabled(busy)

    def _explain(self, sentence: str, details: str) -> tuple[str, str]:
        image, settings = self.studio.image, self.studio.settings
        return explained(sentence, image, settings), report(sentence, details, image, settings)

    def _look_up_statuses(self) -> None:
        def look_up(progress: Progress) -> dict[str, str]:
            return {info.name: status(info) for info in list_backbones()}

        self.engine.files("statuses", look_up, self.controls.show_statuses)

    # -- commands --------------------------------------------------------------------------------------------------

    def _compute(self) -> None:
        self.controls.commit_typed()
        (self.fitting.compute if self.studio.settings.method == FITTED else self.studio.compute)()

    def _ask_for_model(self) -> None:
        dialog = OtherModelDialog(self)
        dialog.finished.connect(dialog.deleteLater)
        if dialog.exec():
            name, path = dialog.answer()
            settings = self.studio.settings.with_(backbone=name, weights_file=path, layer=None, input_size=None)
            self.controls.choose_backbone(settings)

    def ask_for_upsampler(self) -> None:
        """Ask for a file with upsampler weights, which is read on the engine's thread and used if it suits the backbone."""
        chosen = self.studio.settings.upsampler_file
        folder = str(Path(chosen).parent) if chosen else str(Path.home())
        path, _ = QFileDialog.getOpenFileName(self, "Load upsampler", folder, UPSAMPLER_PATTERN)
        if path:
            self.studio.load_upsampler(path)

    def _show_loaded_upsampler(self, facts: UpsamplerFacts) -> None:
        self.controls.show_upsampler(facts)
        self.notice.show_message("information", upsampler_sentence(facts))

    def _ask_for_preferences(self) -> None:
        dialog = PreferencesDialog(self, self.engine, self.preferences)
        dialog.finished.connect(dialog.deleteLater)
        dialog.exec()

    def _use_builtin_upsampler(self) -> None:
        self.studio.choose(self.studio.settings.with_(method="jbu", upsampler=None))

    def copy_view(self) -> None:
        """Copy the picture of the current image view to the clipboard."""
        name = self.grid.focused()
        image, shown = self.studio.image, self.grid.views[name]
        pixels = shown.lens_pixels()
        if image is not None and name == IMAGE:
            pixels = image.pixels
        elif image is not None and pixels is not None:
            pixels = laid_over(pixels, image.pixels, shown.shown_opacity)
        if pixels is None:
            self.notice.show_message("warning", "This view has no picture yet.")
            return
        height, width, _ = pixels.shape
        copied = QImage(np.ascontiguousarray(pixels).tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
        QGuiApplication.clipboard().setImage(copied.copy())
        self.status.showMessage(f"Copied the {name} picture, {width} × {height} pixels", 4000)

    # -- leaving ---------------------------------------------------------------------------------------------------

    def _restore_layout(self) -> None:
        stored = self.preferences.window
        place(self, stored.get("geometry"))
        if "state" in stored:
            self.restoreState(QByteArray(base64.b64decode(stored["state"])))
        for desk in (self.training, self.fitting):
            desk.dock.hide()  # they appear with a training and with a fit

    def closeEvent(self, event: QCloseEvent) -> None:
        if not all(desk.may_close() for desk in (self.exporting, self.training, self.fitting.files)):
            event.ignore()
            return
        self.preferences.settings = self.studio.settings
        self.preferences.refine = self.refinement.enabled
        self.preferences.strip = self.actions_by_name["strip"].isChecked()
        self.preferences.window = {
            "geometry": place_of(self),
            "state": base64.b64encode(bytes(self.saveState().data())).decode(),
        }
        save_preferences(self.preferences)
        self.training.close()
        self.strip.close()
        self.engine.close()
        super().closeEvent(event)
        QApplication.quit()
