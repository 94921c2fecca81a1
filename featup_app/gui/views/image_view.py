"""One linked view: the image, a lens's picture and an outline over it, crosshair, query mark, opacity and footer."""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QObject, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QFocusEvent, QKeyEvent, QMouseEvent, QPainterPath, QPolygonF, QResizeEvent
from PySide6.QtWidgets import (
    QFrame,
    QGraphicsPathItem,
    QHBoxLayout,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from featup_app.features import Point, Size
from featup_app.fields import find_method
from featup_app.gui import style
from featup_app.gui.marks.mark_layer import MarkLayer
from featup_app.gui.marks.tools import LINE, MarkingBox, is_added, is_negative
from featup_app.gui.views.footers import LegendBar
from featup_app.gui.widgets import ElidedLabel, PlainLabel, icon_button, plain_tip
from featup_app.lenses import LensView
from featup_app.lenses.lens import Mask
from featup_app.lenses.pictures import outlines
from featup_app.marks import Mark, PointMark

DIMMED = 0.3
"""How much of its opacity a picture keeps while a newer one is being computed."""

_ARROWS = {
    Qt.Key.Key_Left: (-1, 0),
    Qt.Key.Key_Right: (1, 0),
    Qt.Key.Key_Up: (0, -1),
    Qt.Key.Key_Down: (0, 1),
}


class ImageView(QFrame):
    """A view of the image. All its coordinates are original image pixels, whatever the size of the picture shown.

    Signals:
        hovered(x, y): the mouse is over this image point.
        left(): the mouse went away.
        clicked(x, y): a click without dragging.
        marked(Mark, negative, added): a mark was drawn, or clicked with a key that adds to what is asked.
        held(bool): the space bar is pressed or released over this view.
        lined(first, last): a line was drawn between two image points.
        removed(): a key asks to remove the chosen mark.
        unclicked(): the last click was the first half of a double click, and asks for nothing.
        moved(dx, dy): an arrow key asks to move the query by so many output pixels.
        maximise_asked(): button or double click.
        picked(): the view was chosen, by focus or by a click on its header.
        looked(x, y, scale): the person zoomed or moved this view; its middle in image pixels, screen pixels per image pixel.
        resized(): the picture's part of the view has another size.
    """

    hovered = Signal(float, float)
    left = Signal()
    clicked = Signal(float, float)
    marked = Signal(object, bool, bool)
    held = Signal(bool)
    lined = Signal(object, object)
    removed = Signal()
    unclicked = Signal()
    moved = Signal(int, int)
    maximise_asked = Signal()
    picked = Signal()
    looked = Signal(float, float, float)
    resized = Signal()

    def __init__(self, title: str, *, tooltip: str, with_lens: bool = True, footer: QWidget | None = None) -> None:
        super().__init__()
        self.setObjectName("imageView")
        self.setAccessibleName(f"{title} view")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        # All image views have the same size; long texts are cut rather than the pictures made smaller.
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)
        self.setMinimumSize(240, 150)
        self._image_size: Size = (1, 1)
        self._stale = self._earlier = False
        self._caption = self._origin = ""
        self._clicked = False
        header = self._make_header(title, tooltip)
        self._make_scene()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(1, 1, 1, 1)
        layout.setSpacing(0)
        layout.addLayout(header)
        self.opacity.setVisible(with_lens)  # not before it has a parent: it would be a window for a moment
        layout.addWidget(self._scene, 1)
        self.footer = footer or PlainLabel("")
        self.footer.setFixedHeight(26)
        self.footer.setContentsMargins(10, 0, 10, 0)
        layout.addWidget(self.footer)

        self.opacity.valueChanged.connect(self._update_opacity)
        self.maximise.clicked.connect(self.maximise_asked)
        self._scene.scene().sigMouseMoved.connect(self._mouse_moved)
        self._scene.scene().sigMouseClicked.connect(self._mouse_clicked)
        self._scene.viewport().installEventFilter(self)
        self.box.sigRangeChangedManually.connect(self._looked)
        self.box.drawing.connect(self.marks.show_drawing)
        self.box.drawn.connect(self._drawn)
        self.box.sigResized.connect(lambda: self.resized.emit())

    def _make_header(self, title: str, tooltip: str) -> QHBoxLayout:
        self.title = PlainLabel(title, objectName="title")
        self.title.setToolTip(tooltip)
        self.subtitle = ElidedLabel("", objectName="muted")
        self.subtitle.setToolTip(tooltip)
        self.subtitle.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(0, 100)
        self.opacity.setValue(100)
        self.opacity.setAccessibleName(f"{title} opacity")
        self.opacity.setToolTip("Opacity of the lens over the image: left shows the image, right the lens alone")
        self.maximise = icon_button(
            "maximise", f"Maximise {title}", "Show this view alone, or all four again (double click)"
        )

        header = QHBoxLayout()
        header.setContentsMargins(10, 4, 4, 4)
        header.setSpacing(style.SPACING)
        header.addWidget(self.title)
        header.addWidget(self.subtitle, 1)
        header.addWidget(self.opacity)
        header.addWidget(self.maximise)
        return header

    def _make_scene(self) -> None:
        self._scene = pg.GraphicsView(background=style.CANVAS)
        self._scene.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.box = MarkingBox(lockAspect=True, invertY=True, enableMenu=False, defaultPadding=0.02)
        self._scene.setCentralItem(self.box)
        self._base = pg.ImageItem(axisOrder="row-major")
        self._lens = pg.ImageItem(axisOrder="row-major")
        pen = pg.mkPen(style.CROSSHAIR, width=1)
        self._crosshair = [pg.InfiniteLine(angle=angle, pen=pen, movable=False) for angle in (90, 0)]
        # A ring with a dot, white on black, stays visible on any picture.
        shadow, ring = pg.mkPen(style.QUERY_SHADOW, width=4), pg.mkPen(style.QUERY_RING, width=1.6)
        self._query = [
            pg.ScatterPlotItem(size=size, symbol="o", pen=pen, brush=pg.mkBrush(brush), hoverable=False)
            for size, pen, brush in ((14, shadow, None), (14, ring, None), (3, None, style.QUERY_RING))
        ]
        self._outline = [QGraphicsPathItem() for _ in range(2)]
        for line, pen in zip(self._outline, (shadow, ring), strict=True):
            line.setPen(pen)
        for item in (self._base, self._lens, *self._outline, *self._query):
            self.box.addItem(item)
        self.marks = MarkLayer(self.box)
        for line in self._crosshair:
            line.setVisible(False)
            self.box.addItem(line, ignoreBounds=True)

    # -- pictures --------------------------------------------------------------------------------------------------

    def show_image(self, pixels: NDArray[np.uint8], image_hw: Size) -> None:
        """Show another image, without a lens; the pixels may be a reduced copy of an image of size ``image_hw``."""
        self._image_size = image_hw
        self._base.setImage(pixels, levels=None, autoLevels=False)
        self._base.setRect(self._rectangle())
        self._lens.clear()
        self.show_outline(None)
        self._caption = ""
        self.show_earlier(False)
        if isinstance(self.footer, LegendBar):
            self.footer.show_legend(None)
        self.box.setLimits(
            minXRange=2,
            minYRange=2,
            maxXRange=40 * max(self._image_size),
            maxYRange=40 * max(self._image_size),
        )

    def show_lens(self, pixels: NDArray[np.uint8]) -> None:
        """Lay a picture of any size over the whole image."""
        self._lens.setImage(pixels, levels=None, autoLevels=False)
        self._lens.setRect(self._rectangle())
        self.set_stale(False)

    def show_view(self, view: LensView) -> None:
        """Show what a lens found: its picture, an outline, a few words about it, and its legend."""
        self.show_lens(view.picture())
        self.show_outline(view.outlined())
        self._caption = view.subtitle()
        facts = view.facts
        self._origin = f"{facts.backbone_title}, {facts.layer}, {find_method(facts.method).title}"
        self.show_earlier(self._earlier)
        if isinstance(self.footer, LegendBar):
            self.footer.show_legend(view.legend())

    def show_nothing(self, why: str) -> None:
        """Show the image without a lens, and say why."""
        self._lens.clear()
        self.show_outline(None)
        self._caption = why
        self.show_earlier(False)
        self.set_stale(False)
        if isinstance(self.footer, LegendBar):
            self.footer.show_legend(None)

    def show_earlier(self, earlier: bool) -> None:
        """Mark the picture as one of earlier settings and dim it, or remove the mark; its caption stays its own."""
        self._earlier = earlier and self.has_lens
        self.subtitle.setText(
            f"Earlier settings ({self._origin}) · {self._caption}" if self._earlier else self._caption
        )
        self.subtitle.setToolTip(plain_tip(self.subtitle.text()) if self._earlier else self.title.toolTip())
        self._update_opacity()

    @property
    def earlier(self) -> bool:
        """Whether the picture is marked as one of earlier settings."""
        return self._earlier

    def show_outline(self, region: Mask | None) -> None:
        """Draw the outline of a region, (H, W) over the whole image; None draws none."""
        path = QPainterPath()
        if region is not None:
            scale = np.array(self._image_size[::-1]) / region.shape[::-1]
            for curve in outlines(region):
                path.addPolygon(QPolygonF([QPointF(x, y) for x, y in curve * scale]))
                path.closeSubpath()
        for line in self._outline:
            line.setPath(path)

    @property
    def outline(self) -> QPainterPath:
        """The outline that is drawn, in image pixels; empty for none."""
        return self._outline[0].path()

    @property
    def has_lens(self) -> bool:
        """Whether a lens's picture is shown."""
        return self._lens.image is not None

    def lens_pixels(self) -> NDArray[np.uint8] | None:
        """The picture of the lens as it is shown now, (H, W, 3)."""
        return self._lens.image

    @property
    def shown_opacity(self) -> float:
        """The opacity of the lens over the image that the person chose, 0 to 1."""
        return self.opacity.value() / 100

    def set_stale(self, stale: bool) -> None:
        """Dim the lens's picture while a newer one is computed."""
        self._stale = stale
        self._update_opacity()

    @property
    def stale(self) -> bool:
        """Whether the picture is dimmed."""
        return self._stale

    def _update_opacity(self) -> None:
        opacity = self.shown_opacity
        self._lens.setOpacity(opacity * DIMMED if self._stale or self._earlier else opacity)

    def _rectangle(self) -> QRectF:
        height, width = self._image_size
        return QRectF(0, 0, width, height)

    # -- view ------------------------------------------------------------------------------------------------------

    def look_at(self, middle: Point, scale: float) -> None:
        """Show the part of the image around a point, at so many screen pixels per image pixel."""
        width, height = self.box.width() / scale, self.box.height() / scale
        self.box.setRange(QRectF(middle[0] - width / 2, middle[1] - height / 2, width, height), padding=0)

    def fitting_scale(self) -> float:
        """Screen pixels per image pixel at which the whole image just fits."""
        height, width = self._image_size
        return 0.96 * max(1e-6, min(self.box.width() / width, self.box.height() / height))

    def _looked(self) -> None:
        shown = self.box.viewRect()
        middle = shown.center()
        self.looked.emit(middle.x(), middle.y(), self.box.width() / max(shown.width(), 1e-9))

    def show_crosshair(self, point: Point | None) -> None:
        """Lines through an image point, or none."""
        for line, position in zip(self._crosshair, point or (None, None), strict=True):
            line.setVisible(position is not None)
            if position is not None:
                line.setPos(position)

    def show_query(self, point: Point | None) -> None:
        """The mark of the pixel that everything is compared with."""
        positions = [] if point is None else [{"pos": point}]
        for item in self._query:
            item.setData(positions)

    def to_widget(self, point: Point) -> QPointF:
        """Where an image point lies on :attr:`canvas`, in its pixels (for tests and tooltips)."""
        return QPointF(self._scene.mapFromScene(self.box.mapViewToScene(QPointF(*point))))

    @property
    def canvas(self) -> QWidget:
        """The widget that gets the mouse events of the picture."""
        return self._scene.viewport()

    # -- events ----------------------------------------------------------------------------------------------------

    def _image_point(self, scene_position: QPointF) -> Point | None:
        position = self.box.mapSceneToView(scene_position)
        inside = self._rectangle().contains(position) and self._base.image is not None
        return (position.x(), position.y()) if inside else None

    def _mouse_moved(self, scene_position: QPointF) -> None:
        point = self._image_point(scene_position)
        if point is None:
            self.left.emit()
        else:
            self.hovered.emit(*point)

    def _mouse_clicked(self, event: pg.GraphicsScene.mouseEvents.MouseClickEvent) -> None:
        self.setFocus(Qt.FocusReason.MouseFocusReason)
        if event.button() != Qt.MouseButton.LeftButton:
            return
        point = self._image_point(event.scenePos())
        if event.double():
            if self._clicked:
                self.unclicked.emit()
            self._clicked = False
            self.maximise_asked.emit()
            return
        added = is_added(event.modifiers())
        self._clicked = point is not None and not added
        if point is None:
            return
        if added:
            self.marked.emit(PointMark(point), is_negative(event.modifiers()), True)
        else:
            self.clicked.emit(*point)

    def _drawn(self, mark: Mark, modifiers: Qt.KeyboardModifier) -> None:
        self.setFocus(Qt.FocusReason.MouseFocusReason)
        if self.box.tool.name == LINE:
            self.lined.emit(mark.path[0], mark.path[-1])
        else:
            self.marked.emit(mark, is_negative(modifiers), is_added(modifiers))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Leave:
            self.left.emit()
        return super().eventFilter(watched, event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self.opacity.setFixedWidth(84 if self.width() >= 320 else 44)  # a narrow view leaves room for its caption
        super().resizeEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.picked.emit()
        super().mousePressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        self._show_focus(True)
        self.picked.emit()
        super().focusInEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        self._show_focus(False)
        super().focusOutEvent(event)

    def _show_focus(self, focused: bool) -> None:
        self.setProperty("focused", focused)
        self.style().unpolish(self)
        self.style().polish(self)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.removed.emit()
            return
        if event.key() == Qt.Key.Key_Space:
            if not event.isAutoRepeat():
                self.held.emit(True)
            return
        step = _ARROWS.get(Qt.Key(event.key()))
        if step is None:
            super().keyPressEvent(event)
            return
        factor = 10 if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 1
        self.moved.emit(step[0] * factor, step[1] * factor)

    def keyReleaseEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Space and not event.isAutoRepeat():
            self.held.emit(False)
        else:
            super().keyReleaseEvent(event)
