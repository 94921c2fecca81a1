"""Computing ahead: what the neighbours of the shown picture need, while nothing else is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal

from featup_app.engine.picture_list import ReadImages
from featup_app.engine.settings import ViewSettings
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.studio import FIRST, FITTED, Studio
from featup_app.images import Image
from featup_app.lenses import LENSES

KIND = "prepare"
"""The kind of its jobs, on both lanes."""

_TICK_MILLISECONDS = 150


class Preparation(QObject):
    """Reads the neighbours and lets the engine compute their features, in the background of everything that is asked for.

    Any request of the person cancels it at its next step, and it begins again when that is answered. Each neighbour is prepared
    once for the picture and the settings that are shown.

    Args:
        engine: computes.
        studio: has the settings, and says whether views are owed.
        images: reads pictures and keeps them.
        neighbours: the files to prepare, the most likely first.
        held: whether something else needs the computer, such as a training or a fit.

    Signals:
        unreadable(path, sentence): a neighbour cannot be read.
    """

    unreadable = Signal(object, str)

    def __init__(
        self,
        engine: EngineBridge,
        studio: Studio,
        images: ReadImages,
        neighbours: Callable[[], list[Path]],
        held: Callable[[], bool],
    ) -> None:
        super().__init__(studio)
        self._engine, self._studio, self._images = engine, studio, images
        self._neighbours, self._held = neighbours, held
        self._jobs = 0
        self._key: object = None
        self._done: set[Path] = set()
        self._timer = QTimer(self, interval=_TICK_MILLISECONDS)
        self._timer.timeout.connect(self._tick)
        for signal in (studio.image_changed, studio.settings_changed):
            signal.connect(lambda _: self.restart())
        engine.started.connect(lambda _: self.restart())

    def restart(self) -> None:
        """Cancel what is being prepared, and begin again when nothing is asked for."""
        if self._jobs:
            self._engine.cancel_files(KIND)
            self._engine.cancel(KIND)
        self._timer.start()

    def resume(self) -> None:
        """Look again for what is left to prepare, since the neighbours may be others."""
        self._timer.start()

    def close(self) -> None:
        """Prepare nothing any more."""
        self._timer.timeout.disconnect()
        self._timer.stop()

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to prepare for what is shown."""
        return not self._timer.isActive()

    @property
    def prepared(self) -> frozenset[Path]:
        """The files that are prepared, or for which that was tried."""
        return frozenset(self._done)

    def _tick(self) -> None:
        studio, waiting = self._studio, self._neighbours()
        settings = studio.settings
        key = None if studio.image is None else studio.image.sha256, settings
        if key != self._key:
            self._key, self._done = key, set()
        waiting = [path for path in waiting if path not in self._done]
        if not waiting or settings.method == FITTED:
            self._timer.stop()
        elif studio.settled and not self._jobs and not self._engine.busy and not self._held():
            self._read(waiting[0], settings)

    def _read(self, path: Path, settings: ViewSettings) -> None:
        def failed(sentence: str, details: str) -> None:
            self._done.add(path)
            self.unreadable.emit(path, sentence)

        self._jobs += 1
        self._engine.files(
            KIND,
            lambda progress: self._images.read(path),
            lambda image: self._compute(path, image, settings),
            failed=failed,
            finished=self._ended,
            background=True,
        )

    def _compute(self, path: Path, image: Image, settings: ViewSettings) -> None:
        shown = self._studio.image
        assert shown is not None

        def done(*_: object) -> None:  # also if it failed: the person reads why when the picture is shown
            self._done.add(path)

        first = LENSES[FIRST].initial(image, self._studio.requests.get(FIRST))
        self._jobs += 1
        self._engine.compute(
            KIND,
            lambda session, progress: session.prepare(image, settings, first, shown, progress),
            done,
            failed=done,
            finished=self._ended,
            background=True,
        )

    def _ended(self) -> None:
        self._jobs -= 1
