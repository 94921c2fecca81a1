"""The film strip below the image views: where one is in the list, and the row of thumbnails."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, QSize, Qt
from PySide6.QtGui import QResizeEvent, QShowEvent
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from featup_app.gui import style
from featup_app.gui.strip.thumbnail_list import ThumbnailList, Thumbnails
from featup_app.gui.widgets import PlainLabel


class FilmStrip(QWidget):
    """A row of thumbnails with its title. A window that is too low for it shows none of it, and may stay so low.

    Attributes:
        thumbnails: what is shown.
        row: the thumbnails.
        position, broken: the labels: which picture of how many, and how many cannot be read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.thumbnails = Thumbnails()
        self.row = ThumbnailList(self.thumbnails)
        self.row.setToolTip("Click to see a picture; Page Down and Page Up go to the next and the previous one")
        self.position = PlainLabel("", objectName="title")
        self.position.setToolTip("Which of the open pictures is shown")
        self.broken = PlainLabel("", objectName="muted")
        self.broken.setToolTip("Pictures that cannot be read; the tooltip of each says why")
        titles = QVBoxLayout()
        titles.setSpacing(2)
        titles.addStretch(1)
        for label in (self.position, self.broken):
            label.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            titles.addWidget(label)
        titles.addStretch(1)
        self._contents = QWidget(self)
        layout = QHBoxLayout(self._contents)
        layout.setContentsMargins(style.SPACING, 0, style.SPACING, style.SPACING)
        layout.setSpacing(style.SPACING)
        layout.addLayout(titles)
        layout.addWidget(self.row, 1)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def sizeHint(self) -> QSize:
        return self._contents.sizeHint()

    def minimumSizeHint(self) -> QSize:
        return QSize(self._contents.minimumSizeHint().width(), 0)

    def showEvent(self, event: QShowEvent) -> None:
        self.parentWidget().installEventFilter(self)
        self._use_room()
        super().showEvent(event)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() in (QEvent.Type.Resize, QEvent.Type.LayoutRequest):
            self._use_room()
        return super().eventFilter(watched, event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._contents.setGeometry(0, 0, self.width(), self.sizeHint().height())
        super().resizeEvent(event)

    def _use_room(self) -> None:
        """Take the whole height, or none where what stands above would lose what it needs at least."""
        height, above = self.sizeHint().height(), self.parentWidget()
        enough = above.height() >= above.minimumSizeHint().height() + height
        self.setMaximumHeight(height if enough else 0)
        self._contents.setVisible(enough)

    def show_state(self) -> None:
        """Show again what is known about the pictures."""
        pictures = self.thumbnails.pictures
        here = pictures.shown if pictures.asked is None else pictures.asked
        self.position.setText(f"{'–' if here is None else here + 1} of {len(pictures)}")
        widest = f"{len(pictures)} of {len(pictures)}"
        self.position.setMinimumWidth(max(64, self.position.fontMetrics().horizontalAdvance(widest) + 8))
        self.show_count()
        self.thumbnails.refresh()
        if here is not None:
            self.row.show_row(here)

    def show_count(self) -> None:
        """Show how many of the pictures cannot be read."""
        count = self.thumbnails.pictures.broken
        self.broken.setText(f"{count} broken")
        self.broken.setVisible(count > 0)
