"""Settings of the class activation map: the class, and colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PySide6.QtCore import QSignalBlocker, QStringListModel, Qt
from PySide6.QtWidgets import QCompleter, QLineEdit, QListWidget, QListWidgetItem

from featup_app.gui.views.lens_tab import LensTab, colormap_box, heading
from featup_app.gui.widgets import PlainLabel
from featup_app.images import Image
from featup_app.lenses import CAMRequest, CAMView, LensView, Request, search_classes


class CAMTab(LensTab):
    """The most probable classes, a search among all, and the colours."""

    def build(self) -> None:
        self._names: Sequence[str] = ()
        self._request = CAMRequest()
        self.column.addWidget(heading("Most probable classes"))
        self.top = QListWidget()
        self.top.setAccessibleName("Most probable classes")
        self.top.setToolTip("Choose a class to see where its evidence lies")
        self.top.setFixedHeight(5 * 24 + 8)
        self.top.itemClicked.connect(self._choose_item)
        self.top.itemActivated.connect(self._choose_item)
        self.column.addWidget(self.top)
        self.column.addWidget(heading("Any class"))
        self.search = QLineEdit()
        self.search.setPlaceholderText("Search by name…")
        self.search.setClearButtonEnabled(True)
        self.search.setAccessibleName("Search class")
        self.search.setToolTip("Type a part of the name of one of the classes, choose one, and press Return")
        self._model = QStringListModel()
        completer = QCompleter(self._model)
        completer.setCompletionMode(
            QCompleter.CompletionMode.UnfilteredPopupCompletion
        )  # found and ranked by the lenses
        completer.setMaxVisibleItems(14)
        self.search.setCompleter(completer)
        self.search.textEdited.connect(self._find)
        completer.activated.connect(self._choose_text)
        self.search.returnPressed.connect(lambda: self._choose_text(self.search.text()))
        self.column.addWidget(self.search)
        self.column.addWidget(heading("Colours"))
        self.colormap = colormap_box()
        self.colormap.currentTextChanged.connect(lambda name: self._ask(colormap=name))
        self.column.addWidget(self.colormap)
        self.note = PlainLabel("", objectName="muted")
        self.note.setWordWrap(True)
        self.column.addWidget(self.note)
        self.show_request(self._request)

    def show_request(self, request: Request) -> None:
        assert isinstance(request, CAMRequest)
        self._request = request
        with QSignalBlocker(self.colormap):
            self.colormap.setCurrentText(request.colormap)

    def show_image(self, image: Image) -> None:
        self.top.clear()
        self.note.setText("")

    def show_view(self, view: LensView) -> None:
        assert isinstance(view, CAMView)
        self.top.clear()
        for choice in view.top:
            item = QListWidgetItem(f"{100 * choice.probability:4.1f} %   {choice.name}")
            item.setData(Qt.ItemDataRole.UserRole, choice.index)
            item.setToolTip(f"Class {choice.index}")
            self.top.addItem(item)
            if choice.index == view.chosen.index:
                self.top.setCurrentItem(item)
        self._names = view.class_names
        explained = f"{view.kind} for “{view.chosen.name}”, probability {100 * view.chosen.probability:.1f} %."
        self.note.setText(f"{explained}\n\n{view.note}" if view.note else explained)

    def _choose_item(self, item: QListWidgetItem) -> None:
        self.search.clear()
        index = item.data(Qt.ItemDataRole.UserRole)
        name = self._names[index]
        # By name where that is one class: the same number is something else for another backbone.
        alone = list(self._names).count(name) == 1 and not name.strip().isdecimal()
        self._ask(chosen=name if alone else index)

    def _find(self, text: str) -> None:
        self._model.setStringList([self._names[index] for index in search_classes(self._names, text)])

    def _choose_text(self, text: str) -> None:
        if text.strip():
            self._ask(chosen=text)

    def _ask(self, **changes: Any) -> None:
        self.asked.emit(replace(self._request, **changes))
