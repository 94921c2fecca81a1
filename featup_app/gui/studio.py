"""What the window shows and asks for: the current image, settings and queries, and the requests that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal

from featup_app.base.progress import Progress
from featup_app.engine.jobs import Job
from featup_app.engine.views import CAMView, PCAOptions, PCAView, SimilarityView, UpsamplerFacts, ViewSettings
from featup_app.features import Point
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.images import Image, image_from_array, load_image

FITTED = "implicit"
"""The method whose fields are fitted here, step by step, and not in one go."""

VIEWS = ("pca", "cam", "similarity")
"""Kinds of the three computed views, in the order in which they are computed: the quickest first."""


class Studio(QObject):
    """Keeps the person's choices and turns each change into requests to the engine; late answers are dropped.

    Signals:
        image_changed(Image): another image is open.
        settings_changed(ViewSettings): another backbone, layer, size or method is chosen.
        query_changed((x, y)): another pixel is compared with.
        pca_ready(PCAView), similarity_ready(SimilarityView), cam_ready(CAMView): new pictures.
        backbone_ready(BackboneFacts): the chosen backbone is loaded.
        upsampler_loaded(UpsamplerFacts): the weights in a file can be used and are chosen.
        fit_wanted(): the chosen method is fitted to the image, and there is no fit yet; views wait for :attr:`fit`.
        stale(kind, bool): the picture of this kind no longer answers the current question, or does again.
        failed(sentence, details): something did not work; the last good state is kept.
    """

    image_changed = Signal(object)
    settings_changed = Signal(object)
    query_changed = Signal(object)
    pca_ready = Signal(object)
    similarity_ready = Signal(object)
    cam_ready = Signal(object)
    backbone_ready = Signal(object)
    upsampler_loaded = Signal(object)
    fit_wanted = Signal()
    stale = Signal(str, bool)
    failed = Signal(str, str)

    def __init__(self, engine: EngineBridge, settings: ViewSettings) -> None:
        super().__init__()
        self.engine = engine
        self.settings = settings
        self.image: Image | None = None
        self.pca_options = PCAOptions()
        self.fit: int | None = None
        self.live_size: str | None = None
        self.query: Point | None = None
        self.chosen_class: str | int | None = None
        self.pca: PCAView | None = None
        self.similarity: SimilarityView | None = None
        self.cam: CAMView | None = None
        self._current: dict[str, int] = {}
        self._answers: dict[str, Callable[[Any], None]] = {
            "open": self._opened,
            "backbone": self.backbone_ready.emit,
            "upsampler": self._upsampler_answered,
            "pca": self._pca_answered,
            "similarity": self._similarity_answered,
            "cam": self._cam_answered,
        }
        self._wanted_changes: dict[str, str | None] = {}
        self._good = ViewSettings()
        self._reported = ""
        engine.succeeded.connect(self._succeeded)
        engine.failed.connect(self._failed)
        engine.finished.connect(self._finished)

    @property
    def field_settings(self) -> ViewSettings:
        """The settings with the fit that is shown, for what outlives the moment, such as an export."""
        return self.settings.with_(fit=self.fit) if self.settings.method == FITTED else self.settings

    @property
    def view_settings(self) -> ViewSettings:
        """The settings that views are computed with: those of a fit that is under way are smaller, and show its latest state."""
        settings = self.field_settings
        if settings.fit is None or self.live_size is None:
            return settings
        return settings.with_(output_size=self.live_size, fit_latest=True)

    @property
    def needs_fit(self) -> bool:
        """Whether views cannot be computed for want of a fit."""
        return self.settings.method == FITTED and self.fit is None

    # -- what the person does -----------------------------------------------------------------------------------------

    def open(self, path: Path | str) -> None:
        """Open a file; the current image stays until the new one is there."""
        self._request_file(lambda progress: load_image(path))

    def open_pixels(self, pixels: Any, name: str) -> None:
        """Open pixels, such as those of the clipboard."""
        self._request_file(lambda progress: image_from_array(pixels, name=name))

    def choose(self, settings: ViewSettings) -> None:
        """Other settings; everything is computed anew."""
        if settings == self.settings:
            return
        self.settings = settings
        self.settings_changed.emit(settings)
        self.compute()

    def load_upsampler(self, path: str, **changes: str | None) -> None:
        """Choose the upsampler weights in a file and their method, once it is known that they fit the chosen backbone.

        Args:
            path: the file.
            changes: other settings that are chosen with it, such as the backbone that it was trained for.
        """
        self._reported = ""
        self._wanted_changes = {**changes, "upsampler": path}
        settings = self.settings.with_(**self._wanted_changes)
        self._submit(
            "upsampler", lambda session, progress: session.check_upsampler(settings, progress, any_method=True)
        )

    def choose_pca(self, options: PCAOptions) -> None:
        """Other components."""
        if options != self.pca_options:
            self.pca_options = options
            self._request_pca()

    def choose_query(self, point: Point) -> None:
        """Compare everything with another pixel."""
        if self.image is None:
            return
        height, width = self.image.size_hw
        self.query = min(max(point[0], 0.0), width - 1e-3), min(max(point[1], 0.0), height - 1e-3)
        self.query_changed.emit(self.query)
        self._request_similarity()

    def move_query(self, columns: int, rows: int) -> None:
        """Move the query by output pixels."""
        if self.image is None or self.query is None:
            return
        size = self.similarity.facts.size if self.similarity is not None else self.image.size_hw
        height, width = self.image.size_hw
        self.choose_query((self.query[0] + columns * width / size[1], self.query[1] + rows * height / size[0]))

    def choose_class(self, chosen: str | int | None) -> None:
        """Explain another class; None for the most probable one."""
        if chosen != self.chosen_class:
            self.chosen_class = chosen
            self._request_cam()

    def compute(self) -> None:
        """Compute all views with the current settings."""
        if self.image is None:
            return
        self._reported = ""
        settings = self.settings
        self._submit("backbone", lambda session, progress: session.backbone_facts(settings, progress))
        if self.needs_fit:
            for kind in VIEWS:
                self._current.pop(kind, None)  # what is still computed answers another question
                self.engine.cancel(kind)
                self.stale.emit(kind, True)
            self.fit_wanted.emit()
            return
        self._request_pca()
        self._request_cam()
        self._request_similarity()

    def refresh(self, *, classes: bool = False) -> None:
        """Compute the views anew without dimming them, since they are about to get better and not to get different.

        Args:
            classes: also the class activation map.
        """
        for kind, request in (
            ("pca", self._request_pca),
            ("similarity", self._request_similarity),
            ("cam", self._request_cam),
        ):
            if kind != "cam" or classes:
                request(dimmed=False)

    def cancel(self) -> None:
        """Stop everything that computes, exports too; the pictures that are there stay."""
        self.engine.cancel()

    def _cancel_views(self) -> None:
        """Stop what has no reader any more; an export goes on with the image and settings it was asked with."""
        for kind in ("backbone", *VIEWS):
            self.engine.cancel(kind)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _request_file(self, work: Callable[[Progress], Image]) -> None:
        self._reported = ""
        self._current["open"] = self.engine.files("open", work).id

    def _submit(self, kind: str, work: Callable[[Any, Progress], Any]) -> None:
        self._current[kind] = self.engine.compute(kind, work).id

    def _request_view(self, kind: str, work: Callable[[Any, Progress], Any], *, dimmed: bool) -> None:
        if dimmed:
            self.stale.emit(kind, True)
        self._submit(kind, work)

    def _request_pca(self, *, dimmed: bool = True) -> None:
        image, settings, options = self.image, self.view_settings, self.pca_options
        if image is not None and not self.needs_fit:
            self._request_view(
                "pca", lambda session, progress: session.pca_view(image, settings, options, progress), dimmed=dimmed
            )

    def _request_similarity(self, *, dimmed: bool = True) -> None:
        image, settings, query = self.image, self.view_settings, self.query
        if image is not None and query is not None and not self.needs_fit:
            self._request_view(
                "similarity",
                lambda session, progress: session.similarity_view(image, settings, query, progress),
                dimmed=dimmed,
            )

    def _request_cam(self, *, dimmed: bool = True) -> None:
        image, settings, chosen = self.image, self.view_settings, self.chosen_class
        if image is not None and not self.needs_fit:
            self._request_view(
                "cam", lambda session, progress: session.cam_view(image, settings, chosen, progress), dimmed=dimmed
            )

    # -- answers ------------------------------------------------------------------------------------------------------

    def _is_current(self, job: Job) -> bool:
        return self._current.get(job.kind) == job.id

    def _succeeded(self, job: Job, result: Any) -> None:
        if job.kind in self._answers and self._is_current(job):
            self._answers[job.kind](result)

    def _failed(self, job: Job, sentence: str, details: str) -> None:
        # The same cause fails all three views; it is told once.
        if (job.kind not in self._answers or self._is_current(job)) and sentence != self._reported:
            self._reported = sentence
            self.failed.emit(sentence, details)
        if job.kind in ("backbone", "pca") and self._is_current(job) and self.settings != self._good:
            self._go_back()

    def _go_back(self) -> None:
        """Settings that do not work are given up for the last that did, so that the pictures stay true to them."""
        self._cancel_views()
        reported = self._reported
        self.settings = self._good
        self.settings_changed.emit(self.settings)
        self.compute()
        self._reported = reported

    def _finished(self, job: Job) -> None:
        """A view whose job ended without an answer shows its last good picture again, undimmed."""
        if job.kind in VIEWS and self._is_current(job):
            self.stale.emit(job.kind, False)

    def _opened(self, image: Image) -> None:
        self._cancel_views()
        self.image = image
        self.pca = self.similarity = self.cam = None
        self.chosen_class = None
        height, width = image.size_hw
        self.query = width / 2, height / 2
        self.image_changed.emit(image)
        self.query_changed.emit(self.query)
        # The window draws the image first; features follow.
        QTimer.singleShot(0, self.compute)

    def _upsampler_answered(self, facts: UpsamplerFacts) -> None:
        settings = self.settings.with_(**self._wanted_changes, method=facts.method)
        if settings == self.settings:
            self.compute()  # the same file, which may have changed
        else:
            self.choose(settings)
        self.upsampler_loaded.emit(facts)

    def _pca_answered(self, view: PCAView) -> None:
        self._good = self.settings
        self.pca = view
        self.pca_ready.emit(view)

    def _similarity_answered(self, view: SimilarityView) -> None:
        self.similarity = view
        self.similarity_ready.emit(view)

    def _cam_answered(self, view: CAMView) -> None:
        self.cam = view
        self.cam_ready.emit(view)
