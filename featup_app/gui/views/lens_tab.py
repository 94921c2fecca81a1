"""The tab of a lens: its settings, and what it found."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QLabel

from featup_app.gui.widgets import PlainLabel, ScrolledPage
from featup_app.images import Image
from featup_app.lenses import COLORMAPS, LensView, Request
from featup_app.lenses.registry import AnyLens


class LensTab(ScrolledPage):
    """The tab of a lens without settings; those of lenses with settings of their own build on it.

    Args:
        lens: whose tab it is.

    Signals:
        asked(Request): the person changed the request of this lens.
        query_chosen((x, y)): the person chose another query pixel.
    """

    asked = Signal(object)
    query_chosen = Signal(object)

    def __init__(self, lens: AnyLens) -> None:
        super().__init__()
        self.lens = lens
        self.column.setSpacing(7)
        self.build()
        self.column.addStretch(1)

    def build(self) -> None:
        """Fill :attr:`column`."""
        text = PlainLabel(f"{self.lens.tooltip}.", objectName="muted")
        text.setWordWrap(True)
        self.column.addWidget(heading(self.lens.title))
        self.column.addWidget(text)

    def show_image(self, image: Image) -> None:
        """Another image is open."""

    def show_request(self, request: Request) -> None:
        """Show the settings of a request without asking for anything."""

    def show_view(self, view: LensView) -> None:
        """Show what the lens found."""


def heading(text: str) -> QLabel:
    """The heading of a group of settings."""
    return PlainLabel(text, objectName="heading")


def colormap_box() -> QComboBox:
    """A choice of colour maps."""
    box = QComboBox()
    box.addItems(list(COLORMAPS))
    box.setAccessibleName("Colour map")
    box.setToolTip("Colours from low to high values")
    return box
