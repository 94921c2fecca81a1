"""The fits of a window: which there are, which is under way, and which is shown for which features. No Qt, no torch."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass

from featup_app.base.words import percent_below
from featup_app.engine.fits import FitReport, FitRequest, next_number
from featup_app.engine.settings import ViewSettings
from featup_app.images import Image

FITS_KEPT = 8
"""Fits in memory, of all images; beyond that the oldest are given up."""

FEATURE_SETTINGS = ("backbone", "weights_file", "layer", "input_size")
"""Names of the settings that decide the features of an image."""


@dataclass
class FitRecord:
    """A fit of an image.

    Attributes:
        number: by which the session knows it.
        image, settings: what it was fitted to.
        request: recipe and seed; None if it was read from a file.
        title: what it is called.
        report: its latest state; None while it is prepared.
        saved: whether a file holds it.
        behind: whether it runs behind what is shown, unasked.
    """

    number: int
    image: Image
    settings: ViewSettings
    request: FitRequest | None
    title: str
    report: FitReport | None = None
    saved: bool = False
    behind: bool = False

    @property
    def key(self) -> Hashable:
        """Equal for fits of the same features."""
        return features_key(self.image, self.settings)

    @property
    def usable(self) -> bool:
        """Whether it has features to show."""
        report = self.report
        return report is not None and (report.state is None or report.held_out is not None)

    @property
    def showable(self) -> bool:
        """Whether there is something to show: features, or the base field that they are going to be added to."""
        return self.usable or (self.report is not None and self.report.based)

    @property
    def unsaved_seconds(self) -> float:
        """Seconds of fitting that would be lost with it."""
        state = self.report.state if self.report is not None else None
        return 0.0 if self.saved or state is None else state.seconds

    def settings_to_show(self, settings: ViewSettings) -> ViewSettings:
        """Other settings, with the features and the method that this fit belongs to."""
        fitted_to = {name: getattr(self.settings, name) for name in FEATURE_SETTINGS}
        return settings.with_(method=self.settings.method, **fitted_to)

    def ended_sentence(self) -> str:
        """The message when it ended while something else was shown."""
        report = self.report
        if report is None or report.state is None or report.held_out is None:
            return f"The fit “{self.title}” has ended."
        gain = percent_below(report.held_out, report.state.bilinear)
        return f"The fit “{self.title}” has ended: held-out error {report.held_out:.3f}, {gain} than bilinear."

    def entry(self, settings: ViewSettings) -> tuple[int, str, str]:
        """Number, title and tooltip in a list; the title names the backbone, if that is not the one of the settings."""
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
    """Equal for settings with the same features of an image."""
    return image.sha256, *(getattr(settings, name) for name in FEATURE_SETTINGS)


class FitBook:
    """Records of all fits of a window.

    Attributes:
        running: the fit that is under way, perhaps paused.
        paused: whether it waits.
        continued: whether it had ended before and was continued; then it is stopped, and not discarded.
    """

    def __init__(self) -> None:
        self._records: dict[int, FitRecord] = {}
        self._shown: dict[Hashable, int] = {}
        self.running: FitRecord | None = None
        self.paused = False
        self.continued = False

    def find(self, number: int | None) -> FitRecord | None:
        """The fit of a number, if it is still kept."""
        return self._records.get(number or 0)

    def add(self, image: Image, settings: ViewSettings, request: FitRequest | None, title: str) -> FitRecord:
        """A new fit; one without a request is read from a file."""
        record = FitRecord(next_number(), image, settings, request, title, saved=request is None)
        self._records[record.number] = record
        return record

    def remove(self, record: FitRecord) -> None:
        """Forget a fit."""
        self._records.pop(record.number, None)
        self._shown = {key: number for key, number in self._shown.items() if number != record.number}
        if self.running is record:
            self.running = None

    def run(self, record: FitRecord, *, continued: bool = False) -> None:
        """A fit is under way now."""
        self.running, self.paused, self.continued = record, False, continued

    def surplus(self, needed: Collection[int | None]) -> list[FitRecord]:
        """The oldest fits beyond :data:`FITS_KEPT`, but for the one under way and those of the numbers that are needed."""
        spare = [
            record for record in self._records.values() if record is not self.running and record.number not in needed
        ]
        return spare[: max(0, len(self._records) - FITS_KEPT)]

    def show(self, record: FitRecord) -> None:
        """A fit is the one to show wherever the features are those that it was fitted to."""
        self._shown[record.key] = record.number

    def to_show(self, image: Image, settings: ViewSettings) -> FitRecord | None:
        """The fit that was last shown for these features, if it has something to show."""
        record = self.find(self._shown.get(features_key(image, settings)))
        return record if record is not None and record.showable else None

    def of_image(self, image: Image | None) -> list[FitRecord]:
        """The fits of an image, the oldest first."""
        if image is None:
            return []
        return [record for record in self._records.values() if record.image.sha256 == image.sha256]

    def alike(self, image: Image | None, settings: ViewSettings) -> list[FitRecord]:
        """The usable fits of the same features, the oldest first."""
        return [
            record
            for record in self.of_image(image)
            if record.usable and image is not None and record.key == features_key(image, settings)
        ]

    def unsaved(self, least_seconds: float) -> list[FitRecord]:
        """The fits that took longer and would be lost with the window, the oldest first."""
        return [record for record in self._records.values() if record.unsaved_seconds > least_seconds]
