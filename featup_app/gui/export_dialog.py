"""The dialog for an export: what to save, in which format and folder, and its size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from featup_app.base.errors import ExportError
from featup_app.base.words import human_bytes
from featup_app.engine.exporting import ExportOptions, proposed_stem, stem_problem
from featup_app.engine.preferences import Preferences
from featup_app.export import estimated_bytes
from featup_app.gui.wheel import WheelGuard
from featup_app.gui.widgets import PlainLabel, button, dialog_buttons, fill_form, form_label, row_of, without_mnemonic
from featup_app.lenses import LENSES, Request

if TYPE_CHECKING:
    from featup_app.gui.studio import Studio

_FORMATS = (
    ("npz", "NumPy archive (.npz)", "One file with the features and their provenance; opens with numpy.load"),
    ("npy", "NumPy array (.npy)", "Can be memory-mapped; the provenance lies beside it as .json"),
    ("safetensors", "Safetensors (.safetensors)", "For torch and others; the only one that holds bfloat16"),
)
_DTYPES = (
    ("float32", "float32"),
    ("float16", "float16 (half the size)"),
    ("bfloat16", "bfloat16 (half the size, wide range)"),
)


class ExportDialog(QDialog):
    """Chooses :class:`ExportOptions`, a folder and the beginning of the names; the export itself runs on the engine's thread.

    Args:
        parent: the window.
        studio: the image, and what is asked of it.
        preferences: remembers the choices.
        opacities: of the lenses over the image, by name.
    """

    def __init__(
        self, parent: QWidget, studio: Studio, preferences: Preferences, opacities: Mapping[str, float]
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Export")
        self.setMinimumWidth(540)
        self._studio = studio
        self._preferences = preferences
        self._opacities = dict(opacities)
        assert studio.image is not None

        self.features = QCheckBox("All channels of the upsampled features")
        self.features.setChecked(preferences.export_features)
        self.format = _box("Format", _FORMATS, preferences.export_format)
        self.dtype = _box("Number format", [(value, title, "") for value, title in _DTYPES], preferences.export_dtype)
        self.estimate = PlainLabel("", objectName="muted")
        self.estimate.setWordWrap(True)
        group = QGroupBox("Features")
        form = QFormLayout(group)
        form.addRow(self.features)
        form.addRow(form_label("Format"), self.format)
        form.addRow(form_label("Numbers"), self.dtype)
        form.addRow("", self.estimate)

        pictures = QGroupBox("Pictures (PNG)")
        column = QVBoxLayout(pictures)
        self.pictures: dict[str, QCheckBox] = {}
        for name, request in studio.requests.items():
            box = self.pictures[name] = QCheckBox(
                without_mnemonic(LENSES[name].label(request, studio.current_view(name)))
            )
            box.setChecked(name not in preferences.export_without)
            box.toggled.connect(self._update)
            column.addWidget(box)

        self.folder_edit = QLineEdit(preferences.export_folder or str(studio.image.own_folder or Path.home()))
        self.folder_edit.setAccessibleName("Folder")
        self.folder_edit.setToolTip("Where the files go; a missing folder is created")
        browse = button("Browse…", "Choose a folder")
        browse.clicked.connect(self._browse)
        self.name_edit = QLineEdit(proposed_stem(studio.image))
        self.name_edit.setAccessibleName("Name")
        self.name_edit.setToolTip("How the names of all files begin; what they hold and their type come after it")
        places = QFormLayout()
        fill_form(places, [("Folder", row_of(self.folder_edit, browse, stretched=0), self.folder_edit.toolTip()),
                           ("Name", self.name_edit, self.name_edit.toolTip())])  # fmt: skip
        self.overwrite = QCheckBox("Replace files of the same name")
        self.overwrite.setToolTip("Otherwise the export stops before it would replace a file")

        self.problem = PlainLabel("")
        self.problem.setWordWrap(True)
        self.problem.setMinimumHeight(
            2 * self.fontMetrics().lineSpacing()
        )  # a sentence must not push the rest together
        self.problem.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        buttons = dialog_buttons(self, "Export", QDialogButtonBox.StandardButton.Save)
        self._save = buttons.button(QDialogButtonBox.StandardButton.Save)
        layout = QVBoxLayout(self)
        for part in (group, pictures):
            layout.addWidget(part)
        layout.addLayout(places)
        layout.addWidget(self.overwrite)
        layout.addWidget(self.problem)
        layout.addWidget(buttons)

        self.features.toggled.connect(self._update)
        self.format.currentIndexChanged.connect(self._update)
        self.dtype.currentIndexChanged.connect(self._update)
        self.folder_edit.textChanged.connect(self._update)
        self.name_edit.textChanged.connect(self._update)
        WheelGuard(self)
        self._update()

    def options(self) -> ExportOptions:
        """The current choices. Pictures get the colours that the window shows."""
        views = [self._settled(name) for name, box in self.pictures.items() if box.isChecked()]
        return ExportOptions(
            format=self.format.currentData(),
            dtype=self.dtype.currentData(),
            features=self.features.isChecked(),
            views=tuple(views),
            overwrite=self.overwrite.isChecked(),
            opacities=self._opacities,
        )

    def _settled(self, name: str) -> Request:
        """The request of a lens, with open choices replaced by those of its view, such as the most probable class."""
        view = self._studio.current_view(name)
        return self._studio.requests[name] if view is None else view.settled_request()

    def folder(self) -> Path:
        """The folder of the files."""
        return Path(self.folder_edit.text().strip()).expanduser()

    def stem(self) -> str:
        """The beginning of the names of the files."""
        return self.name_edit.text().strip()

    def accept(self) -> None:
        self._preferences.export_folder = str(self.folder())
        self._preferences.export_format = self.format.currentData()
        self._preferences.export_dtype = self.dtype.currentData()
        self._preferences.export_features = self.features.isChecked()
        kept = [name for name in self._preferences.export_without if name not in self.pictures]
        self._preferences.export_without = kept + [n for n, box in self.pictures.items() if not box.isChecked()]
        super().accept()

    def _update(self) -> None:
        for box in (self.format, self.dtype):
            box.setEnabled(self.features.isChecked())
        facts = self._studio.field_facts
        if facts is None or not self.features.isChecked():
            self.estimate.setText("")
        else:
            height, width = facts.size
            total = estimated_bytes(facts.channels, facts.size, self.dtype.currentData())
            self.estimate.setText(
                f"{facts.channels} channels, {width} × {height} pixels: about {human_bytes(total)}. "
                "The output size of the tool bar decides."
            )
        problem = "" if self.folder_edit.text().strip() else "Choose a folder."
        problem = problem or stem_problem(self.stem())
        try:
            self.options().check()
        except ExportError as error:
            problem = problem or str(error)
        self.problem.setText(problem)
        self._save.setEnabled(not problem)

    def _browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for the export", self.folder_edit.text())
        if folder:
            self.folder_edit.setText(folder)


def _box(name: str, entries: object, chosen: str) -> QComboBox:
    box = QComboBox()
    box.setAccessibleName(name)
    for value, title, tooltip in entries:
        box.addItem(title, value)
        if tooltip:
            box.setItemData(box.count() - 1, tooltip, 3)
    box.setCurrentIndex(max(0, box.findData(chosen)))
    return box
