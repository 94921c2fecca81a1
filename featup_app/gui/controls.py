"""The boxes of the tool bar: backbone, layer, input size, method, weights and output size."""

from __future__ import annotations

from html import escape
from pathlib import Path

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtGui import QStandardItem, QStandardItemModel
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLineEdit, QSizePolicy, QVBoxLayout, QWidget

from featup_app.backbones import BackboneInfo
from featup_app.engine.settings import BackboneFacts, UpsamplerFacts, ViewSettings
from featup_app.fields import CLASSICAL, METHODS, find_method
from featup_app.gui import style
from featup_app.gui.widgets import ElidedComboBox, PlainLabel, plain_tip

INPUT_SIZES = ("224", "336", "448", "560", "672", "image")
OUTPUT_SIZES = ("grid", "2x", "4x", "8x", "16x", "32x", "image")
_OUTPUT_TITLES = {"grid": "feature grid", "image": "image size"}
_STATUS_TITLES = {"bundled": "bundled", "cached": "on this computer", "download": "needs a download"}
OTHER_MODEL = "\0other"
LOAD_UPSAMPLER = "\0load"

_BACKBONE_TIP = (
    "The pretrained model that computes the features. Bundled ones work offline; others are downloaded once."
)
_LAYER_TIP = (
    "Which depth of the backbone the features come from: early ones respond to edges and texture, late ones to objects."
)
_INPUT_TIP = (
    "Size of the image for the backbone (shorter side, or HEIGHTxWIDTH). Larger gives a finer feature grid and "
    "takes longer."
)
_FIXED_TIP = "This model accepts one input size only: the whole image is resized to it."
_LONGEST_TITLE = 24
"""Characters of the name of weights that fit into the tool bar; the tooltip shows the whole name."""

_WEIGHTS_TIP = "The weights of FeatUp JBU: those that come with the program, an untrained filter, or your own file."
_CLASSICAL_TIP = "The classical joint bilateral filter: nothing is trained"
_LOAD_TIP = "An upsampler that you trained, or a published FeatUp checkpoint. No code in the file is executed."
_OUTPUT_TIP = (
    "Size of the upsampled features: a multiple of the feature grid (16x), the image size, the shorter side (1024), or "
    "HEIGHTxWIDTH."
)


class Controls(QWidget):
    """Chooses :class:`ViewSettings`.

    Signals:
        chosen(ViewSettings): the person chose other settings.
        other_model_asked(), upsampler_asked(): the person asks for a dialog.
        upsampler_dropped(sentence): the weights do not suit the newly chosen backbone or layer, and the built-in ones are used.
    """

    chosen = Signal(object)
    other_model_asked = Signal()
    upsampler_asked = Signal()
    upsampler_dropped = Signal(str)

    def __init__(self, settings: ViewSettings, catalogue: list[BackboneInfo]) -> None:
        super().__init__()
        self._settings = settings
        self._catalogue = catalogue
        self._statuses = {info.name: "bundled" for info in catalogue if info.bundled}
        self._upsampler: UpsamplerFacts | None = None
        self._files: dict[str, tuple[str, str]] = {}  # backbone and weights file of the entries that have one

        self.backbone = _box("Backbone", _BACKBONE_TIP, widths=(90, 130, 380))
        self.layer = _box("Layer", _LAYER_TIP, widths=(96, 144, 260))
        self.input = _box("Input", _INPUT_TIP, widths=(102, 108, 160), editable=True)
        self.method = _box("Method", "How the coarse features are upsampled to the output size.", widths=(90, 136, 260))
        self.weights = _box("Weights", _WEIGHTS_TIP, widths=(90, 175, 300))
        self.weights.view().setMinimumWidth(260)
        self.output = _box("Output", _OUTPUT_TIP, widths=(84, 100, 160), editable=True)

        for method in METHODS:
            self.method.addItem(method.title, method.name)
            self.method.setItemData(self.method.count() - 1, method.description, Qt.ItemDataRole.ToolTipRole)
        self.input.addItem("auto", "")
        for size in INPUT_SIZES:
            self.input.addItem("image size" if size == "image" else size, size)
        for size in OUTPUT_SIZES:
            self.output.addItem(_OUTPUT_TITLES.get(size, size), size)

        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(style.SPACING)
        for box in (self.backbone, self.layer, self.input, self.method, self.weights, self.output):
            label = PlainLabel(box.accessibleName(), objectName="caption")
            label.setToolTip(box.toolTip())
            label.setBuddy(box)
            titled = QWidget()
            column = QVBoxLayout(titled)
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(2)
            column.addWidget(label)
            column.addWidget(box)
            layout.addWidget(titled, int(box is self.backbone))  # it has the longest titles, and gets what is left over
            if box is self.weights:
                self._titled_weights = titled

        self._fill_backbones()
        self.show_settings(settings)
        for box in (self.layer, self.method, self.input, self.output):
            box.activated.connect(self._choose)
        self.backbone.activated.connect(self._backbone_activated)
        self.weights.activated.connect(self._weights_activated)

    # -- shown -----------------------------------------------------------------------------------------------------

    def show_settings(self, settings: ViewSettings) -> None:
        """Set every box to these settings, without emitting a signal."""
        if (settings.backbone, settings.weights_file) != (self._settings.backbone, self._settings.weights_file):
            self._set_layers(())
        self._settings = settings
        if self.layer.count() == 0:
            self._set_layers(())
        entry = _entry_of(settings)
        if self.backbone.findData(entry) < 0:
            self._add_backbone(entry, settings)
        _select(self.backbone, entry)
        _select(self.layer, settings.layer or "")
        _select(self.input, settings.input_size or "")
        _select(self.method, settings.method)
        _select(self.output, settings.output_size)
        self._show_weights()

    def show_upsampler(self, facts: UpsamplerFacts | None) -> None:
        """Show which weights joint bilateral upsampling used; the Facts tab shows those of other methods."""
        if facts is not None and facts.method == "jbu":
            self._upsampler = facts
        self._show_weights()

    def _show_weights(self) -> None:
        """Fill the box of weights. The entry of the weights in use shows their title and details."""
        file, facts = self._settings.upsampler_file, self._upsampler
        entries = [("built-in", "", _WEIGHTS_TIP), ("classical", CLASSICAL, _CLASSICAL_TIP)]
        if file is not None:
            known = facts if facts is not None and dict(facts.details).get("File") == file else None
            entries.append(
                (known.title, file, _upsampler_tip(known)) if known else (Path(file).stem, file, plain_tip(file))
            )
        elif self._settings.upsampler is None and facts is not None and facts.kind != "file":
            title = {"bundled": "for backbone"}.get(facts.kind, str(facts.kind))
            entries[0] = (f"built-in ({title})", "", _upsampler_tip(facts))
        entries.append(("Load file…", LOAD_UPSAMPLER, _LOAD_TIP))
        usable = find_method(self._settings.method).takes_weights
        with QSignalBlocker(self.weights):
            self.weights.clear()
            for title, data, tip in entries:
                self.weights.addItem(title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…", data)
                self.weights.setItemData(self.weights.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        _select(self.weights, self._settings.upsampler or "")
        self.weights.setToolTip(self.weights.currentData(Qt.ItemDataRole.ToolTipRole))
        self._titled_weights.setVisible(usable)

    def show_backbone(self, facts: BackboneFacts) -> None:
        """Offer the layers of the backbone that was loaded."""
        if facts.name != self._settings.backbone:
            return
        self._set_layers(facts.layers, facts.default_layer)
        self.input.setItemText(0, f"auto ({facts.default_size})")
        self.input.setEnabled(not facts.fixed_size)
        self.input.setToolTip(_FIXED_TIP if facts.fixed_size else _INPUT_TIP)
        _select(self.layer, self._settings.layer or "")
        _select(self.input, self._settings.input_size or "")
        self._statuses.setdefault(facts.name, "cached")

    def show_statuses(self, statuses: dict[str, str]) -> None:
        """Say of each backbone whether it is bundled, on this computer, or needs a download."""
        self._statuses.update(statuses)
        self._fill_backbones()
        self.show_settings(self._settings)

    def _set_layers(self, layers: tuple[tuple[str, str], ...], default: str = "") -> None:
        with QSignalBlocker(self.layer):
            self.layer.clear()
            self.layer.addItem(f"{default} (default)" if default else "default", "")
            for name, title in layers:
                if name != default:
                    self.layer.addItem(title, name)

    def _fill_backbones(self) -> None:
        model = QStandardItemModel(self.backbone)
        family = ""
        for info in self._catalogue:
            if info.family != family:
                family = info.family
                heading = QStandardItem(family)
                heading.setFlags(Qt.ItemFlag.NoItemFlags)
                model.appendRow(heading)
            status = _STATUS_TITLES.get(self._statuses.get(info.name, ""), "")
            item = QStandardItem(info.title if info.bundled or not status else f"{info.title} · {status}")
            item.setData(info.name, Qt.ItemDataRole.UserRole)
            item.setToolTip(
                f"{info.description}\n{info.name} · licence: {info.licence}" + (f" · {status}" if status else "")
            )
            model.appendRow(item)
        other = QStandardItem("Other model or file…")
        other.setData(OTHER_MODEL, Qt.ItemDataRole.UserRole)
        other.setToolTip("Any model name of timm, or a checkpoint on this computer")
        model.appendRow(other)
        with QSignalBlocker(self.backbone):
            self.backbone.setModel(model)
            self.backbone.view().setMinimumWidth(430)

    def _add_backbone(self, entry: str, settings: ViewSettings) -> None:
        """A model that is not in the catalogue, or one of it with the weights of a file."""
        file = settings.weights_file
        item = QStandardItem(settings.backbone if file is None else f"{Path(file).name} ({settings.backbone})")
        if file is not None:
            self._files[entry] = settings.backbone, file
            item.setToolTip(plain_tip(f"{settings.backbone} with the weights of {file}"))
        item.setData(entry, Qt.ItemDataRole.UserRole)
        model = self.backbone.model()
        assert isinstance(model, QStandardItemModel)
        model.insertRow(model.rowCount() - 1, item)

    # -- chosen ----------------------------------------------------------------------------------------------------

    def _backbone_activated(self) -> None:
        if self.backbone.currentData() == OTHER_MODEL:
            _select(self.backbone, _entry_of(self._settings))
            self.other_model_asked.emit()
        elif self.backbone.currentData() != _entry_of(self._settings):
            name, file = self._files.get(self.backbone.currentData(), (self.backbone.currentData(), None))
            settings = self._settings.with_(backbone=name, layer=None, input_size=None, weights_file=file)
            self.choose_backbone(settings)

    def choose_backbone(self, settings: ViewSettings) -> None:
        """Choose another backbone or layer. Weights that were trained for the former one are replaced by the built-in ones."""
        facts = self._upsampler
        universal = facts is not None and facts.kind == "file" and facts.universal
        if settings.upsampler_file is None or universal:
            self.chosen.emit(settings)
            return
        name = facts.title if facts is not None and facts.kind == "file" else Path(settings.upsampler_file).stem
        self.chosen.emit(settings.with_(upsampler=None))
        self.upsampler_dropped.emit(
            f"The upsampler “{name}” was trained for the features that were shown before; the built-in one is used now."
        )

    def _weights_activated(self) -> None:
        choice = self.weights.currentData()
        _select(self.weights, self._settings.upsampler or "")
        if choice == LOAD_UPSAMPLER:
            self.upsampler_asked.emit()
        elif (choice or None) != self._settings.upsampler:
            self.chosen.emit(self._settings.with_(upsampler=choice or None))

    def _choose(self) -> None:
        settings = self._settings.with_(
            layer=self.layer.currentData() or None,
            input_size=_typed(self.input) or None,
            method=self.method.currentData(),
            output_size=_typed(self.output) or "16x",
        )
        if settings.layer != self._settings.layer:
            self.choose_backbone(settings)
        elif settings != self._settings:
            self.chosen.emit(settings)

    def commit_typed(self) -> None:
        """Apply sizes that were typed but not confirmed with Return."""
        self._choose()


def _box(name: str, tooltip: str, *, widths: tuple[int, int, int], editable: bool = False) -> QComboBox:
    """A box with its least, usual and largest width."""
    box = ElidedComboBox(usual_width=widths[1])
    box.setAccessibleName(name)
    box.setToolTip(tooltip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(6)
    box.setMinimumWidth(widths[0])
    box.setMaximumWidth(widths[2])
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    box.setEditable(editable)
    box.setMaxVisibleItems(24)
    if editable:
        box.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        edit = box.lineEdit()
        assert isinstance(edit, QLineEdit)
        edit.setCompleter(None)  # type: ignore[arg-type]  # Qt takes None to mean no completion
        edit.returnPressed.connect(lambda: box.activated.emit(box.currentIndex()))
    return box


def _upsampler_tip(facts: UpsamplerFacts) -> str:
    rows = "".join(
        f"<tr><td style='padding-right:10px'>{escape(name)}</td><td>{escape(value)}</td></tr>"
        for name, value in facts.details
    )
    return f"<b>{escape(facts.title)}</b><table>{rows}</table>"


def _entry_of(settings: ViewSettings) -> str:
    """The data of the entry of a backbone: its name, with the file if its weights come from one."""
    return settings.backbone if settings.weights_file is None else f"{settings.backbone}@{settings.weights_file}"


def _select(box: QComboBox, data: str) -> None:
    with QSignalBlocker(box):
        index = box.findData(data)
        box.setCurrentIndex(index)
        edit = box.lineEdit()
        if edit is not None:
            if index < 0:
                edit.setText(data)
            edit.setCursorPosition(0)


def _typed(box: QComboBox) -> str:
    """The data of the entry whose text is shown, or what was typed."""
    text = box.currentText().strip()
    index = box.findText(text)
    return str(box.itemData(index)) if index >= 0 else text
