"""Settings and facts of the lens in hand: components, query, classes, and where the features come from."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QRectF, QSignalBlocker, QSize, QStringListModel, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import (
    QComboBox,
    QCompleter,
    QDoubleSpinBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from featup_app.engine.views import CAMView, FieldFacts, PCAOptions, PCAView, SimilarityView
from featup_app.features import Point
from featup_app.fields import find_method
from featup_app.gui import style
from featup_app.gui.quality.quality_tab import QualityTab
from featup_app.images import Image
from featup_app.lenses.pictures import COLORMAPS

_COLOURS = ("Red", "Green", "Blue")
_TRIPLES = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
_FITS = (
    ("grid", "Low-res map", "Fit on the backbone's own feature grid: colours mean the same for every method"),
    ("field", "These features", "Fit on the upsampled features alone"),
    ("joint", "All methods", "Fit on the upsampled features of all methods together, one set of colours for all"),
)


class _ShareBars(QWidget):
    """How much variance each component explains, as bars with numbers."""

    ROW = 20

    def __init__(self) -> None:
        super().__init__()
        self._shares: Sequence[float] = ()
        self._shown: Sequence[int] = ()
        self.setFixedHeight(9 * self.ROW)
        self.setToolTip("Share of the variation in the features that each principal component explains")

    def show_shares(self, shares: Sequence[float], shown: Sequence[int]) -> None:
        self._shares, self._shown = shares, shown
        self.setFixedHeight(max(1, len(shares)) * self.ROW)
        self.setAccessibleDescription(", ".join(f"{i + 1}: {100 * s:.1f} %" for i, s in enumerate(shares)))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colours = dict(zip(self._shown, ("#ff6b6b", "#5fd37a", "#6aa8ff"), strict=False))
        largest = max([*self._shares, 1e-9])
        room = self.width() - 84
        for index, share in enumerate(self._shares):
            top = index * self.ROW
            painter.setPen(QColor(style.MUTED))
            painter.drawText(
                QRectF(0, top, 18, self.ROW),
                Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
                str(index + 1),
            )
            painter.drawText(
                QRectF(self.width() - 52, top, 52, self.ROW),
                Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
                f"{100 * share:.1f} %",
            )
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(colours.get(index + 1, style.BORDER)))
            painter.drawRoundedRect(QRectF(26, top + 5, max(2.0, room * share / largest), self.ROW - 10), 3, 3)


class PCATab(QWidget):
    """Signal ``chosen(PCAOptions)``."""

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._options = PCAOptions()
        layout = _column(self)
        layout.addWidget(_heading("Components"))
        row = QHBoxLayout()
        self.triples: list[QPushButton] = []
        for triple in _TRIPLES:
            button = QPushButton(f"{triple[0]}–{triple[2]}")
            button.setCheckable(True)
            button.setToolTip(f"Show components {triple[0]} to {triple[2]} as red, green and blue")
            button.clicked.connect(lambda _=False, numbers=triple: self._choose(numbers=numbers))
            self.triples.append(button)
            row.addWidget(button)
        layout.addLayout(row)
        grid = QGridLayout()
        self.channels: list[QComboBox] = []
        for column, colour in enumerate(_COLOURS):
            box = QComboBox()
            box.setAccessibleName(f"Component shown as {colour.lower()}")
            box.setToolTip(f"Which component is shown as {colour.lower()}")
            box.addItems([str(number) for number in range(1, 10)])
            box.activated.connect(self._boxes_changed)
            label = QLabel(colour)
            label.setBuddy(box)
            grid.addWidget(label, 0, column)
            grid.addWidget(box, 1, column)
            self.channels.append(box)
        layout.addLayout(grid)
        layout.addWidget(_heading("Fit on"))
        self.fit = QComboBox()
        self.fit.setAccessibleName("Fit on")
        for value, title, tooltip in _FITS:
            self.fit.addItem(title, value)
            self.fit.setItemData(self.fit.count() - 1, tooltip, Qt.ItemDataRole.ToolTipRole)
        self.fit.setToolTip("What the principal components are computed from")
        self.fit.activated.connect(lambda: self._choose(fit=self.fit.currentData()))
        layout.addWidget(self.fit)
        layout.addWidget(_heading("Explained variance"))
        self.bars = _ShareBars()
        layout.addWidget(self.bars)
        layout.addStretch(1)
        self._show(self._options)

    def show_view(self, view: PCAView) -> None:
        self.bars.show_shares(view.explained, view.numbers)

    def _boxes_changed(self) -> None:
        self._choose(numbers=tuple(int(box.currentText()) for box in self.channels))

    def _choose(self, *, numbers: tuple[int, ...] | None = None, fit: str | None = None) -> None:
        self._options = PCAOptions(numbers or self._options.numbers, fit or self._options.fit)  # type: ignore[arg-type]
        self._show(self._options)
        self.chosen.emit(self._options)

    def _show(self, options: PCAOptions) -> None:
        for box, number in zip(self.channels, options.numbers, strict=True):
            box.setCurrentIndex(number - 1)
        for button, triple in zip(self.triples, _TRIPLES, strict=True):
            button.setChecked(options.numbers == triple)


class SimilarityTab(QWidget):
    """Signals ``query_chosen((x, y))`` and ``colours_changed()``."""

    query_chosen = Signal(object)
    colours_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        layout = _column(self)
        layout.addWidget(_heading("Query pixel"))
        form = QFormLayout()
        self.x_box, self.y_box = QDoubleSpinBox(), QDoubleSpinBox()
        for box, axis in ((self.x_box, "x"), (self.y_box, "y")):
            box.setDecimals(1)
            box.setKeyboardTracking(False)
            box.setSuffix(" px")
            box.setAccessibleName(f"Query {axis}")
            box.setToolTip("The pixel that all others are compared with, in pixels of the original image. "
                           "Click a view or use the arrow keys to move it.")  # fmt: skip
            box.valueChanged.connect(self._moved)
            form.addRow(axis, box)
        layout.addLayout(form)
        layout.addWidget(_heading("Colours"))
        self.colormap = _colormap_box("viridis")
        self.colormap.currentTextChanged.connect(self.colours_changed)
        layout.addWidget(self.colormap)
        self.range = QComboBox()
        self.range.setAccessibleName("Colour range")
        self.range.addItem("Range of this image", "image")
        self.range.addItem("Fixed, −1 to 1", "fixed")
        self.range.addItem("Fixed, 0 to 1", "positive")
        self.range.setToolTip("Fixed ranges make pictures of different images or queries comparable")
        self.range.currentIndexChanged.connect(self.colours_changed)
        layout.addWidget(self.range)
        hint = QLabel("1 is the same direction in feature space, 0 unrelated, −1 opposite.", objectName="muted")
        hint.setWordWrap(True)
        layout.addWidget(hint)
        layout.addStretch(1)

    def show_image(self, image: Image) -> None:
        height, width = image.size_hw
        for box, limit in ((self.x_box, width), (self.y_box, height)):
            with QSignalBlocker(box):
                box.setRange(0, limit)

    def show_query(self, point: Point) -> None:
        for box, value in ((self.x_box, point[0]), (self.y_box, point[1])):
            with QSignalBlocker(box):
                box.setValue(value)

    def limits(self, view: SimilarityView) -> tuple[float, float]:
        """Colour limits as chosen."""
        fixed = {"fixed": (-1.0, 1.0), "positive": (0.0, 1.0)}
        return fixed.get(self.range.currentData()) or view.limits()

    def _moved(self) -> None:
        self.query_chosen.emit((self.x_box.value(), self.y_box.value()))


class CAMTab(QWidget):
    """Signals ``class_chosen(index or None)`` and ``colours_changed()``."""

    class_chosen = Signal(object)
    colours_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._names: Sequence[str] = ()
        layout = _column(self)
        layout.addWidget(_heading("Most probable classes"))
        self.top = QListWidget()
        self.top.setAccessibleName("Most probable classes")
        self.top.setToolTip("Choose a class to see where its evidence lies")
        self.top.setFixedHeight(5 * 24 + 8)
        self.top.itemClicked.connect(self._choose_item)
        self.top.itemActivated.connect(self._choose_item)
        layout.addWidget(self.top)
        layout.addWidget(_heading("Any class"))
        self.search = QLineEdit()
        self.search.setPlaceholderText("Search by name…")
        self.search.setClearButtonEnabled(True)
        self.search.setAccessibleName("Search class")
        self.search.setToolTip("Type a part of the name of one of the classes, choose one, and press Return")
        self._model = QStringListModel()
        completer = QCompleter(self._model)
        completer.setFilterMode(Qt.MatchFlag.MatchContains)
        completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        completer.setMaxVisibleItems(14)
        self.search.setCompleter(completer)
        completer.activated.connect(self._choose_text)
        self.search.returnPressed.connect(lambda: self._choose_text(self.search.text()))
        layout.addWidget(self.search)
        layout.addWidget(_heading("Colours"))
        self.colormap = _colormap_box("inferno")
        self.colormap.currentTextChanged.connect(self.colours_changed)
        layout.addWidget(self.colormap)
        self.note = QLabel("", objectName="muted")
        self.note.setWordWrap(True)
        layout.addWidget(self.note)
        layout.addStretch(1)

    def show_view(self, view: CAMView) -> None:
        self.top.clear()
        for choice in view.top:
            item = QListWidgetItem(f"{100 * choice.probability:4.1f} %   {choice.name}")
            item.setData(Qt.ItemDataRole.UserRole, choice.index)
            item.setToolTip(f"Class {choice.index}")
            self.top.addItem(item)
            if choice.index == view.chosen.index:
                self.top.setCurrentItem(item)
        if view.class_names is not self._names:
            self._names = view.class_names
            self._model.setStringList(list(view.class_names))
        explained = f"{view.kind} for “{view.chosen.name}”, probability {100 * view.chosen.probability:.1f} %."
        self.note.setText(f"{explained}\n\n{view.note}" if view.note else explained)

    def _choose_item(self, item: QListWidgetItem) -> None:
        self.search.clear()
        self.class_chosen.emit(item.data(Qt.ItemDataRole.UserRole))

    def _choose_text(self, text: str) -> None:
        if text.strip():
            self.class_chosen.emit(text)


class FactsTab(QScrollArea):
    """Where the features come from, in words."""

    def __init__(self) -> None:
        super().__init__()
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        page = QWidget()
        self.setWidget(page)
        column = QVBoxLayout(page)
        column.setContentsMargins(12, 12, 12, 12)
        self._form = QFormLayout()
        self._form.setVerticalSpacing(7)
        column.addLayout(self._form)
        column.addStretch(1)
        self._labels: dict[str, QLabel] = {}
        for key, tooltip in (
            ("Image", "Width and height of the original in pixels, and what its file holds"),
            ("Backbone", "The pretrained model"),
            ("Layer", "Which of its layers, and how many channels that has"),
            ("Input", "What the whole image was resized to for the backbone; nothing is cropped"),
            ("Feature grid", "Columns and rows of the coarse map, and the size of a cell in image pixels"),
            ("Method", "How the coarse map was brought to the output size"),
            ("Weights", "Which weights FeatUp JBU uses, what they were trained on and for"),
            ("Output", "Width and height of the upsampled features, and how much their export would take in float32"),
        ):
            label = QLabel("–")
            label.setWordWrap(True)
            label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            label.setToolTip(tooltip)
            name = QLabel(key, objectName="muted")
            name.setToolTip(tooltip)
            self._form.addRow(name, label)
            self._labels[key] = label

    def show_image(self, image: Image) -> None:
        height, width = image.size_hw
        notes = "".join(f"\n{note}" for note in image.notes)
        self._labels["Image"].setText(f"{width} × {height}, {image.mode}{notes}")

    def show_facts(self, facts: FieldFacts) -> None:
        geometry = facts.geometry
        cell = geometry.cell_size_xy
        gigabytes = facts.channels * facts.size[0] * facts.size[1] * 4 / 1e9
        self._labels["Backbone"].setText(facts.backbone_title)
        self._labels["Layer"].setText(f"{facts.layer}, {facts.channels} channels")
        self._labels["Input"].setText(f"{geometry.input_hw[1]} × {geometry.input_hw[0]}")
        self._labels["Feature grid"].setText(
            f"{geometry.grid_hw[1]} × {geometry.grid_hw[0]}, cells of {cell[0]:.1f} × {cell[1]:.1f} px"
        )
        self._labels["Method"].setText(find_method(facts.method).title)
        weights = facts.upsampler
        told = () if weights is None else (weights.title, *(f"{name}: {value}" for name, value in weights.details))
        self._labels["Weights"].setText("\n".join(told) or "–")
        self._labels["Output"].setText(f"{facts.size[1]} × {facts.size[0]}, all channels {gigabytes:.2f} GB")


class Inspector(QTabWidget):
    """The five tabs; each is wide enough for its contents at any font."""

    def __init__(self) -> None:
        super().__init__()
        self.pca, self.similarity, self.cam, self.facts = PCATab(), SimilarityTab(), CAMTab(), FactsTab()
        self.quality = QualityTab()
        for tab, title, tooltip in (
            (self.pca, "PCA", "Principal components as colours"),
            (self.similarity, "Similarity", "How alike each pixel's feature is to that of the query pixel"),
            (self.cam, "CAM", "Class activation maps: where a class finds its evidence"),
            (self.facts, "Facts", "Where the features come from"),
            (self.quality, "Quality", "How true each method stays to the backbone, and how well it follows the image"),
        ):
            self.addTab(tab, title)
            self.setTabToolTip(self.indexOf(tab), tooltip)
        self.setDocumentMode(True)
        self.tabBar().setStyleSheet("QTabBar::tab { padding: 7px 8px; }")  # five tabs side by side
        self.setMinimumWidth(270)

    def sizeHint(self) -> QSize:
        """The same whatever the texts say, so that the views keep their size when a tab or an answer changes."""
        return QSize(300, 520)


def _column(parent: QWidget) -> QVBoxLayout:
    layout = QVBoxLayout(parent)
    layout.setContentsMargins(12, 10, 12, 12)
    layout.setSpacing(7)
    return layout


def _heading(text: str) -> QLabel:
    return QLabel(text, objectName="heading")


def _colormap_box(default: str) -> QComboBox:
    box = QComboBox()
    box.addItems(list(COLORMAPS))
    box.setCurrentText(default)
    box.setAccessibleName("Colour map")
    box.setToolTip("Colours from low to high values")
    return box
