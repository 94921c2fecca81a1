"""The four linked views side by side, or one of them alone."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QGridLayout, QLabel, QWidget

from featup_app.features import Point, Size
from featup_app.gui import style
from featup_app.gui.views.footers import ColorBar, ComponentBar
from featup_app.gui.views.image_view import Panel
from featup_app.images import Image, resized

DISPLAYED_SIDE = 4096
"""A longer image is shown reduced: no screen shows more, and a hundred megapixels make every zoom slow."""


class ViewGrid(QWidget):
    """Image, PCA, similarity and CAM, zooming and panning together, with one crosshair.

    Signals: ``hovered((x, y) or None)``, ``clicked((x, y))``, ``moved(columns, rows)``, ``picked(name)``.
    """

    hovered = Signal(object)
    clicked = Signal(object)
    moved = Signal(int, int)
    picked = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.image_footer = QLabel("", objectName="muted")
        self.component_bar = ComponentBar()
        self.similarity_bar = ColorBar("Cosine similarity to the query pixel")
        self.cam_bar = ColorBar("Evidence for the class; negative evidence has the lowest colour")
        self.panels: dict[str, Panel] = {
            "image": Panel("Image", tooltip="The original picture", with_lens=False, footer=self.image_footer),
            "pca": Panel(
                "PCA", tooltip="Three principal components of the features as colours: alike colours, alike features",
                footer=self.component_bar,
            ),
            "similarity": Panel(
                "Similarity", tooltip="How alike each pixel's feature is to that of the query pixel (cosine)",
                footer=self.similarity_bar,
            ),
            "cam": Panel(
                "CAM", tooltip="Class activation map: where in the image a class finds its evidence", footer=self.cam_bar
            ),
        }  # fmt: skip
        self._alone: str | None = None
        self._image_hw: Size = (1, 1)
        self._look: tuple[Point, float] | None = (
            None  # middle and scale; None shows the whole image, whatever the window
        )
        layout = QGridLayout(self)
        layout.setContentsMargins(style.SPACING, style.SPACING, style.SPACING, style.SPACING)
        layout.setSpacing(style.SPACING)
        for index, (name, panel) in enumerate(self.panels.items()):
            layout.addWidget(panel, index // 2, index % 2)
            layout.setRowStretch(index // 2, 1)
            layout.setColumnStretch(index % 2, 1)
            panel.looked.connect(lambda x, y, scale: self._look_at((x, y), scale))
            panel.resized.connect(self._arrange)
            panel.hovered.connect(lambda x, y: self._hover((x, y)))
            panel.left.connect(lambda: self._hover(None))
            panel.clicked.connect(lambda x, y: self.clicked.emit((x, y)))
            panel.moved.connect(self.moved)
            panel.maximise_asked.connect(lambda name=name: self.toggle_alone(name))
            panel.picked.connect(lambda name=name: self.picked.emit(name))

    def show_image(self, image: Image) -> None:
        """Show another image everywhere; the lenses' pictures of the former one go."""
        shrink = min(1.0, DISPLAYED_SIDE / max(image.size_hw))
        pixels = resized(
            image.pixels, (max(1, round(image.size_hw[0] * shrink)), max(1, round(image.size_hw[1] * shrink)))
        )
        for panel in self.panels.values():
            panel.show_image(pixels, image.size_hw)
            panel.show_crosshair(None)
        height, width = self._image_hw = image.size_hw
        self.fit()
        self.image_footer.setText(f"{width} × {height} px · {image.mode}")
        self.image_footer.setToolTip(
            "\n".join(image.notes) or "Width and height of the original, and what its file holds"
        )
        self.panels["image"].subtitle.setText(image.name)
        self.panels["image"].subtitle.setToolTip(str(image.path or image.name))

    def show_query(self, point: Point) -> None:
        """Mark the query pixel in every view."""
        for panel in self.panels.values():
            panel.show_query(point)

    def _hover(self, point: Point | None) -> None:
        for panel in self.panels.values():
            panel.show_crosshair(point)
        self.hovered.emit(point)

    @property
    def alone(self) -> str | None:
        """The view that is shown alone, if one is."""
        return self._alone

    def toggle_alone(self, name: str) -> None:
        """Show one view alone, or all four again."""
        self._alone = None if self._alone == name else name
        for other, panel in self.panels.items():
            panel.setVisible(self._alone in (None, other))
            panel.maximise.setIcon(style.icon("maximise" if self._alone is None else "restore", style.MUTED))
        layout = self.layout()
        assert isinstance(layout, QGridLayout)
        for index, other in enumerate(self.panels):
            shown = int(self._alone in (None, other))
            layout.setRowStretch(index // 2, shown or layout.rowStretch(index // 2) * (index % 2))
            layout.setColumnStretch(index % 2, shown or layout.columnStretch(index % 2) * (index // 2))
        self._arrange()
        if self._alone is not None:
            self.panels[self._alone].setFocus()

    def fit(self) -> None:
        """Show the whole image in all views, also when their size changes."""
        self._look = None
        self._arrange()

    def zoom(self, factor: float) -> None:
        """Enlarge all views around their middle."""
        middle, scale = self._seen()
        self._look_at(middle, scale * factor)

    def _look_at(self, middle: Point, scale: float) -> None:
        self._look = middle, scale
        self._arrange()

    def _seen(self) -> tuple[Point, float]:
        """Middle and scale that all views show."""
        if self._look is not None:
            return self._look
        height, width = self._image_hw
        shown = [panel for panel in self.panels.values() if not panel.isHidden()]
        return (width / 2, height / 2), min(panel.fitting_scale() for panel in shown)

    def _arrange(self) -> None:
        """Give every view the same middle and scale, so that the same image point lies at the same place in each."""
        middle, scale = self._seen()
        for panel in self.panels.values():
            if not panel.isHidden():
                panel.look_at(middle, scale)

    def focused(self) -> str:
        """Name of the view that has the keyboard, else of the one alone, else the PCA."""
        for name, panel in self.panels.items():
            if panel.hasFocus():
                return name
        return self._alone or "pca"
