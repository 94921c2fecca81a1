"""Pictures of fits: what one of them learned beside the features, and several of them side by side."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from featup_app.engine.fits import HeatPicture, LearnedPictures
from featup_app.engine.fitting import ComparedPicture
from featup_app.gui import style
from featup_app.gui.picture_box import PictureBox
from featup_app.gui.widgets import PlainLabel, number_box, plain_tip

_NO_FIT = "There is no fit yet. What it learns beside the features is shown here."
_FROM_FILE = "A fit from a file has only its features."
_WAITING = "Drawing…"
_NOTHING_TO_COMPARE = "There is no fit yet. Fits of this image are shown here beside each other."

_UNCERTAINTY_TIP = (
    "The error that the fit expects at each location: bright where the backbone's features change when the image is moved a "
    "little."
)
_SALIENCY_TIP = "Where the learned downsampler looks most when it gathers the fine features into a cell"
_KERNEL_TIP = "How much each fine feature counts when they are gathered into one cell"
_VIEW_TIP = "A held-out view: the image as the backbone saw it, moved, zoomed or mirrored. It took no part in the fit."
_RESIDUAL_TIP = "The error that is left at each cell of this view, in the same colours for all views"


class LearnedView(QWidget):
    """Uncertainty, kernel and saliency of a fit, and the error that is left in each held-out view.

    A picture of something that the recipe does not learn is hidden, such as the downsampler if it is a plain average.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pictures: LearnedPictures | None = None
        self.message = PlainLabel(_NO_FIT, objectName="muted")
        self.message.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.uncertainty = PictureBox("Uncertainty", _UNCERTAINTY_TIP)
        self.kernel = PictureBox("Downsampler", _KERNEL_TIP)
        self.saliency = PictureBox("Saliency", _SALIENCY_TIP, smooth=True)
        self.view = PictureBox("View", _VIEW_TIP, smooth=True)
        self.residual = PictureBox("Error left", _RESIDUAL_TIP)
        self.number = number_box("Held-out view", f"Choose a view. {_VIEW_TIP}", 1, 1)
        self.number.setPrefix("View ")
        self.number.setWrapping(True)
        self.number.valueChanged.connect(self._show_view)
        views = QVBoxLayout()
        views.setSpacing(2)
        pair = QHBoxLayout()
        pair.addWidget(self.view)
        pair.addWidget(self.residual)
        views.addLayout(pair, 1)
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(self.number)
        row.addStretch(1)
        views.addLayout(row)
        self._all = QWidget()
        pictures = QHBoxLayout(self._all)
        pictures.setContentsMargins(0, 0, 0, 0)
        pictures.setSpacing(style.SPACING)
        for box in (self.uncertainty, self.kernel, self.saliency):
            pictures.addWidget(box, 1)
        pictures.addLayout(views, 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 8, 4, 0)
        layout.addWidget(self.message, 1)
        layout.addWidget(self._all, 1)
        self.clear()

    @property
    def fit(self) -> int | None:
        """The number of the fit that is shown."""
        return None if self._pictures is None else self._pictures.number

    def clear(self, *, waiting: bool = False, from_file: bool = False) -> None:
        """Show no pictures: there is no fit, it is being drawn, or its file does not contain them."""
        self._pictures = None
        self.message.setText(_WAITING if waiting else _FROM_FILE if from_file else _NO_FIT)
        self.message.show()
        self._all.hide()

    def show_pictures(self, pictures: LearnedPictures) -> None:
        """What a fit learned."""
        another = self.fit != pictures.number
        self._pictures = pictures
        self.message.hide()
        self._all.show()
        for box, picture, title in (
            (self.uncertainty, pictures.uncertainty, "Uncertainty"),
            (self.kernel, pictures.kernel, "Downsampler"),
            (self.saliency, pictures.saliency, "Saliency"),
        ):
            learned = picture is not None and not bool((picture.pixels == picture.pixels[0, 0]).all())
            box.setVisible(learned)
            if picture is not None:
                box.show_picture(picture.pixels, f"{title} {_range(picture)}")
        self.number.setRange(1, max(1, len(pictures.views)))
        self.number.setSuffix(f" of {len(pictures.views)}")
        if another:
            self.number.setValue(1)
        self._show_view()

    def _show_view(self) -> None:
        if self._pictures is None or not self._pictures.views:
            return
        view, residual = self._pictures.views[self.number.value() - 1]
        self.view.show_picture(view)
        self.residual.show_picture(residual.pixels, f"Error left {_range(residual)}")


class FitComparison(QScrollArea):
    """Methods and fits beside each other, in the same PCA colours.

    Signals:
        chosen(number): a click on the picture of a fit.
    """

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.boxes: list[PictureBox] = []
        self._pictures: tuple[ComparedPicture, ...] = ()
        self.clear()

    def clear(self, *, waiting: bool = False) -> None:
        """Nothing to compare, or not yet."""
        self._pictures, self.boxes = (), []
        label = PlainLabel(_WAITING if waiting else _NOTHING_TO_COMPARE, objectName="muted")
        label.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setWidget(label)

    def show_pictures(self, pictures: Sequence[ComparedPicture], chosen: int | None) -> None:
        """Show them from left to right; the chosen fit is framed."""
        self._pictures = tuple(pictures)
        self.boxes = []
        page = QWidget()
        row = QHBoxLayout(page)
        row.setContentsMargins(4, 8, 4, 0)
        for picture in pictures:
            error = "" if picture.held_out is None else f" · {picture.held_out:.3f}"
            tip = "Held-out error after the name; lower is better."
            box = PictureBox(
                tip=plain_tip(f"{picture.title}. {tip}" + (" Click to choose this fit." if picture.fit else "")),
                smooth=True,
            )
            box.show_picture(picture.pixels, f"{picture.title}{error}")
            box.mark(picture.fit is not None and picture.fit == chosen)
            if picture.fit is not None:
                box.clicked.connect(lambda number=picture.fit: self.chosen.emit(number))
            row.addWidget(box)
            self.boxes.append(box)
        self.setWidget(page)

    def mark(self, chosen: int | None) -> None:
        """Frame another fit."""
        for box, picture in zip(self.boxes, self._pictures, strict=True):
            box.mark(picture.fit is not None and picture.fit == chosen)


def _range(picture: HeatPicture) -> str:
    low, high = picture.limits
    return f"{low:.2g} – {high:.2g}".replace("-", "−")
