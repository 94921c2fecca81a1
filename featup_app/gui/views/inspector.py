"""The tabs beside the views: one for each lens, facts about the features, and the quality of the methods."""

from __future__ import annotations

from PySide6.QtCore import QSize
from PySide6.QtWidgets import QTabWidget

from featup_app.gui.quality.quality_tab import QualityTab
from featup_app.gui.views.cam_tab import CAMTab
from featup_app.gui.views.facts_tab import FactsTab
from featup_app.gui.views.lens_tab import LensTab
from featup_app.gui.views.pca_tab import PCATab
from featup_app.gui.views.pixel_tab import PixelTab
from featup_app.gui.views.similarity_tab import SimilarityTab
from featup_app.lenses import LENSES

TABS: dict[str, type[LensTab]] = {"pca": PCATab, "similarity": SimilarityTab, "cam": CAMTab}
"""Tabs of the lenses that have settings of their own, by the name of the lens."""


class Inspector(QTabWidget):
    """The tabs; each is wide enough for its contents at any font."""

    def __init__(self) -> None:
        super().__init__()
        self.lenses = {name: TABS.get(name, LensTab)(lens) for name, lens in LENSES.items()}
        self.facts, self.quality, self.pixel = FactsTab(), QualityTab(), PixelTab()
        for tab in self.lenses.values():
            self.addTab(tab, tab.lens.title)
            self.setTabToolTip(self.indexOf(tab), tab.lens.tooltip)
        for other, title, tooltip in (
            (self.pixel, "Pixel", "The feature of the query pixel, what it is made of, and values along a line"),
            (self.facts, "Facts", "Where the features come from"),
            (self.quality, "Quality", "How true each method stays to the backbone, and how well it follows the image"),
        ):
            self.addTab(other, title)
            self.setTabToolTip(self.indexOf(other), tooltip)
        self.setDocumentMode(True)
        self.tabBar().setStyleSheet("QTabBar::tab { padding: 7px 6px; }")  # six tabs side by side
        self.setMinimumWidth(270)

    def show_tab(self, view: str) -> None:
        """Bring the tab of a view to the front: that of its lens, and the facts for the image itself."""
        self.setCurrentWidget(self.lenses.get(view, self.facts))

    def sizeHint(self) -> QSize:
        """The same whatever the texts say, so that the views keep their size when a tab or an answer changes."""
        return QSize(300, 520)
