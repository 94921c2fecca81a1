"""The dialog for a training: images, features, length, output file, and an estimate of time and disk."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from featup_app.backbones import list_backbones
from featup_app.base.errors import UpsamplerError
from featup_app.base.words import counted, human_bytes, human_duration
from featup_app.engine.settings import ViewSettings
from featup_app.engine.training import (
    CACHE_BUDGET,
    UNIVERSAL_BACKBONES,
    TrainingRequest,
    TrainingSurvey,
    proposed_output,
)
from featup_app.gui.opening import IMAGE_PATTERN
from featup_app.gui.wheel import WheelGuard
from featup_app.gui.widgets import (
    MoreButton,
    PlainLabel,
    button,
    dialog_buttons,
    fill_form,
    number_box,
    plain_tip,
    row_of,
)

_TYPING = 400
"""Milliseconds without a change before the images are counted."""

_LENGTHS = {"minutes": 15, "steps": 2000}
_IMAGES_TIP = (
    "Pictures of the kind you work with; they need no labels. A few dozen are enough to begin with, hundreds are better. "
    "A tenth of them is kept for measuring."
)
_FEATURES_TIP = (
    "Whose features the upsampler learns to sharpen. A universal upsampler serves every backbone; one of its own fits a "
    "backbone a little better."
)
_LENGTH_TIP = (
    "How long it trains at most; you can stop earlier and keep the best state. Minutes do not count preparation."
)
_OUTPUT_TIP = "The weights, and beside them a report (.json) and the curve (.png)"
_SEED_TIP = "Seed of the random generator: the same number gives the same training again"
_WAITING = "Looking at the images…"


class TrainingDialog(QDialog):
    """Chooses a :class:`TrainingRequest`.

    Signals:
        survey_asked(TrainingRequest): the request has changed; answer with :meth:`show_survey` or :meth:`show_problem`.

    Args:
        parent: the window.
        settings: the backbone and layer that are offered.
        folder: the folder of images that is proposed; empty for none.
    """

    survey_asked = Signal(object)

    def __init__(self, parent: QWidget, settings: ViewSettings, folder: str) -> None:
        super().__init__(parent)
        self.setWindowTitle("Train upsampler")
        self.setMinimumWidth(620)
        self._settings = settings
        self._picked: tuple[Path, ...] = ()
        self._surveyed: TrainingRequest | None = None

        self.images = QLineEdit(folder)
        self.images.setPlaceholderText("a folder of pictures")
        self.images.setAccessibleName("Images")
        self.images.setToolTip(_IMAGES_TIP)
        self.features = QComboBox()
        self.features.setAccessibleName("Features")
        self.features.setToolTip(_FEATURES_TIP)
        self.features.addItem(_features_title(settings), (settings.backbone,))
        self.features.addItem("Universal: both bundled backbones", UNIVERSAL_BACKBONES)
        self.length = number_box("Length", _LENGTH_TIP, 1, 1_000_000)
        self.unit = QComboBox()
        self.unit.setAccessibleName("Unit of the length")
        self.unit.setToolTip(_LENGTH_TIP)
        for unit in _LENGTHS:
            self.unit.addItem(unit, unit)
        self.length.setValue(_LENGTHS["minutes"])
        self.output = QLineEdit("")
        self.output.setAccessibleName("Weights")
        self.output.setToolTip(_OUTPUT_TIP)
        self.output.textChanged.connect(lambda text: self.output.setToolTip(plain_tip(f"{text}\n{_OUTPUT_TIP}")))
        self.seed = number_box("Seed", _SEED_TIP, 0, 2**31 - 1)
        for box in (self.length, self.seed):
            box.setMinimumWidth(110)
        self.estimate = PlainLabel("", objectName="muted")
        self.estimate.setWordWrap(True)
        self.problem = PlainLabel("")
        self.problem.setWordWrap(True)
        for label in (self.estimate, self.problem):  # only one of them is shown
            label.setMinimumHeight(3 * label.fontMetrics().lineSpacing() + 4)
            label.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.problem.hide()
        self._lay_out()
        self._propose_output()
        WheelGuard(self)

        self._typing = QTimer(self, singleShot=True, interval=_TYPING)
        self._typing.timeout.connect(self._ask_for_survey)
        self.images.textEdited.connect(self._forget_picked)
        self.images.textChanged.connect(self._changed)
        self.output.textChanged.connect(self._changed)
        self.features.currentIndexChanged.connect(self._propose_output)
        self.features.currentIndexChanged.connect(self._changed)
        self.unit.currentIndexChanged.connect(self._propose_length)
        self.length.valueChanged.connect(self._changed)
        self.seed.valueChanged.connect(self._changed)
        self._changed()

    def _lay_out(self) -> None:
        folder, files = button("Folder…", "Choose a folder"), button("Files…", "Choose image files")
        browse = button("Browse…", "Choose a name")
        folder.clicked.connect(self._choose_folder)
        files.clicked.connect(self._choose_files)
        browse.clicked.connect(self._choose_output)
        form = self._form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setVerticalSpacing(10)
        fill_form(
            form,
            [
                ("Images", row_of(self.images, folder, files, stretched=0), _IMAGES_TIP),
                ("Features", self.features, _FEATURES_TIP),
                ("Length", row_of(self.length, self.unit), _LENGTH_TIP),
                ("Weights", row_of(self.output, browse, stretched=0), _OUTPUT_TIP),
            ],
        )
        self.more = MoreButton("Settings that are seldom needed")
        self.more.toggled.connect(self._show_more)
        form.addRow(self.more)
        fill_form(form, [("Seed", row_of(self.seed), _SEED_TIP)])
        self._show_more(False)

        buttons = dialog_buttons(self, "Start training")
        self.start = buttons.button(QDialogButtonBox.StandardButton.Ok)
        layout = QVBoxLayout(self)
        layout.setSpacing(10)
        layout.addLayout(form)
        layout.addWidget(self.estimate)
        layout.addWidget(self.problem)
        layout.addWidget(buttons)

    def _show_more(self, shown: bool) -> None:
        self._form.setRowVisible(self._form.rowCount() - 1, shown)
        self.adjustSize()

    # -- the request --------------------------------------------------------------------------------------------------

    def request(self) -> TrainingRequest:
        """The current choices, valid or not."""
        text = self.images.text().strip()
        places = self._picked or ((Path(text).expanduser(),) if text else ())
        backbones = tuple(self.features.currentData())
        single = len(backbones) == 1
        amount = self.length.value()
        return TrainingRequest(
            places=places,
            backbones=backbones,
            output=Path(self.output.text().strip()).expanduser(),
            layer=self._settings.layer if single else None,
            weights_file=self._settings.weights_file if single else None,
            steps=amount if self.unit.currentData() == "steps" else None,
            minutes=float(amount) if self.unit.currentData() == "minutes" else None,
            seed=self.seed.value(),
        )

    def show_survey(self, survey: TrainingSurvey) -> None:
        """Show what the request takes. It can be started if the disk has enough room."""
        request = self.request()
        trained = max(1, survey.images - survey.held_out)
        pictures = counted(survey.images, "image")
        lines = [f"{pictures} found: {trained} to train on, {survey.held_out} to measure on."]
        limit = (
            f", the most that it may take ({human_bytes(CACHE_BUDGET)})" if survey.cache_bytes >= CACHE_BUDGET else ""
        )
        time, disk = human_duration(survey.feature_seconds), human_bytes(survey.cache_bytes)
        lines.append(
            f"First the features: at most {time} and {disk} of disk{limit}; they are kept for later trainings."
        )
        if request.minutes is not None:
            lines.append(
                f"Then {human_duration(60 * request.minutes)} of training, and about a tenth of that for measuring."
            )
        elif request.steps is not None:
            lines.append(f"Then {counted(request.steps, 'step')}; the time left is shown once training runs.")
        self.estimate.setText("\n".join(lines))
        if survey.free_bytes < survey.cache_bytes:
            needed, free = human_bytes(survey.cache_bytes), human_bytes(survey.free_bytes)
            self.show_problem(
                f"The features need {needed}, but only {free} are free on the disk of the cache; give fewer images, or set "
                "FEATUP_CACHE_DIR to a folder on another disk."
            )
            return
        self._surveyed = request
        self._show_problem("")

    def show_problem(self, sentence: str) -> None:
        """Show why this request cannot be started."""
        self._surveyed = None
        if self.estimate.text() == _WAITING:
            self.estimate.setText("")
        self._show_problem(sentence)

    def _show_problem(self, sentence: str) -> None:
        self.problem.setText(sentence)
        shown, hidden = (self.problem, self.estimate) if sentence else (self.estimate, self.problem)
        hidden.hide()  # first, so that the dialog does not grow for both
        shown.show()
        self.start.setEnabled(not sentence and self._surveyed == self.request())

    def _changed(self) -> None:
        """Check the request at once, and ask for a survey when the person stops typing."""
        self.start.setEnabled(False)
        self._surveyed = None
        try:
            self.request().check()
        except UpsamplerError as error:
            self._typing.stop()
            self.estimate.setText("")
            self._show_problem(str(error))
            return
        self._show_problem("")
        self.estimate.setText(_WAITING)
        self._typing.start()

    def _ask_for_survey(self) -> None:
        self.survey_asked.emit(self.request())

    # -- choosing --------------------------------------------------------------------------------------------------

    def _forget_picked(self) -> None:
        self._picked = ()

    def _choose_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of images", self._folder())
        if folder:
            self._picked = ()
            self.images.setText(folder)

    def _choose_files(self) -> None:
        files, _ = QFileDialog.getOpenFileNames(self, "Images to train on", self._folder(), IMAGE_PATTERN)
        if files:
            self._picked = tuple(Path(file) for file in files)
            count = f"{len(files)} files" if len(files) > 1 else self._picked[0].name
            self.images.setText(f"{count} in {self._picked[0].parent}")
            self._changed()

    def _choose_output(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Weights of the upsampler", self.output.text(), "Upsamplers (*.safetensors)"
        )
        if path:
            self.output.setText(path if path.lower().endswith(".safetensors") else f"{path}.safetensors")

    def _folder(self) -> str:
        return str(self._picked[0].parent) if self._picked else self.images.text().strip() or str(Path.home())

    def _propose_output(self) -> None:
        request = self.request()
        self.output.setText(str(proposed_output(request.backbones, request.layer, date.today())))
        self.output.setCursorPosition(len(self.output.text()))

    def _propose_length(self) -> None:
        self.length.setValue(_LENGTHS[self.unit.currentData()])
        self._changed()


def _features_title(settings: ViewSettings) -> str:
    known = {info.name: info for info in list_backbones()}.get(settings.backbone)
    layer = settings.layer or (known.default_layer if known else None) or "default layer"
    return f"{known.title if known else settings.backbone}, {layer}"
