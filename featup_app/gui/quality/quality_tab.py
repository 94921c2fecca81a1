"""The Quality tab: a table of how true each method stays to the backbone and how well it follows the image."""

from __future__ import annotations

import math

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QBrush, QColor
from PySide6.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from featup_app.engine.scoring import HELD_OUT, MethodScores
from featup_app.fields import Method
from featup_app.gui import style
from featup_app.gui.widgets import PlainLabel, plain_tip
from featup_app.lenses.score_names import SCORES, ScoreName
from featup_app.multiview.held_out import HELD_OUT_VIEWS

_HINT = "Scores need no labels. Hover a column for what it means; double-click a method to look at it."
_EMPTY, _WAITING = "–", "…"


class QualityTab(QWidget):
    """Signals ``asked(held out, all methods)``, ``stopped()`` and ``method_chosen(name)``."""

    asked = Signal(bool, bool)
    stopped = Signal()
    method_chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, int] = {}
        self._found: dict[str, MethodScores] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 12)
        layout.setSpacing(7)
        self.held_out = QCheckBox("Held-out views")
        self.held_out.setToolTip(f"{_score(HELD_OUT).meaning} The backbone runs {HELD_OUT_VIEWS} more times.")
        self.all_methods = QCheckBox("Slow methods too")
        self.all_methods.setToolTip(
            "Also the methods that run the backbone again or are fitted to the image; seconds to minutes"
        )
        layout.addWidget(self.held_out)
        layout.addWidget(self.all_methods)
        row = QHBoxLayout()
        self.measure = QPushButton("Measure")
        self.measure.setToolTip("Score every method on this image, with the chosen backbone and layer")
        self.measure.clicked.connect(lambda: self.asked.emit(self.held_out.isChecked(), self.all_methods.isChecked()))
        self.stop = QPushButton("Stop")
        self.stop.setToolTip("Stop measuring; the scores found so far stay")
        self.stop.clicked.connect(self.stopped)
        row.addWidget(self.measure)
        row.addWidget(self.stop)
        layout.addLayout(row)
        self.table = QTableWidget(0, 1 + len(SCORES))
        self.table.setAccessibleName("Scores of the methods")
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setShowGrid(False)
        # Not all columns are visible at the inspector's usual width; the order of the scores puts those first that differ most.
        self.table.setStyleSheet(
            "QTableWidget { font-size: 11px; } QTableWidget::item { padding: 0 1px; } "
            "QHeaderView::section { font-size: 10px; padding: 3px 1px; }"
        )
        self.table.horizontalHeader().setMinimumSectionSize(24)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(26)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.setHorizontalHeaderItem(0, QTableWidgetItem("Method"))
        for column, score in enumerate(SCORES, start=1):
            head = QTableWidgetItem(f"{score.title}\n{'↑' if score.higher_is_better else '↓'}")
            head.setToolTip(f"{score.meaning} {score.direction[:1].upper()}{score.direction[1:]}.")
            self.table.setHorizontalHeaderItem(column, head)
        self.table.itemDoubleClicked.connect(self._choose)
        layout.addWidget(self.table, 1)
        self.note = PlainLabel(_HINT, objectName="muted")
        self.note.setWordWrap(True)
        layout.addWidget(self.note)
        self.clear()

    def clear(self) -> None:
        """Show no scores, for another image or other features."""
        self._rows.clear()
        self._found.clear()
        self.table.setRowCount(0)
        self.table.setColumnHidden(self._column(HELD_OUT), True)
        self.note.setText(_HINT)
        self.show_busy(False)

    def expect(self, methods: list[Method], *, held_out: bool) -> None:
        """Show rows for methods that are being measured."""
        self.clear()
        self.table.setColumnHidden(self._column(HELD_OUT), not held_out)
        self.table.setRowCount(len(methods))
        for row, method in enumerate(methods):
            self._rows[method.name] = row
            name = QTableWidgetItem(method.title)
            name.setToolTip(method.description)
            name.setData(Qt.ItemDataRole.UserRole, method.name)
            self.table.setItem(row, 0, name)
            for column in range(1, 1 + len(SCORES)):
                self._fill(row, column, _WAITING)
        self.show_busy(True)

    def show_scores(self, found: MethodScores) -> None:
        """Fill the row of a method and mark the best value of each column."""
        row = self._rows.get(found.method)
        if row is None:
            return
        self._found[found.method] = found
        for column, score in enumerate(SCORES, start=1):
            value = found.scores.get(score.key, math.nan)
            self._fill(row, column, _EMPTY if math.isnan(value) else f"{value:.{score.decimals}f}")
        self.table.item(row, 0).setText(found.title)
        self.note.setText(
            f"Drawn at {found.size[1]} × {found.size[0]} on the components that hold {100 * found.explained:.0f} % of the "
            f"variance. {_HINT}"
        )
        self._mark_best()

    def show_failure(self, method: str, sentence: str) -> None:
        """Show that a method could not be measured."""
        row = self._rows.get(method)
        if row is not None and method not in self._found:
            for column in range(1, 1 + len(SCORES)):
                self._fill(row, column, _EMPTY)
                self.table.item(row, column).setToolTip(plain_tip(sentence))

    def show_busy(self, busy: bool) -> None:
        """Enable the buttons for whether methods are being measured."""
        self.measure.setEnabled(not busy)
        self.stop.setEnabled(busy)

    def _fill(self, row: int, column: int, text: str) -> None:
        item = QTableWidgetItem(text)
        item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        item.setToolTip(self.table.horizontalHeaderItem(column).toolTip())
        self.table.setItem(row, column, item)

    def _mark_best(self) -> None:
        for column, score in enumerate(SCORES, start=1):
            values = {
                name: round(found.scores.get(score.key, math.nan), score.decimals)
                for name, found in self._found.items()
            }
            defined = [value for value in values.values() if not math.isnan(value)]
            if len(defined) < 2:
                continue
            best = max(defined) if score.higher_is_better else min(defined)
            for name, value in values.items():
                item = self.table.item(self._rows[name], column)
                font = item.font()
                font.setBold(value == best)
                item.setFont(font)
                item.setForeground(QBrush(QColor(style.ACCENT if value == best else style.TEXT)))

    def _choose(self, item: QTableWidgetItem) -> None:
        self.method_chosen.emit(self.table.item(item.row(), 0).data(Qt.ItemDataRole.UserRole))

    @staticmethod
    def _column(key: str) -> int:
        return 1 + [score.key for score in SCORES].index(key)


def _score(key: str) -> ScoreName:
    return next(score for score in SCORES if score.key == key)
