"""One column of a comparison: its settings, its picture, what it cost and how it scores."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import QSignalBlocker, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout

from featup_app.engine.comparison import ColumnView
from featup_app.engine.settings import ViewSettings
from featup_app.fields import METHODS
from featup_app.gui.views.footers import LegendBar
from featup_app.gui.views.image_view import ImageView
from featup_app.gui.widgets import ElidedComboBox, ElidedLabel, button, icon_button, plain_tip, row_of
from featup_app.lenses import SCORES


class Column(QFrame):
    """Signals: ``method_chosen(name)``, ``current_asked()`` for the settings of the tool bar, ``use_asked()``, ``removed()``."""

    method_chosen = Signal(str)
    current_asked = Signal()
    use_asked = Signal()
    removed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.method = ElidedComboBox(usual_width=150)
        self.method.setMinimumWidth(70)
        self.method.setAccessibleName("Method of the column")
        for method in METHODS:
            if (
                method.name != "implicit"
            ):  # a fit takes a minute; one that is shown comes with the settings of the tool bar
                self.method.addItem(method.title, method.name)
        self.method.activated.connect(lambda _: self.method_chosen.emit(self.method.currentData()))
        self.current = icon_button(
            "settings",
            "Take the settings of the tool bar",
            "Give this column the settings of the tool bar: backbone, layer, sizes, method and fit",
        )
        self.current.clicked.connect(lambda: self.current_asked.emit())
        self.close_button = icon_button("close", "Remove the column", "Remove this column")
        self.close_button.clicked.connect(lambda: self.removed.emit())
        self.view = ImageView("", tooltip="One column of the comparison", footer=LegendBar())
        self.view.maximise.hide()
        self.view.setMinimumSize(150, 110)  # four fit beside each other on a small screen
        self.cost, self.scores = ElidedLabel("", objectName="muted"), ElidedLabel("", objectName="muted")
        self.use = button("Use", "Choose the settings of this column and close the comparison")
        self.use.clicked.connect(lambda: self.use_asked.emit())
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row_of(self.method, self.current, self.close_button, stretched=0))
        column.addWidget(self.view, 1)
        texts = QVBoxLayout()
        texts.setSpacing(1)
        for widget in (self.cost, self.scores):
            texts.addWidget(widget)
        below = QHBoxLayout()
        below.addLayout(texts, 1)
        below.addWidget(self.use)
        column.addLayout(below)

    def show_settings(self, settings: ViewSettings, title: str) -> None:
        """Show whose column it is, before there is a picture."""
        with QSignalBlocker(self.method):
            self.method.setCurrentIndex(self.method.findData(settings.method))
        self.view.title.setText(title)
        self.view.title.setToolTip(plain_tip(f"{settings.backbone}, {settings.layer or 'default layer'}, {title}"))
        self.cost.setText("")
        self.scores.setText("")

    def show_answer(self, found: ColumnView) -> None:
        """Show the picture of the column and its cost, or the sentence why there is none."""
        if found.view is None:
            self.view.show_nothing(found.error or "")
        else:
            self.view.show_view(found.view)
            if found.note:
                self.view.subtitle.setText(found.note)
        self.view.set_stale(False)
        self.cost.setText("" if found.cost is None else ", ".join(found.cost.in_words()))

    def show_scores(self, scores: Mapping[str, float]) -> None:
        """Show the label-free scores."""
        known = [name for name in SCORES if name.key in scores and scores[name.key] == scores[name.key]]
        self.scores.setText(" · ".join(f"{name.title} {scores[name.key]:.{name.decimals}f}" for name in known))
        self.scores.setToolTip("\n\n".join(f"{name.title} ({name.direction}): {name.meaning}" for name in known))
