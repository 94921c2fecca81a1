"""What the similarity is asked of: tools to mark with, the list of marks, and how several answers become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtGui import QColor, QKeyEvent
from PySide6.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from featup_app.gui import style
from featup_app.gui.marks.tools import BOX, BRUSH, OUTLINE, POINT, Tool
from featup_app.gui.widgets import button, choice_buttons, number_box, row_of
from featup_app.lenses.queries import COMBINES, FORMULAS, Query, settled_combine

_HOW = "Shift adds one more; Alt or Ctrl adds one that is not meant; Delete removes the chosen one."
_TOOLS = {
    POINT: ("Point", f"Click a pixel to compare all others with it. {_HOW}"),
    BOX: ("Box", f"Drag a rectangle; its pixels are asked together. {_HOW}"),
    BRUSH: ("Brush", f"Drag a stroke of the given width; its pixels are asked together. {_HOW}"),
    OUTLINE: ("Outline", f"Drag around an area; the pixels inside are asked together. {_HOW}"),
}
_COMBINES = {"mean": "Mean of the marks", "maximum": "The most alike mark", "difference": "Positive less negative"}
_SIGNS = {False: "+", True: "−"}
_LIST_HEIGHT = 104


class QueryPanel(QWidget):
    """The list appears with the second mark; one point alone has its coordinates instead.

    Signals:
        tool_chosen(Tool): what the mouse draws.
        changed(queries): the person changed what is asked, a tuple of queries.
        combine_chosen(name): how answers become one.
        selected(index or None): a mark of the list is chosen.
        pin_chosen(bool): other pictures are asked about the marks too.
        save_asked(), load_asked(): the buttons for files.
    """

    tool_chosen = Signal(object)
    changed = Signal(object)
    combine_chosen = Signal(str)
    selected = Signal(object)
    pin_chosen = Signal(bool)
    save_asked = Signal()
    load_asked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._queries: tuple[Query, ...] = ()
        group = QButtonGroup(self)
        self.tools = choice_buttons(_TOOLS, group)
        group.buttonClicked.connect(lambda _: self._choose_tool())
        self.width_box = number_box("Brush width", "Width of the brush in pixels of the image", 1, 1000)
        self.width_box.setValue(20)
        self.width_box.setSuffix(" px")
        self.width_box.valueChanged.connect(lambda _: self._choose_tool())
        self.width_box.hide()

        self.list = QListWidget()
        self.list.setFixedHeight(_LIST_HEIGHT)
        self.list.setSpacing(1)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)  # long titles end in "…"
        self.list.setAccessibleName("Marks")
        self.list.setToolTip("Tick: the mark is asked. Double click: give it a name. Delete: remove it.")
        self.list.itemChanged.connect(self._edited)
        self.list.currentRowChanged.connect(lambda row: self.selected.emit(row if row >= 0 else None))
        self.negate = button("Negate", "Make the chosen mark one that is not meant, or the other way round")
        self.remove = button("Remove", "Remove the chosen mark, or the last one (Delete)")
        self.clear = button("Only this", "Remove all marks but the chosen one")
        self.negate.clicked.connect(self._negate_chosen)
        self.remove.clicked.connect(self.remove_chosen)
        self.clear.clicked.connect(self._keep_chosen)
        self.combine = QComboBox()
        self.combine.setAccessibleName("How answers become one")
        for name in COMBINES:
            self.combine.addItem(_COMBINES[name], name)
            self.combine.setItemData(self.combine.count() - 1, FORMULAS[name], Qt.ItemDataRole.ToolTipRole)
        self.combine.activated.connect(lambda _: self.combine_chosen.emit(self.combine.currentData()))
        self.pin = QCheckBox("Pin for other pictures")
        self.pin.setToolTip("Ask every picture that is opened about these marks, in one scale of colours")
        self.pin.toggled.connect(self.pin_chosen)
        self.save, self.load = QPushButton("Save…"), QPushButton("Load…")
        self.save.setToolTip("Save the marks with their features, to ask other pictures of them")
        self.load.setToolTip("Ask this picture about marks that were saved")
        self.save.clicked.connect(lambda: self.save_asked.emit())
        self.load.clicked.connect(lambda: self.load_asked.emit())

        self.several = QWidget()
        inner = QVBoxLayout(self.several)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addWidget(self.list)
        inner.addLayout(row_of(self.negate, self.remove, self.clear))
        inner.addWidget(self.combine)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row_of(*self.tools.values()))
        column.addWidget(self.width_box)
        column.addWidget(self.several)
        column.addWidget(self.pin)
        column.addLayout(row_of(self.save, self.load))
        self.several.hide()

    def show_queries(self, queries: Sequence[Query], combine: str | None) -> None:
        """Show what is asked, without asking for anything."""
        chosen = self.list.currentRow()
        grew = len(queries) > len(self._queries)
        self._queries = tuple(queries)
        with QSignalBlocker(self.list), QSignalBlocker(self.combine):
            self.list.clear()
            for query in queries:
                self.list.addItem(_item(query))
            self.list.setCurrentRow(len(queries) - 1 if grew else min(chosen, len(queries) - 1))
            shown = [query for query in queries if not query.hidden]
            self.combine.setCurrentIndex(self.combine.findData(settled_combine(shown, combine)))
            self.combine.setToolTip(FORMULAS[self.combine.currentData()])
            self.combine.setEnabled(len(shown) > 1)
        self.several.setVisible(len(queries) > 1)
        self.selected.emit(self.list.currentRow() if len(queries) > 1 else None)

    @property
    def chosen(self) -> int:
        """Index of the chosen mark, of the last one if none is chosen."""
        row = self.list.currentRow()
        return row if row >= 0 else len(self._queries) - 1

    def remove_chosen(self) -> None:
        """Remove the chosen mark; the last positive one stays, since something must be asked."""
        index = self.chosen
        self._change([query for other, query in enumerate(self._queries) if other != index])

    def _negate_chosen(self) -> None:
        index = self.chosen
        flipped = replace(self._queries[index], negative=not self._queries[index].negative)
        self._change([flipped if other == index else query for other, query in enumerate(self._queries)])

    def _keep_chosen(self) -> None:
        self._change([replace(self._queries[self.chosen], negative=False, hidden=False)])

    def _edited(self, item: QListWidgetItem) -> None:
        index = self.list.row(item)
        query = self._queries[index]
        hidden = item.checkState() != Qt.CheckState.Checked
        name = "" if item.text() == _title(query) and not query.name else item.text().lstrip("+− ").strip()
        edited = replace(query, hidden=hidden, name=name)
        if edited != query:
            self._change([edited if other == index else each for other, each in enumerate(self._queries)])

    def _change(self, queries: Sequence[Query]) -> None:
        if any(not query.negative and not query.hidden for query in queries):
            self.changed.emit(tuple(queries))
        else:
            self.show_queries(self._queries, self.combine.currentData())  # something must be asked

    def _choose_tool(self) -> None:
        name = next(name for name, tool in self.tools.items() if tool.isChecked())
        self.width_box.setVisible(name == BRUSH)
        self.tool_chosen.emit(Tool(name, float(self.width_box.value())))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.remove_chosen()
        else:
            super().keyPressEvent(event)


def _title(query: Query) -> str:
    return f"{_SIGNS[query.negative]}  {query.words}"


def _item(query: Query) -> QListWidgetItem:
    item = QListWidgetItem(_title(query))
    item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsEditable)
    item.setCheckState(Qt.CheckState.Unchecked if query.hidden else Qt.CheckState.Checked)
    item.setToolTip(query.mark.words)
    if query.negative:
        item.setForeground(QColor(style.MARK_NEGATIVE))
    return item
