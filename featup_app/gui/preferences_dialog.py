"""The dialog of preferences: how much memory the program may fill with results that it keeps. Choices take effect at once."""

from __future__ import annotations

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QDoubleSpinBox, QFormLayout, QVBoxLayout, QWidget

from featup_app.base.words import human_bytes
from featup_app.engine import memory
from featup_app.engine.preferences import Preferences, save_preferences
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.wheel import WheelGuard
from featup_app.gui.widgets import PlainLabel, button, form_label, indent, row_of

_GIGABYTE = 10**9
_LEAST = 0.1
_TOOLTIP = (
    "Models, features and answers of the last pictures stay in memory up to this much, so that going back to them is quick; "
    "the oldest are dropped first. What is shown stays, also if it needs more"
)


class PreferencesDialog(QDialog):
    """Changes the preferences and the engine as soon as something is chosen; closing it undoes nothing.

    Args:
        parent: the window.
        engine: keeps the results.
        preferences: written to their file at each choice.

    Attributes:
        budget: the box, in units of 1e9 bytes.
        in_use: the sentence about what is kept now.
    """

    def __init__(self, parent: QWidget, engine: EngineBridge, preferences: Preferences) -> None:
        super().__init__(parent)
        self.setWindowTitle("Preferences")
        self.setMinimumWidth(460)
        self._engine, self._preferences = engine, preferences
        self.budget = QDoubleSpinBox()
        self.budget.setAccessibleName("Memory for results kept")
        self.budget.setToolTip(_TOOLTIP)
        self.budget.setDecimals(1)
        self.budget.setSingleStep(0.5)
        self.budget.setSuffix(" GB")
        self.budget.setRange(_LEAST, max(_LEAST, memory.machine_bytes() / _GIGABYTE))
        self.budget.setKeyboardTracking(False)  # 12 is not 1 first
        indent(self.budget)
        self.default = button("Default", "A third of the memory of this computer")
        self.in_use = PlainLabel("", objectName="muted")
        self.in_use.setWordWrap(True)
        form = QFormLayout()
        form.addRow(form_label("Memory for results kept", _TOOLTIP), row_of(self.budget, self.default, stretched=0))
        form.addRow("", self.in_use)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.button(QDialogButtonBox.StandardButton.Close).setAutoDefault(False)  # Return ends a number
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(buttons)
        WheelGuard(self)

        self._show_budget()
        self.budget.valueChanged.connect(lambda gigabytes: self._choose(round(gigabytes * _GIGABYTE)))
        self.default.clicked.connect(lambda: self._choose(None))
        clock = QTimer(self, interval=500)
        clock.timeout.connect(self._show_use)
        clock.start()
        self._show_use()

    def _choose(self, budget: int | None) -> None:
        self._preferences.memory_budget = budget
        save_preferences(self._preferences)
        self._engine.keep(budget)
        self._show_budget()

    def _show_budget(self) -> None:
        blocked = self.budget.blockSignals(True)
        chosen = self._preferences.memory_budget
        self.budget.setValue((chosen or memory.default_keep_bytes()) / _GIGABYTE)
        self.budget.blockSignals(blocked)
        self.default.setEnabled(chosen is not None)

    def _show_use(self) -> None:
        self.in_use.setText(
            f"In use now: {human_bytes(self._engine.kept_bytes)}, of {human_bytes(memory.machine_bytes())} in this computer."
        )
