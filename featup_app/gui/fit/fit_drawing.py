"""Pictures of the fit panel: asks the engine for those of the tab in front, and shows them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from featup_app.engine.fit_book import FitRecord
from featup_app.engine.fits import LearnedPictures
from featup_app.engine.fitting import compare_fits
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.fit.fit_panel import COMPARE, LEARNED, FitPanel
from featup_app.gui.studio import Studio
from featup_app.lenses import PCARequest

_LEARN, _COMPARE = "fit learned", "fit compare"
_REDRAW_SECONDS = 3.0
"""Seconds between two drawings of a running fit."""


class FitDrawing:
    """Fills two tabs of a panel.

    Args:
        panel: has the tabs.
        studio: has the image and the fit that are shown.
        engine: computes.
    """

    def __init__(self, panel: FitPanel, studio: Studio, engine: EngineBridge) -> None:
        self._panel, self._studio, self._engine = panel, studio, engine
        self._drawn = 0.0

    def draw(self, record: FitRecord | None, alike: Sequence[FitRecord], *, live: bool = False) -> None:
        """Ask for the pictures of the tab in front.

        Args:
            record: the fit that is shown.
            alike: fits of the same features, to compare it with.
            live: the fit is running, so it is drawn every few seconds only.
        """
        now = time.monotonic()
        if live and now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        tab, panel = self._panel.tabs.currentIndex(), self._panel
        if tab == LEARNED:
            if record is None or not record.usable:
                panel.learned.clear()
                return
            number = record.number
            if panel.learned.fit != number:
                panel.learned.clear(waiting=True)
            self._engine.compute(
                _LEARN, lambda session, progress: session.fits.learned(number, progress), self._show_learned
            )
        elif tab == COMPARE:
            self._compare([other.number for other in alike if other.usable])

    def _compare(self, numbers: Sequence[int]) -> None:
        panel = self._panel
        image, settings = self._studio.image, self._studio.settings
        request = self._studio.requests.get(PCARequest.lens)
        if image is None or not isinstance(request, PCARequest) or not numbers:
            self._panel.comparison.clear()
            return
        if not self._panel.comparison.boxes:
            self._panel.comparison.clear(waiting=True)
        self._engine.compute(
            _COMPARE,
            lambda session, progress: compare_fits(session, image, settings, numbers, request, progress),
            lambda pictures: panel.comparison.show_pictures(pictures, self._studio.fit),
        )

    def _show_learned(self, pictures: LearnedPictures) -> None:
        if pictures.number == self._studio.fit:
            self._panel.learned.show_pictures(pictures)
