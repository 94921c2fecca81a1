"""The row of thumbnails: one cell for each picture that is open, painted from what is known about it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from PySide6.QtCore import (
    QAbstractListModel,
    QEvent,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QRect,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor, QContextMenuEvent, QKeyEvent, QPainter, QPen, QPixmap, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QListView,
    QMenu,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
)

from featup_app.engine.picture_list import Picture, PictureList
from featup_app.gui import style
from featup_app.gui.widgets import plain_tip

CELL = QSize(108, 76)
"""Of a thumbnail with its name and the space around it, in the units of the window system."""

PICTURE = QSize(98, 50)
"""The part of a cell that its picture fits into."""

SCROLL_BAR = 8

_KEPT_THUMBNAILS = 500
_NAME_PIXELS = 11
_STEPS = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1, Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}
_ENDS = {Qt.Key.Key_Home: -1, Qt.Key.Key_End: 1}
_Index = QModelIndex | QPersistentModelIndex


class Thumbnails(QAbstractListModel):
    """The entries of a list of pictures, with their thumbnails as they come.

    Attributes:
        pictures: the list; :meth:`show_list` exchanges it, and :meth:`refresh` says that entries have changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pictures = PictureList()
        self._pixmaps: OrderedDict[Path, QPixmap | None] = OrderedDict()

    def show_list(self, pictures: PictureList) -> None:
        """Show other pictures, or a list from which entries were taken."""
        self.beginResetModel()
        self.pictures = pictures
        self.endResetModel()

    def refresh(self) -> None:
        """Draw all entries again."""
        if len(self.pictures):
            self.dataChanged.emit(self.index(0), self.index(len(self.pictures) - 1))

    def add_thumbnail(self, path: Path, pixmap: QPixmap | None) -> None:
        """Keep the thumbnail of a file; None if there is none to be had."""
        self._pixmaps[path] = pixmap
        while len(self._pixmaps) > _KEPT_THUMBNAILS:
            self._pixmaps.popitem(last=False)
        self.refresh()

    def has_thumbnail(self, path: Path) -> bool:
        """Whether the thumbnail of a file is there, or is known to be none."""
        return path in self._pixmaps

    def thumbnail(self, path: Path) -> QPixmap | None:
        """The thumbnail of a file, if there is one."""
        return self._pixmaps.get(path)

    def rowCount(self, parent: _Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.pictures)

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid() or index.row() >= len(self.pictures):
            return None
        picture = self.pictures.pictures[index.row()]
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole):
            return f"{picture.name}, broken" if picture.broken else picture.name
        if role in (Qt.ItemDataRole.ToolTipRole, Qt.ItemDataRole.AccessibleDescriptionRole):
            return plain_tip(picture.why if picture.broken else str(picture.path))
        return None


class _Cell(QStyledItemDelegate):
    """Paints a thumbnail, its name, and the mark of the picture that is shown."""

    def __init__(self, thumbnails: Thumbnails) -> None:
        super().__init__()
        self._thumbnails = thumbnails

    def sizeHint(self, option: QStyleOptionViewItem, index: _Index) -> QSize:
        return CELL

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        pictures = self._thumbnails.pictures
        if index.row() >= len(pictures):
            return
        picture = pictures.pictures[index.row()]
        marked = index.row() == (pictures.shown if pictures.asked is None else pictures.asked)
        hovered = bool(option.state & QStyle.StateFlag.State_MouseOver)
        painter.save()
        painter.setRenderHints(QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform)
        frame = option.rect.adjusted(2, 2, -2, -2)
        if marked or hovered:
            painter.setPen(QPen(QColor(style.ACCENT), 2) if marked else QPen(QColor(style.MUTED), 1))
            painter.setBrush(QColor(style.CHECKED if marked else style.RAISED))
            painter.drawRoundedRect(frame, 4, 4)
        room = QRect(frame.left() + (frame.width() - PICTURE.width()) // 2, frame.top() + 4, *PICTURE.toTuple())
        self._paint_picture(painter, room, picture)
        font = option.font
        font.setPixelSize(_NAME_PIXELS)
        painter.setFont(font)
        painter.setPen(QColor(style.TEXT if marked else style.MUTED))
        line = QRect(room.left(), room.bottom() + 2, room.width(), frame.bottom() - room.bottom() - 3)
        name = painter.fontMetrics().elidedText(picture.name, Qt.TextElideMode.ElideMiddle, line.width())
        painter.drawText(line, Qt.AlignmentFlag.AlignCenter, name)
        painter.restore()

    def _paint_picture(self, painter: QPainter, room: QRect, picture: Picture) -> None:
        pixmap = self._thumbnails.thumbnail(picture.path)
        if pixmap is not None and not picture.broken:
            size = pixmap.size().scaled(room.size(), Qt.AspectRatioMode.KeepAspectRatio)
            size = size.expandedTo(QSize(1, 1))
            corner = room.center() - QPoint(size.width() // 2 - 1, size.height() // 2 - 1)
            painter.drawPixmap(QRect(corner, size), pixmap)
            return
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(style.CANVAS))
        painter.drawRoundedRect(room, 3, 3)
        if picture.broken:
            side = 22
            corner = room.center() - QPoint(side // 2 - 1, side // 2 - 1)
            style.icon("warning", style.WARNING).paint(painter, QRect(corner, QSize(side, side)))


class ThumbnailList(QListView):
    """One row that scrolls sideways. A key or a click asks for a picture; nothing else is selected in it.

    Signals:
        asked(index): the person wants to see this entry.
        stepped(by), ended(by): the person wants the next (1) or previous (-1) one, or the last (1) or first (-1) one.
        removed(index): the person takes this entry off the list.
        seen(): other entries can be seen than before.
    """

    asked = Signal(int)
    stepped = Signal(int)
    ended = Signal(int)
    removed = Signal(int)
    seen = Signal()

    def __init__(self, thumbnails: Thumbnails) -> None:
        super().__init__()
        self.setObjectName("filmStrip")
        self.setAccessibleName("Film strip")
        self._thumbnails = thumbnails
        self._cell = _Cell(thumbnails)
        self.setModel(thumbnails)
        self.setItemDelegate(self._cell)
        self.setFlow(QListView.Flow.LeftToRight)
        self.setWrapping(False)
        self.setUniformItemSizes(True)
        self.setMouseTracking(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFixedHeight(CELL.height() + SCROLL_BAR + 2 * self.frameWidth())
        self.horizontalScrollBar().setSingleStep(CELL.width() // 2)
        self.horizontalScrollBar().valueChanged.connect(lambda _: self.seen.emit())
        self.clicked.connect(lambda index: self.asked.emit(index.row()))

    def visible_rows(self) -> range:
        """The entries that can be seen."""
        left = self.horizontalOffset()
        first, last = left // CELL.width(), (left + self.viewport().width() - 1) // CELL.width()
        return range(max(0, first), min(len(self._thumbnails.pictures), last + 1))

    def place_of(self, row: int) -> QPoint:
        """The middle of an entry, in pixels of the viewport."""
        return self.visualRect(self._thumbnails.index(row)).center()

    def show_row(self, row: int) -> None:
        """Scroll until an entry can be seen, with its neighbours where there is room."""
        bar, width = self.horizontalScrollBar(), self.viewport().width()
        margin = CELL.width() if width >= 3 * CELL.width() else 0
        left, right = row * CELL.width() - margin, (row + 1) * CELL.width() + margin
        if left < bar.value():
            bar.setValue(left)
        elif right > bar.value() + width:
            bar.setValue(right - width)

    def event(self, event: QEvent) -> bool:
        overrides = event.type() == QEvent.Type.ShortcutOverride
        if overrides and isinstance(event, QKeyEvent) and event.key() in _ENDS:
            event.accept()  # a shortcut of the window otherwise
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        key, shown = Qt.Key(event.key()), self._thumbnails.pictures.shown
        if key in _STEPS:
            self.stepped.emit(_STEPS[key])
        elif key in _ENDS:
            self.ended.emit(_ENDS[key])
        elif key == Qt.Key.Key_Delete and shown is not None:
            self.removed.emit(shown)
        else:
            event.ignore()

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        index = self.indexAt(event.pos())
        if index.isValid():
            row, menu = index.row(), QMenu(self)
            menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
            menu.addAction("Remove from the strip; the file stays", lambda: self.removed.emit(row))
            menu.popup(event.globalPos())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.seen.emit()
