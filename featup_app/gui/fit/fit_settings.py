"""The few settings of an implicit fit: recipe, views, steps, colour and seed."""

from __future__ import annotations

from dataclasses import replace

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QCheckBox, QComboBox, QFormLayout, QHBoxLayout, QLabel, QWidget

from featup_app.engine.fits import FitPlan
from featup_app.fields.implicit.recipe import FIT_RECIPES, FitRecipe
from featup_app.gui import style
from featup_app.gui.widgets import button, fill_form, number_box

_RECIPES = {
    "default": ("Quick", "Waves of position and colour, fitted exactly to all views: seconds on an ordinary computer"),
    "paper": (
        "As published",
        "The network and the 1200 small steps of the FeatUp paper: many minutes without a graphics card",
    ),
}
_VIEWS_TIP = (
    "Moved, zoomed and mirrored copies of the image that the backbone looks at. More of them show finer detail and take "
    "longer and more memory."
)
_STEPS_TIP = (
    "Small improvements of the whole network after the views are there. The quick recipe needs none; the published one is made "
    "of them."
)
_COLOUR_TIP = "Let the network see the colours of the image: edges become sharper. Without, it knows positions alone."
_SEED_TIP = "Which views and starting values are drawn by chance: the same number gives the same fit again"


class FitSettings(QWidget):
    """Chooses a :class:`FitPlan`.

    Signals:
        new_asked(): begin a fit with what is chosen.
    """

    new_asked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.recipe = QComboBox()
        self.recipe.setAccessibleName("Recipe")
        for name in FIT_RECIPES:
            title, tip = _RECIPES.get(name, (name, ""))
            self.recipe.addItem(title, name)
            self.recipe.setItemData(self.recipe.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.views = number_box("Views", _VIEWS_TIP, 1, 100_000)
        self.steps = number_box("Further steps", _STEPS_TIP, 0, 1_000_000)
        self.colour = QCheckBox("Use the colours of the image")
        self.colour.setToolTip(_COLOUR_TIP)
        self.seed = number_box("Seed", _SEED_TIP, 0, 2**31 - 1)
        self.new = button("Start a new fit", "Fit this image with these settings; fits that are there stay in the list")
        self.new.clicked.connect(self.new_asked)
        self.note = QLabel("", objectName="muted")
        self.note.setWordWrap(True)

        form = QFormLayout(self)
        form.setContentsMargins(12, 10, 12, 8)
        form.setVerticalSpacing(6)
        form.setHorizontalSpacing(16)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.FieldsStayAtSizeHint)
        rows = (("Recipe", self.recipe), ("Views", self.views), ("Further steps", self.steps), ("Seed", self.seed))
        fill_form(form, [(title, box, box.toolTip()) for title, box in rows])
        for _, box in rows:
            box.setMinimumWidth(150)
        form.addRow("", self.colour)
        row = QHBoxLayout()
        row.setSpacing(style.SPACING)
        row.addWidget(self.new)
        row.addWidget(self.note, 1)
        form.addRow("", row)
        self._base = FIT_RECIPES["default"]
        self._show(self._base)
        self.recipe.activated.connect(lambda: self._show(FIT_RECIPES[self.recipe.currentData()]))
        for box in (self.views, self.steps):
            box.valueChanged.connect(self._check)

    def plan(self) -> FitPlan:
        """What is chosen now."""
        recipe = replace(
            self._base,
            views=self.views.value(),
            gradient_steps=self.steps.value(),
            colour=self.colour.isChecked(),
        )
        return FitPlan(recipe, self.seed.value())

    def show_plan(self, plan: FitPlan) -> None:
        """Choose these settings, without telling anyone."""
        # A smaller setting of a recipe is called like it, with a word more.
        self.recipe.setCurrentIndex(max(0, self.recipe.findData(plan.recipe.name.split(",")[0])))
        self._show(plan.recipe)
        self.seed.setValue(plan.seed)

    def _show(self, recipe: FitRecipe) -> None:
        self._base = recipe
        with QSignalBlocker(self.views), QSignalBlocker(self.steps):
            self.views.setValue(recipe.views)
            self.steps.setMinimum(0 if recipe.solve else 1)
            self.steps.setValue(recipe.gradient_steps)
        self.colour.setChecked(recipe.colour)
        self.recipe.setToolTip(_RECIPES.get(recipe.name, ("", ""))[1])
        self._check()

    def _check(self) -> None:
        recipe = self.plan().recipe
        self.note.setText(f"{recipe.steps:,} steps in all")
