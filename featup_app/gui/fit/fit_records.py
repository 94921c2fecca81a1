"""What the window knows of its fits, and how they are told of."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtWidgets import QFileDialog, QMessageBox, QWidget

from featup_app.engine.fitting import FitPlan, FitReport
from featup_app.engine.views import ViewSettings
from featup_app.gui.figures import percent_below
from featup_app.images import Image

FEATURE_SETTINGS = ("backbone", "weights_file", "layer", "input_size")
"""Names of the settings that decide the features of an image."""

_LONG_SECONDS = 60.0
"""Of fitting, which one would not want to lose with the window."""

FIT_PATTERN = "Fits (*.safetensors);;All files (*)"


@dataclass
class FitRecord:
    """A fit of an image.

    Attributes:
        number: by which the session knows it.
        image, settings: what it was fitted to.
        plan: recipe and seed; None if it was read from a file.
        title: what it is called.
        report: how it stands; None while it is prepared.
        saved: whether a file holds it.
    """

    number: int
    image: Image
    settings: ViewSettings
    plan: FitPlan | None
    title: str
    report: FitReport | None = None
    saved: bool = False

    @property
    def key(self) -> Hashable:
        """What decides the features that it was fitted to."""
        return features_key(self.image, self.settings)

    @property
    def usable(self) -> bool:
        """Whether it has features to show."""
        report = self.report
        return report is not None and (report.state is None or report.held_out is not None)

    @property
    def seconds(self) -> float:
        """Of fitting that would be lost with it."""
        state = self.report.state if self.report is not None else None
        return 0.0 if self.saved or state is None else state.seconds

    def ended_sentence(self) -> str:
        """What is told of a fit that ended while something else was looked at."""
        report = self.report
        if report is None or report.state is None or report.held_out is None:
            return f"The fit “{self.title}” has ended."
        gain = percent_below(report.held_out, report.state.bilinear)
        return f"The fit “{self.title}” has ended: held-out error {report.held_out:.3f}, {gain} than bilinear."

    def entry(self, settings: ViewSettings) -> tuple[int, str, str]:
        """Number, title and tooltip in a list; the title says of which features it is, if not of those of the settings."""
        report = self.report
        error = report.held_out if report is not None else None
        title = self.title if error is None else f"{self.title} · {error:.4f}"
        if self.key != features_key(self.image, settings):
            title = f"{title} · {self.settings.backbone}"
        lines = [self.title, f"Backbone: {self.settings.backbone}"]
        lines += [f"{name}: {value}" for name, value in (report.details if report is not None else ())]
        lines += [] if error is None else [f"Held-out error: {error:.4f}"]
        return self.number, title, "\n".join(lines)


def features_key(image: Image, settings: ViewSettings) -> Hashable:
    """What decides the features that a fit is made for."""
    return image.sha256, *(getattr(settings, name) for name in FEATURE_SETTINGS)


def may_lose(parent: QWidget, records: Iterable[FitRecord]) -> bool:
    """Whether fits may go with the window; asks if more than a minute of work would be lost."""
    if max((record.seconds for record in records), default=0.0) < _LONG_SECONDS:
        return True
    question = "Fits that are not saved are lost when the window closes. Close it?"
    return QMessageBox.question(parent, "Fit", question) == QMessageBox.StandardButton.Yes


def ask_where_to_save(parent: QWidget, image: Image) -> Path | None:
    """The dialog for saving a fit of an image; None if it is left without a choice."""
    proposed = (image.own_folder or Path.home()) / f"{Path(image.name).stem}-implicit.safetensors"
    path, _ = QFileDialog.getSaveFileName(parent, "Save fit", str(proposed), FIT_PATTERN)
    if not path:
        return None
    return Path(path if path.lower().endswith(".safetensors") else f"{path}.safetensors")


def ask_which_to_open(parent: QWidget, image: Image) -> Path | None:
    """The dialog for opening a fit of an image; None if it is left without a choice."""
    path, _ = QFileDialog.getOpenFileName(parent, "Open fit", str(image.own_folder or Path.home()), FIT_PATTERN)
    return Path(path) if path else None
