"""The linked views of an image side by side, or one of them alone."""

from __future__ import annotations

import math

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QGridLayout

from featup_app.gui import style
from featup_app.gui.views.file_bar import FileBar
from featup_app.gui.views.footers import LegendBar
from featup_app.gui.views.image_view import ImageView
from featup_app.gui.views.linked_views import LinkedViews
from featup_app.gui.widgets import plain_tip
from featup_app.images import Image
from featup_app.lenses import LENSES

IMAGE = "image"
"""Name of the view of the image itself, beside those of the lenses."""


class ViewGrid(LinkedViews):
    """The image and what each lens shows of it.

    Attributes:
        views: by the name of their lens, after that of the image itself.

    Signals, beside those of all linked views: ``picked(name)``.
    """

    picked = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.file_bar = FileBar()
        self.link(
            {
                IMAGE: ImageView("Image", tooltip="The original picture", with_lens=False, footer=self.file_bar),
                **{
                    name: ImageView(lens.title, tooltip=lens.tooltip, footer=LegendBar())
                    for name, lens in LENSES.items()
                },
            }
        )
        self._alone: str | None = None
        self._columns = math.ceil(math.sqrt(len(self.views)))
        layout = QGridLayout(self)
        layout.setContentsMargins(style.SPACING, style.SPACING, style.SPACING, style.SPACING)
        layout.setSpacing(style.SPACING)
        for index, (name, view) in enumerate(self.views.items()):
            row, column = divmod(index, self._columns)
            layout.addWidget(view, row, column)
            layout.setRowStretch(row, 1)
            layout.setColumnStretch(column, 1)
            view.maximise_asked.connect(lambda name=name: self.toggle_alone(name))
            view.picked.connect(lambda name=name: self.picked.emit(name))

    def show_image(self, image: Image) -> None:
        super().show_image(image)
        self.file_bar.show_image(image)
        self.views[IMAGE].subtitle.setText(image.name)
        self.views[IMAGE].subtitle.setToolTip(plain_tip(str(image.path or image.name)))

    @property
    def alone(self) -> str | None:
        """The view that is shown alone, if one is."""
        return self._alone

    def toggle_alone(self, name: str) -> None:
        """Show one view alone, or all of them again."""
        self._alone = None if self._alone == name else name
        for other, view in self.views.items():
            view.setVisible(self._alone in (None, other))
            view.maximise.setIcon(style.icon("maximise" if self._alone is None else "restore", style.MUTED))
        layout = self.layout()
        assert isinstance(layout, QGridLayout)
        shown = [divmod(index, self._columns) for index, name in enumerate(self.views) if self._alone in (None, name)]
        for row in range(layout.rowCount()):
            layout.setRowStretch(row, int(any(row == other for other, _ in shown)))
        for column in range(layout.columnCount()):
            layout.setColumnStretch(column, int(any(column == other for _, other in shown)))
        self._arrange()
        if self._alone is not None:
            self.views[self._alone].setFocus()

    def opacities(self) -> dict[str, float]:
        """Of the lenses' pictures over the image, by the name of their lens."""
        return {name: self.views[name].shown_opacity for name in LENSES}

    def focused(self) -> str:
        """Name of the view that has the keyboard, else of the one alone, else of the first lens."""
        for name, view in self.views.items():
            if view.hasFocus():
                return name
        return self._alone or next(iter(LENSES))
