"""Measures the methods for the Quality tab, one engine job per method, so that each row appears when it is found."""

from __future__ import annotations

from PySide6.QtCore import QObject

from featup_app.engine.scoring import measured_settings, score_method
from featup_app.engine.settings import ViewSettings
from featup_app.fields import METHODS, Method
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.quality.quality_tab import QualityTab
from featup_app.gui.studio import Studio
from featup_app.images import Image

_KIND = "quality of "


class QualityDesk(QObject):
    """Connects the tab, the engine and the studio.

    Scores belong to an image and its features. When either changes, running jobs are cancelled and the table is emptied.
    """

    def __init__(self, engine: EngineBridge, studio: Studio, tab: QualityTab) -> None:
        super().__init__(tab)
        self._engine, self._studio, self._tab = engine, studio, tab
        self._waiting: dict[str, object] = {}  # a token for each method that is being measured
        self._belongs_to = measured_settings(studio.settings)
        tab.asked.connect(self.measure)
        tab.stopped.connect(self.stop)
        tab.method_chosen.connect(lambda name: studio.choose(studio.settings.with_(method=name)))
        studio.image_changed.connect(lambda image: self._forget())
        studio.settings_changed.connect(lambda settings: self._settings_changed())

    def measure(self, held_out: bool, all_methods: bool) -> None:
        """Score the quick methods and the chosen one, or all."""
        image = self._studio.image
        if image is None:
            return
        self.stop()
        self._belongs_to = measured_settings(self._studio.settings)
        methods = self._methods(all_methods)
        self._tab.expect(methods, held_out=held_out)
        for method in methods:
            chosen = self._studio.settings.with_(fit=self._studio.fit)  # an existing fit is not made again
            settings = chosen if method.name == chosen.method else chosen.with_(method=method.name)
            self._measure(image, settings, held_out)

    def _measure(self, image: Image, settings: ViewSettings, held_out: bool) -> None:
        name = settings.method
        token = self._waiting[name] = object()

        def finished() -> None:
            if self._waiting.get(name) is token:
                del self._waiting[name]
                self._tab.show_failure(name, "Not measured: it was stopped.")
                self._tab.show_busy(bool(self._waiting))

        def failed(sentence: str, details: str) -> None:
            if self._waiting.get(name) is token:
                self._tab.show_failure(name, sentence)

        self._engine.compute(
            _KIND + name,
            lambda session, progress: score_method(session, image, settings, held_out=held_out, progress=progress),
            lambda scores: self._tab.show_scores(scores) if self._waiting.get(name) is token else None,
            failed=failed,
            finished=finished,
        )

    def stop(self) -> None:
        """Cancel the running jobs; the scores found so far stay."""
        for name in list(self._waiting):
            self._engine.cancel(_KIND + name)

    def _methods(self, all_methods: bool) -> list[Method]:
        chosen = self._studio.settings.method
        return [method for method in METHODS if all_methods or method.quick or method.name == chosen]

    def _settings_changed(self) -> None:
        if measured_settings(self._studio.settings) != self._belongs_to:
            self._forget()

    def _forget(self) -> None:
        self.stop()
        self._waiting.clear()
        self._tab.clear()
