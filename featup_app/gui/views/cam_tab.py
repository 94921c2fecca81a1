"""Settings of the class activation map: the class or classes, the method, and colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from PySide6.QtCore import QSignalBlocker, QStringListModel, Qt
from PySide6.QtWidgets import QCheckBox, QComboBox, QCompleter, QLineEdit, QListWidget, QListWidgetItem

from featup_app.gui.views.lens_tab import LensTab, colormap_box, heading
from featup_app.gui.widgets import PlainLabel
from featup_app.images import Image
from featup_app.lenses import CAMRequest, CAMView, LensView, Request, search_classes
from featup_app.lenses.cam import CLASS, EIGENCAM, PICTURE
from featup_app.lenses.cam import METHODS as CAM_METHODS


class CAMTab(LensTab):
    """The most probable classes, a search among all, a class to subtract, the method, and the colours."""

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
        self._model = QStringListModel()
        self.search = self._search_box("Search class", self._choose_text)
        self.search.setToolTip("Type a part of the name of one of the classes, choose one, and press Return")
        self.column.addWidget(self.search)
        self.column.addWidget(heading("Minus another class"))
        self.minus = self._search_box("Class to subtract", self._subtract)
        self.minus.setToolTip("Show where the chosen class has more evidence (red) or less (blue) than this one")
        self.minus.textChanged.connect(self._subtract_nothing)
        self.column.addWidget(self.minus)
        self.column.addWidget(heading("Method"))
        self._build_method()
        self.column.addWidget(heading("Colours"))
        self.colormap = colormap_box()
        self.colormap.currentTextChanged.connect(lambda name: self._ask(colormap=name))
        self.column.addWidget(self.colormap)
        self.note = PlainLabel("", objectName="muted")
        self.note.setWordWrap(True)
        self.column.addWidget(self.note)
        self.show_request(self._request)

    def _search_box(self, name: str, chosen: Callable[[str], None]) -> QLineEdit:
        """A box for the name of a class, with those that hold what is typed below it."""
        box = QLineEdit()
        box.setPlaceholderText("Search by name…")
        box.setClearButtonEnabled(True)
        box.setAccessibleName(name)
        completer = QCompleter(self._model, box)
        # Found and ranked by the lenses.
        completer.setCompletionMode(QCompleter.CompletionMode.UnfilteredPopupCompletion)
        completer.setMaxVisibleItems(14)
        box.setCompleter(completer)
        box.textEdited.connect(self._find)
        completer.activated.connect(chosen)
        box.returnPressed.connect(lambda: chosen(box.text()))
        return box

    def _build_method(self) -> None:
        self.method = QComboBox()
        self.method.setAccessibleName("Method")
        self.method.setToolTip(
            "How the weights of the channels are found. HiResCAM and LayerCAM weigh each cell for itself and bring up "
            "one map to this size; EigenCAM needs no class"
        )
        self.method.addItem("Automatic", None)
        for name, title in CAM_METHODS.items():
            self.method.addItem(title, name)
        self.method.activated.connect(lambda: self._choose_method(self.method.currentData()))
        self.whole = QCheckBox("Explain the picture as a whole")
        self.whole.setToolTip(
            "Instead of a class: what the pooled features of the picture owe to each position. For backbones without classes too"
        )
        self.whole.clicked.connect(self._explain_picture)
        self.drop = QCheckBox("Measure average drop")
        self.drop.setToolTip(
            "How much less probable the class becomes when the picture is multiplied by the map. Runs the classifier twice"
        )
        self.drop.clicked.connect(lambda on: self._ask(drop=on))
        for widget in (self.method, self.whole, self.drop):
            self.column.addWidget(widget)

    def show_request(self, request: Request) -> None:
        assert isinstance(request, CAMRequest)
        before, self._request = self._request, request
        with QSignalBlocker(self.colormap), QSignalBlocker(self.minus):
            self.colormap.setCurrentText(request.colormap)
            if before.against is not None and request.against is None:  # what is typed meanwhile stays
                self.minus.clear()
        self.method.setCurrentIndex(self.method.findData(request.method))
        self.whole.setChecked(request.target == PICTURE)
        self.drop.setChecked(request.drop)
        self.colormap.setEnabled(request.against is None)  # a difference has colours of its own
        self.minus.setEnabled(request.of_a_class)
        self.drop.setEnabled(request.of_a_class)

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
            if view.chosen is not None and choice.index == view.chosen.index:
                self.top.setCurrentItem(item)
        self._names = view.class_names or self._names
        self.note.setText("\n\n".join(filter(None, [_explained(view), _dropped(view), view.note])))

    def _choose_item(self, item: QListWidgetItem) -> None:
        self.search.clear()
        index = item.data(Qt.ItemDataRole.UserRole)
        name = self._names[index]
        # By name where that is one class: the same number is something else for another backbone.
        alone = list(self._names).count(name) == 1 and not name.strip().isdecimal()
        self._choose_class(name if alone else index)

    def _find(self, text: str) -> None:
        self._model.setStringList([self._names[index] for index in search_classes(self._names, text)])

    def _choose_text(self, text: str) -> None:
        if text.strip():
            self._choose_class(text)

    def _choose_class(self, chosen: str | int) -> None:
        method = None if self._request.method == EIGENCAM else self._request.method
        self._ask(chosen=chosen, method=method, target=CLASS)

    def _subtract(self, text: str) -> None:
        if text.strip():
            self._ask(against=text)

    def _subtract_nothing(self, text: str) -> None:
        if not text and self._request.against is not None:
            self._ask(against=None)

    def _choose_method(self, method: str | None) -> None:
        if method == EIGENCAM:
            self._ask(method=method, target=CLASS, chosen=None, against=None, drop=False)
        else:
            self._ask(method=method, target=CLASS if method == "cam" else self._request.target)

    def _explain_picture(self, on: bool) -> None:
        if on:
            method = None if self._request.method in ("cam", EIGENCAM) else self._request.method
            self._ask(method=method, target=PICTURE, chosen=None, against=None, drop=False)
        else:
            self._ask(target=CLASS)

    def _ask(self, **changes: Any) -> None:
        self.asked.emit(replace(self._request, **changes))


def _explained(view: CAMView) -> str:
    if view.chosen is None:
        return f"{view.kind}. {view.meaning()}."
    explained = f"{view.kind} for “{view.chosen.name}”, probability {100 * view.chosen.probability:.1f} %."
    if view.against is None:
        return explained
    other = f"“{view.against.name}”, probability {100 * view.against.probability:.1f} %"
    return f"{explained.rstrip('.')}, less that for {other}. {view.meaning()}."


def _dropped(view: CAMView) -> str | None:
    """The average drop in words; None if it was not measured."""
    if view.masked is None:
        return None
    whole, masked = (f"{100 * each:.1f} %" for each in (view.masked.whole, view.masked.masked))
    return f"Average drop {100 * view.masked.drop:.1f} %: from {whole} to {masked} when the picture is multiplied by the map."
