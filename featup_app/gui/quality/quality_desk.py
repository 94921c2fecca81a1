"""Measures the methods for the Quality tab: one job of the engine for each, so that rows appear as they are found."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject

from featup_app.engine.jobs import Job
from featup_app.engine.scoring import Scorer, measured_settings
from featup_app.fields import METHODS, Method
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.quality.quality_tab import QualityTab
from featup_app.gui.studio import Studio

_KIND = "quality of "


class QualityDesk(QObject):
    """Between the tab, the engine and what the studio shows.

    Scores belong to an image and its features; when either changes, what is under way is cancelled and the table is emptied.
    """

    def __init__(self, engine: EngineBridge, studio: Studio, tab: QualityTab) -> None:
        super().__init__(tab)
        self._engine, self._studio, self._tab = engine, studio, tab
        self._scorer = Scorer()
        self._jobs: dict[int, str] = {}
        self._belongs_to = measured_settings(studio.settings)
        tab.asked.connect(self.measure)
        tab.stopped.connect(self.stop)
        tab.method_chosen.connect(lambda name: studio.choose(studio.settings.with_(method=name)))
        studio.image_changed.connect(lambda image: self._forget())
        studio.settings_changed.connect(lambda settings: self._settings_changed())
        engine.succeeded.connect(self._succeeded)
        engine.failed.connect(self._failed)
        engine.finished.connect(self._finished)

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
            chosen = self._studio.settings.with_(fit=self._studio.fit)  # a fit that is there is not made again
            settings = chosen if method.name == chosen.method else chosen.with_(method=method.name)

            def work(session: Any, progress: Any, settings: Any = settings) -> Any:
                return self._scorer.score(session, image, settings, held_out=held_out, progress=progress)

            self._jobs[self._engine.compute(_KIND + method.name, work).id] = method.name

    def stop(self) -> None:
        """Cancel what is under way; the scores that are there stay."""
        for name in set(self._jobs.values()):
            self._engine.cancel(_KIND + name)

    def _methods(self, all_methods: bool) -> list[Method]:
        chosen = self._studio.settings.method
        return [method for method in METHODS if all_methods or method.quick or method.name == chosen]

    def _settings_changed(self) -> None:
        if measured_settings(self._studio.settings) != self._belongs_to:
            self._forget()

    def _forget(self) -> None:
        self.stop()
        self._jobs.clear()
        self._tab.clear()

    def _succeeded(self, job: Job, result: Any) -> None:
        if job.id in self._jobs:
            self._tab.show_scores(result)

    def _failed(self, job: Job, sentence: str, details: str) -> None:
        if job.id in self._jobs:
            self._tab.show_failure(self._jobs[job.id], sentence)

    def _finished(self, job: Job) -> None:
        name = self._jobs.pop(job.id, None)
        if name is not None:
            self._tab.show_failure(name, "Not measured: it was stopped.")
            self._tab.show_busy(bool(self._jobs))
