"""The bar above the views: opening, the settings, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from PySide6.QtGui import QAction, QResizeEvent
from PySide6.QtWidgets import QPushButton, QToolBar

from featup_app.gui import style
from featup_app.gui.controls import Controls

WIDE = 1100
"""Pixels from which the buttons have room for their titles beside the settings."""


class SettingsBar(QToolBar):
    """Its buttons show their icons alone where the window is too narrow for their titles.

    Attributes:
        compute, cancel, export: the buttons at the right.
    """

    def __init__(self, controls: Controls, actions: Mapping[str, QAction], ask_for_image: Callable[[], object]) -> None:
        super().__init__("Settings")
        self.setObjectName("settings bar")
        self.setMovable(False)
        self._titles: dict[QPushButton, str] = {}
        self.open = self._add_button("open", "Open…", actions["open"].toolTip(), ask_for_image)
        self.addSeparator()
        self.addWidget(controls)
        self.addSeparator()
        self.compute, self.cancel, self.export = (
            self._add_button(name, title, actions[name].toolTip(), actions[name].trigger)
            for name, title in (("compute", "Compute"), ("cancel", "Cancel"), ("export", "Export…"))
        )
        self.compute.setProperty("primary", True)
        self.compute.setIcon(style.icon("compute", style.ON_PRIMARY))

    def _add_button(self, icon: str, title: str, tooltip: str, pressed: Callable[[], object]) -> QPushButton:
        button = QPushButton(style.icon(icon), "")  # titles must not widen a window that opens narrow
        button.setAccessibleName(title.rstrip("…"))
        button.setToolTip(tooltip)
        button.clicked.connect(lambda: pressed())
        self.addWidget(button)
        self._titles[button] = title
        return button

    def resizeEvent(self, event: QResizeEvent) -> None:
        titled = self.width() >= WIDE
        for button, title in self._titles.items():
            button.setText(title if titled else "")
        super().resizeEvent(event)
