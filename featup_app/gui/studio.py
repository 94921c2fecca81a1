"""What the window shows and asks for: the current image, settings and requests, and the jobs that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress
from featup_app.engine.settings import ViewSettings, starting_settings
from featup_app.features import Point
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.images import Image, Selection, image_from_array, load_image
from featup_app.lenses import LENSES, LensView, Request
from featup_app.lenses.look import FieldFacts, UpsamplerFacts
from featup_app.marks import Mark

FITTED = "implicit"
"""The method whose fields are fitted step by step, and not in one job."""

FIRST = next(iter(LENSES))
"""The lens whose answer proves that settings work."""

_FOLLOW = "follow"


def lens_names() -> list[str]:
    """The lenses in the order in which they are computed: the quickest first."""
    return sorted(LENSES, key=lambda name: LENSES[name].reads_all_channels)


class Studio(QObject):
    """Keeps the person's choices and turns each change into requests to the engine; late answers are ignored.

    Attributes:
        requests: the request of each lens, by its name; empty while there is no image.
        views: the latest answer of each lens, by its name.

    Signals:
        image_changed(Image): another image is open.
        settings_changed(ViewSettings): other settings are chosen, such as another backbone or method.
        query_changed((x, y)): another query pixel is chosen, in pixels of the image.
        request_changed(name, Request): the request of a lens has changed.
        view_ready(name, LensView): a new picture of a lens.
        backbone_ready(BackboneFacts): the chosen backbone is loaded.
        upsampler_loaded(UpsamplerFacts): the weights in a file suit the backbone and are chosen.
        fit_wanted(): the chosen method needs a fit of the image, and there is none yet; views wait for :attr:`fit`.
        stale(name, bool): whether a newer picture of this lens is being computed.
        earlier(name, bool): whether the picture of this lens belongs to earlier settings than the chosen ones.
        followed(name, LensView): what a lens shows for the pixel under the pointer, while the map follows it.
        failed(sentence, details): something failed; the last good state is kept.
        not_repeated(ViewSettings): the remembered settings had a huge output for the first image; the default one is shown.
        succeeded(): something that was asked for after the last failure has succeeded.
    """

    image_changed = Signal(object)
    settings_changed = Signal(object)
    query_changed = Signal(object)
    request_changed = Signal(str, object)
    view_ready = Signal(str, object)
    backbone_ready = Signal(object)
    upsampler_loaded = Signal(object)
    fit_wanted = Signal()
    stale = Signal(str, bool)
    earlier = Signal(str, bool)
    failed = Signal(str, str)
    succeeded = Signal()
    followed = Signal(str, object)
    not_repeated = Signal(object)

    def __init__(self, engine: EngineBridge, settings: ViewSettings) -> None:
        super().__init__(engine)
        self.engine = engine
        self.settings = settings
        self.image: Image | None = None
        self.requests: dict[str, Request] = {}
        self.views: dict[str, LensView] = {}
        self.fit: int | None = None
        self.live_size: str | None = None
        self.query: Point | None = None
        self._query_before: Point | None = None
        self._current: dict[str, object] = {}
        self._answered_for: dict[str, tuple[ViewSettings, Point | None]] = {}  # settings and query of each view
        self._good = ViewSettings()
        self._reported = ""
        engine.failed.connect(self.report)

    @property
    def field_settings(self) -> ViewSettings:
        """The settings with the number of the fit that is shown; for exports and other lasting results."""
        return self.settings.with_(fit=self.fit) if self.settings.method == FITTED else self.settings

    @property
    def view_settings(self) -> ViewSettings:
        """The settings that views are computed with: views of a running fit are smaller and show its latest state."""
        settings = self.field_settings
        if settings.fit is None or self.live_size is None:
            return settings
        return settings.with_(output_size=self.live_size, fit_latest=True)

    @property
    def needs_fit(self) -> bool:
        """Whether views wait for a fit."""
        return self.settings.method == FITTED and self.fit is None

    @property
    def settled(self) -> bool:
        """Whether views of the image are shown and no lens owes an answer."""
        return FIRST in self.views and not any(name in self._current for name in LENSES)

    @property
    def field_facts(self) -> FieldFacts | None:
        """Facts about the features of the settings; None before the first view."""
        known = (view.facts for name, view in self.views.items() if not LENSES[name].reads_other_features)
        return next(known, None)

    def current_view(self, name: str) -> LensView | None:
        """The latest answer of a lens, if it belongs to the chosen settings and to what the lens is asked."""
        view, request = self.views.get(name), self.requests.get(name)
        if view is None or request is None or self._is_earlier(name):
            return None
        return view if view.request.computation() == request.computation() else None

    # -- what the person does -----------------------------------------------------------------------------------------

    def open(self, path: Path | str) -> None:
        """Open a file; the current image stays until the new one is read."""
        self.read(lambda progress: load_image(path))

    def select(self, selection: Selection) -> None:
        """Read another page, other channels or another range of the file that is open."""
        image = self.image
        if image is not None and image.path is not None and selection != image.selection:
            path = image.path
            self.read(lambda progress: load_image(path, selection))

    def open_pixels(self, pixels: Any, name: str) -> None:
        """Open pixels, such as those of the clipboard."""
        self.read(lambda progress: image_from_array(pixels, name=name))

    def choose(self, settings: ViewSettings) -> None:
        """Choose other settings and compute everything again."""
        if settings == self.settings:
            return
        self.settings = settings
        self.settings_changed.emit(settings)
        self.compute()

    def load_upsampler(self, path: str, **changes: str | None) -> None:
        """Choose the upsampler weights in a file and their method, after a check that they suit the chosen backbone.

        Args:
            path: the file.
            changes: settings to change at the same time, such as the backbone that the weights were trained for.
        """
        self._reported = ""
        wanted = {**changes, "upsampler": path}
        settings = self.settings.with_(**wanted)

        def chosen(facts: UpsamplerFacts) -> None:
            now = self.settings.with_(**wanted, method=facts.method)
            if now == self.settings:
                self.compute()  # the same file, whose contents may have changed
            else:
                self.choose(now)
            self.upsampler_loaded.emit(facts)

        self.engine.compute(
            "upsampler", lambda session, progress: session.check_upsampler(settings, progress, any_method=True), chosen
        )

    def ask(self, request: Request) -> None:
        """Ask a lens something else. If only the display differs, such as colours, nothing is computed again."""
        before = self.requests.get(request.lens)
        if request == before:
            return
        self.requests[request.lens] = request
        self.request_changed.emit(request.lens, request)
        view = self.views.get(request.lens)
        if view is not None and view.request.computation() == request.computation():
            self.views[request.lens] = view = view.with_request(request)
            self.view_ready.emit(request.lens, view)
        if before is None or before.computation() != request.computation():  # also on the way back to what is shown
            self._reported = ""
            self._request_view(request.lens)

    def choose_query(self, point: Point) -> None:
        """Ask every lens that reacts to clicks about another pixel."""
        if self.image is None:
            return
        height, width = self.image.size_hw
        self._query_before = self.query
        self.query = min(max(point[0], 0.0), width - 1e-3), min(max(point[1], 0.0), height - 1e-3)
        self.query_changed.emit(self.query)
        for name, request in list(self.requests.items()):
            asked = LENSES[name].at_point(request, self.query)
            if asked is not None:
                self.ask(asked)

    def mark(self, mark: Mark, negative: bool, added: bool) -> None:
        """Ask every lens that reacts to marks about another one.

        Args:
            mark: on the picture.
            negative: whether likeness to it counts against a pixel.
            added: whether it is added to what is asked, and does not replace it.
        """
        for name, request in list(self.requests.items()):
            try:
                asked = LENSES[name].with_mark(request, mark, negative=negative, added=added)
            except LensError as error:
                self.report(str(error), "")
                continue
            if asked is not None:
                self.ask(asked)

    def follow(self, point: Point | None, *, size: str | None = None) -> None:
        """Show what lenses that react to clicks say about a point, without asking for it; None shows what was asked again.

        Args:
            point: the pixel under the pointer.
            size: of the output; that of the settings if None.
        """
        if point is None or self.image is None or self.needs_fit:
            self._current.pop(_FOLLOW, None)
            self.engine.cancel(_FOLLOW)
            for name, view in self.views.items():
                if LENSES[name].marks(view.request):
                    self.view_ready.emit(name, view)
            return
        image, settings = self.image, self.view_settings.with_(**({"output_size": size} if size else {}))
        for name, request in self.requests.items():
            asked = LENSES[name].at_point(request, point)
            if asked is not None and LENSES[name].marks(asked):
                self._submit(
                    _FOLLOW,
                    lambda session, progress, asked=asked: session.view(image, settings, asked, progress),
                    lambda view, name=name: self.followed.emit(name, view),
                )

    def take_back_query(self) -> None:
        """Go back to the query pixel before the last one."""
        if self._query_before is not None:
            self.choose_query(self._query_before)

    def move_query(self, columns: int, rows: int) -> None:
        """Move the query by output pixels, where one point alone is asked."""
        if self.image is None or self.query is None:
            return
        if any(len(LENSES[name].marks(request)) > 1 for name, request in self.requests.items()):
            return
        sizes = [
            view.facts.size for name, view in self.views.items() if LENSES[name].at_point(view.request, self.query)
        ]
        height, width = self.image.size_hw
        size = sizes[0] if sizes else self.image.size_hw
        self.choose_query((self.query[0] + columns * width / size[1], self.query[1] + rows * height / size[0]))

    def compute(self) -> None:
        """Compute all views with the current settings."""
        if self.image is None:
            return
        self._reported = ""
        settings = self.settings
        self._submit("backbone", lambda session, progress: session.backbone_facts(settings, progress),
                     self.backbone_ready.emit)  # fmt: skip
        if self.needs_fit:
            self._cancel_lenses()  # their answers would belong to other settings
            for name in LENSES:
                self.stale.emit(name, True)
                self.earlier.emit(name, self._is_earlier(name))
            self.fit_wanted.emit()
            return
        for name in lens_names():
            self._request_view(name)

    def exchange(self, settings: ViewSettings) -> None:
        """Choose settings whose pictures take the place of the present ones, which are not dimmed meanwhile."""
        self.settings = settings
        self.settings_changed.emit(settings)
        self.refresh(classes=True)

    def refresh(self, *, classes: bool = False) -> None:
        """Compute the views again without dimming them, since the features improve and do not change otherwise.

        Args:
            classes: also views of other features than those of the settings, such as class activation maps.
        """
        for name in LENSES:
            if classes or not LENSES[name].reads_other_features:
                self._request_view(name, dimmed=False)

    def cancel(self) -> None:
        """Cancel all jobs of the engine, also exports; the current pictures stay, and so do the settings they belong to."""
        self.engine.cancel()

    def _cancel_views(self) -> None:
        """Cancel views and the backbone; an export continues with its own image and settings."""
        self.engine.cancel("backbone")
        self._cancel_lenses()

    def _cancel_lenses(self) -> None:
        for name in LENSES:
            self._current.pop(name, None)
            self.engine.cancel(name)

    # -- requests -----------------------------------------------------------------------------------------------------

    def read(
        self, work: Callable[[Progress], Image], opening: Callable[[Image], None] | None = None, **asked: Any
    ) -> None:
        """Read an image on the lane for files, call ``opening`` with it, and show it. ``asked`` as of the engine's ``files``."""
        self._reported = ""

        def answer(image: Image) -> None:
            if opening is not None:
                opening(image)
            self._opened(image)

        self.engine.files("open", work, answer, **asked)

    def _submit(
        self,
        kind: str,
        work: Callable[[Any, Progress], Any],
        answer: Callable[[Any], None],
        finished: Callable[[], None] | None = None,
    ) -> None:
        """Ask the engine. Callbacks run for the latest job of a kind only, and never after it was cancelled."""
        token = self._current[kind] = object()

        def if_current(react: Callable[..., None]) -> Callable[..., None]:
            return lambda *values: react(*values) if self._current.get(kind) is token else None

        self.engine.compute(
            kind,
            work,
            if_current(answer),
            failed=if_current(lambda sentence, details: self._failed(kind, sentence, details)),
            finished=if_current(finished or (lambda: None)),
        )

    def _request_view(self, name: str, *, dimmed: bool = True) -> None:
        image, settings, request = self.image, self.view_settings, self.requests.get(name)
        if image is None or request is None or self.needs_fit:
            return
        if dimmed:
            self.stale.emit(name, True)
            self.earlier.emit(name, self._is_earlier(name))
        asked_for = self.field_settings, self.query
        self._submit(
            name,
            lambda session, progress: session.view(image, settings, request, progress),
            lambda view: self._answered(name, view, *asked_for),
            lambda: self._ended(name),
        )

    def _is_earlier(self, name: str) -> bool:
        """Whether the answer of a lens belongs to other settings than the chosen ones."""
        return name in self.views and self._answered_for[name][0] != self.field_settings

    # -- answers ------------------------------------------------------------------------------------------------------

    def _answered(self, name: str, view: LensView, settings: ViewSettings, query: Point | None) -> None:
        if name == FIRST:
            self._good = self.settings
        wanted = self.requests.get(name, view.request)
        if wanted.computation() == view.request.computation():
            view = view.with_request(wanted)  # other colours may have been chosen meanwhile
        self.views[name] = view
        self._answered_for[name] = settings, query
        self.view_ready.emit(name, view)
        self.earlier.emit(name, self._is_earlier(name))
        if not self._reported:
            self.succeeded.emit()

    def _ended(self, name: str) -> None:
        """A view was answered, failed or cancelled: what is chosen now is what is shown, or the picture is marked."""
        self._current.pop(name, None)
        self.stale.emit(name, False)
        view = self.views.get(name)
        if view is not None and name == FIRST and self._is_earlier(name) and self.settings != self._good:
            self.settings = self._good
            self.settings_changed.emit(self.settings)
        if view is not None and not self._is_earlier(name):
            self._ask_what_is_shown(name, view)
        for other in LENSES:
            if other not in self._current:  # the others are marked at their own end
                self.earlier.emit(other, self._is_earlier(other))

    def _ask_what_is_shown(self, name: str, view: LensView) -> None:
        """Go back to the request of a view, and to its query pixel, after another request was not answered."""
        request = self.requests[name]
        if request.computation() == view.request.computation():
            return
        reacts = self.query is not None and LENSES[name].at_point(view.request, self.query) is not None
        self.requests[name] = view.request
        self.request_changed.emit(name, view.request)
        self.view_ready.emit(name, view)  # its tab shows what was chosen, and not what was asked
        if reacts and self._answered_for[name][1] is not None:
            self.query = self._answered_for[name][1]
            self.query_changed.emit(self.query)

    def _failed(self, kind: str, sentence: str, details: str) -> None:
        self.report(sentence, details)
        if kind in ("backbone", FIRST) and self.settings != self._good:
            self._go_back()

    def report(self, sentence: str, details: str) -> None:
        """Show a failure. One cause makes all views fail, so the same sentence is shown only once."""
        if sentence != self._reported:
            self._reported = sentence
            self.failed.emit(sentence, details)

    def _go_back(self) -> None:
        """Return from settings that fail to the last ones that worked, which the pictures belong to."""
        self._cancel_views()
        reported = self._reported
        self.settings = self._good
        self.settings_changed.emit(self.settings)
        self.compute()
        self._reported = reported

    def _opened(self, image: Image) -> None:
        self._cancel_views()
        if self.image is None:
            self._start_with(image)
        self.image = image
        self.views.clear()
        self._answered_for.clear()
        self.requests = {name: lens.initial(image, self.requests.get(name)) for name, lens in LENSES.items()}
        height, width = image.size_hw
        self.query = width / 2, height / 2
        self.image_changed.emit(image)
        self.query_changed.emit(self.query)
        for name, request in self.requests.items():
            self.request_changed.emit(name, request)
        # The window draws the image first.
        QTimer.singleShot(0, self.compute)

    def _start_with(self, image: Image) -> None:
        """Choose the settings for the first image of a start."""
        remembered, self.settings = self.settings, starting_settings(self.settings, image.size_hw)
        if self.settings != remembered:
            self.settings_changed.emit(self.settings)
            QTimer.singleShot(0, lambda: self.not_repeated.emit(remembered))
