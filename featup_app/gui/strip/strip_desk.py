"""The pictures that are open together: opening them, walking through them, their thumbnails, and computing ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtGui import QImage, QPixmap

from featup_app.engine.picture_list import PictureList, ReadImages, listed
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.strip.film_strip import FilmStrip
from featup_app.gui.strip.preparation import Preparation
from featup_app.gui.strip.thumbnail_list import PICTURE
from featup_app.gui.studio import Studio
from featup_app.images import Image, thumbnail

_THUMBNAIL = "thumbnail"
_SIDE = 2 * PICTURE.width()
"""Pixels of the longer side of a thumbnail, so that dense screens show them sharp."""


class StripDesk(QObject):
    """Keeps the list of pictures, shows it as a film strip where there are several, and opens what is asked for.

    A list takes the place of the one before when its first picture opens; a picture that cannot be read is marked, and what is
    shown stays.

    Args:
        engine: reads files, makes thumbnails and prepares neighbours.
        studio: opens pictures.
        held: whether something else needs the computer, so that nothing is computed ahead.

    Attributes:
        strip: the widget.
        pictures: the list.
        preparation: computes ahead.

    Signals:
        chosen(Image): the first picture of what the person asked to open is about to be shown; not emitted for pictures that
            she walks to.
        changed(): the list, or what is shown of it, is another one.
    """

    chosen = Signal(object)
    changed = Signal()

    def __init__(self, engine: EngineBridge, studio: Studio, held: Callable[[], bool]) -> None:
        super().__init__(studio)
        self._engine, self._studio = engine, studio
        self._images = ReadImages()
        self._shown = True
        self._asked_thumbnail: Path | None = None
        self._token: object = None
        self.pictures = PictureList()
        self.strip = FilmStrip()
        self.strip.hide()
        self.preparation = Preparation(engine, studio, self._images, self._neighbours, held)
        self._look = QTimer(self, singleShot=True, interval=0)
        self._look.timeout.connect(self._make_thumbnail)
        row = self.strip.row
        row.asked.connect(self.go)
        row.stepped.connect(self.step)
        row.ended.connect(self.go_to_end)
        row.removed.connect(self.remove)
        row.seen.connect(self._look.start)
        studio.image_changed.connect(self._image_changed)
        engine.finished.connect(lambda _: self._look.start())
        self.preparation.unreadable.connect(self._found_unreadable)

    # -- opening -----------------------------------------------------------------------------------------------------

    def open(self, places: Sequence[str | Path]) -> None:
        """Open files and the pictures of folders, and show the first that can be read; one picture of the list is gone to."""
        self._engine.files("open", lambda progress: listed(places), self._open_list, failed=self._studio.failed.emit)

    def _open_list(self, paths: list[Path]) -> None:
        known = self.pictures.index(paths[0]) if len(paths) == 1 else None
        if known is not None:
            self._go(self.pictures, known, chosen=True)
            return
        pictures = PictureList(paths)
        if len(pictures) > 1:
            self._exchange(pictures)
        self._go(pictures, 0, chosen=True)

    def _go(self, pictures: PictureList, index: int, *, chosen: bool = False) -> None:
        """Open an entry of a list. Of pictures that were just ``chosen``, the next one is tried if it cannot be read."""
        path = pictures.pictures[index].path
        pictures.asked = index
        token = self._token = object()

        def opening(image: Image) -> None:
            if self.pictures is not pictures:
                self._exchange(pictures)
            now = pictures.index(path)
            if now is None:  # taken off the list meanwhile
                pictures.left()
            else:
                pictures.arrived(now)
            if chosen:
                self.chosen.emit(image)

        def failed(sentence: str, details: str) -> None:
            now = pictures.index(path)
            if now is not None:
                pictures.failed(now, sentence)
            self._studio.failed.emit(sentence, details)
            following = None if now is None or not chosen else pictures.after(now)
            if following is not None:
                self._go(pictures, following, chosen=True)

        def finished() -> None:
            if self._token is token:
                pictures.asked = None
            self._show_state()

        self._studio.read(lambda progress: self._images.read(path), opening, failed=failed, finished=finished)
        self._show_state()

    def _exchange(self, pictures: PictureList) -> None:
        self.pictures = pictures
        self.strip.thumbnails.show_list(pictures)
        self._show_strip()
        self._show_state()

    def _image_changed(self, image: Image) -> None:
        """Something was opened: an entry of the list, or anything else."""
        index = None if image.path is None else self.pictures.find(image.path)
        if index is None:
            self.pictures.left()
        elif index != self.pictures.shown:
            self.pictures.arrived(index)
        self._show_state()

    # -- walking -----------------------------------------------------------------------------------------------------

    def go(self, index: int) -> None:
        """Show an entry; one that could not be read is tried again."""
        self._go(self.pictures, index)

    def step(self, by: int) -> None:
        """Show the next picture (1) or the previous one (-1), past those that cannot be read."""
        index = self.pictures.step(by)
        if index is not None:
            self.go(index)

    def go_to_end(self, by: int) -> None:
        """Show the last picture (1) or the first (-1)."""
        index = self.pictures.end(by)
        if index is not None:
            self.go(index)

    def remove(self, index: int) -> None:
        """Take an entry off the list; if it is shown, the next one takes its place, or the one before."""
        was_shown = index == self.pictures.shown
        self.pictures.remove(index)
        self.strip.thumbnails.show_list(self.pictures)
        self._show_strip()
        self._show_state()
        if was_shown:
            for by in (1, -1):
                following = self.pictures.step(by)
                if following is not None:
                    self.go(following)
                    return

    def show_strip(self, wanted: bool) -> None:
        """Show the film strip where there are several pictures, or not at all; the keys work all the same."""
        self._shown = wanted
        self._show_strip()

    def close(self) -> None:
        """Ask for nothing more, since the engine is about to be closed."""
        self._look.stop()
        self._look.timeout.disconnect()
        self.preparation.close()

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _show_strip(self) -> None:
        self.strip.setVisible(self._shown and len(self.pictures) > 1)

    def _show_state(self) -> None:
        self.strip.show_state()
        self._look.start()
        self.preparation.resume()
        self.changed.emit()

    def _neighbours(self) -> list[Path]:
        return [self.pictures.pictures[index].path for index in self.pictures.neighbours()]

    def _found_unreadable(self, path: Path, why: str) -> None:
        index = self.pictures.index(path)
        if index is not None:
            self.pictures.mark(index, why)
            self._show_state()

    # -- thumbnails --------------------------------------------------------------------------------------------------

    def _make_thumbnail(self) -> None:
        """Ask for the thumbnail of one entry that can be seen and has none; its answer asks for the next."""
        if self._asked_thumbnail is not None or not self.strip.row.isVisible():
            return
        entries = (self.pictures.pictures[row] for row in self.strip.row.visible_rows())
        path = next((one.path for one in entries if not self.strip.thumbnails.has_thumbnail(one.path)), None)
        if path is None:
            return
        self._asked_thumbnail = path

        def finished() -> None:
            self._asked_thumbnail = None
            self._look.start()

        self._engine.files(
            _THUMBNAIL,
            lambda progress: _small(path),
            lambda small: self._show_thumbnail(path, small, ""),
            failed=lambda sentence, details: self._show_thumbnail(path, None, sentence),
            finished=finished,
            background=True,
        )

    def _show_thumbnail(self, path: Path, small: QImage | None, why: str) -> None:
        self.strip.thumbnails.add_thumbnail(path, None if small is None else QPixmap.fromImage(small))
        index = self.pictures.index(path)
        if index is not None and (small is not None or why):
            self.pictures.mark(index, why)
            self.strip.show_count()


def _small(path: Path) -> QImage | None:
    """The thumbnail of a file; None if it would take long. Raises ImageError."""
    pixels = thumbnail(path, _SIDE)
    if pixels is None:
        return None
    height, width, _ = pixels.shape
    return QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
