"""The few settings of an implicit fit: recipe, views, steps, colour and seed."""

from __future__ import annotations

from dataclasses import replace

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QCheckBox, QComboBox, QFormLayout, QHBoxLayout

from featup_app.engine.fits import FitRequest
from featup_app.fields.implicit.recipe import FIT_RECIPES, FitRecipe
from featup_app.gui.widgets import ScrolledPage, button, fill_form, number_box, row_of

_RECIPES = {
    "default": ("Quick", "Waves of position and colour, fitted exactly to all views: seconds on an ordinary computer"),
    "paper": (
        "As published",
        "The network and the 1200 small steps of the FeatUp paper: many minutes without a graphics card",
    ),
}
_VIEWS_TIP = (
    "Jittered views: moved, zoomed and mirrored copies of the image for the backbone. More of them give finer detail and take "
    "more time and memory. Automatic: 96 for small feature grids, down to 28 for large ones."
)
_STEPS_TIP = (
    "Gradient steps on the whole network after the views were computed. The quick recipe needs none; the published one consists "
    "of them."
)
_COLOUR_TIP = (
    "Give the network the colours of the image, which makes edges sharper. Without them it gets positions only."
)
_SEED_TIP = "Seed of the random generator: the same number gives the same fit again"


class FitSettings(ScrolledPage):
    """Chooses a :class:`FitRequest`.

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
        self.views = number_box("Views", _VIEWS_TIP, 0, 100_000)
        self.views.setSpecialValueText("Automatic")
        self.steps = number_box("Further steps", _STEPS_TIP, 0, 1_000_000)
        self.colour = QCheckBox("Use the colours of the image")
        self.colour.setToolTip(_COLOUR_TIP)
        self.seed = number_box("Seed", _SEED_TIP, 0, 2**31 - 1)
        self.new = button("Start a new fit", "Fit this image with these settings; existing fits stay in the list")
        self.new.clicked.connect(self.new_asked)

        columns = QHBoxLayout()
        columns.setSpacing(32)
        for rows, last in (
            ((("Recipe", self.recipe), ("Views", self.views)), self.colour),
            ((("Further steps", self.steps), ("Seed", self.seed)), None),
        ):
            form = QFormLayout()
            form.setVerticalSpacing(6)
            form.setHorizontalSpacing(16)
            form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.FieldsStayAtSizeHint)
            fill_form(form, [(title, box, box.toolTip()) for title, box in rows])
            for _, box in rows:
                box.setMinimumWidth(150)
            if last is not None:
                form.addRow("", last)
            columns.addLayout(form)
        columns.addStretch(1)
        self.column.addLayout(columns)
        self.column.addLayout(row_of(self.new))
        self.column.addStretch(1)
        self._base = FIT_RECIPES["default"]
        self._show(self._base)
        self.recipe.activated.connect(lambda: self._show(FIT_RECIPES[self.recipe.currentData()]))

    def request(self) -> FitRequest:
        """The current choices."""
        recipe = replace(
            self._base,
            views=self.views.value(),
            gradient_steps=self.steps.value(),
            colour=self.colour.isChecked(),
        )
        return FitRequest(recipe, self.seed.value())

    def show_request(self, request: FitRequest) -> None:
        """Choose these settings, without emitting a signal."""
        # A smaller variant of a recipe has its name, a comma and another word.
        self.recipe.setCurrentIndex(max(0, self.recipe.findData(request.recipe.name.split(",")[0])))
        self._show(request.recipe)
        self.seed.setValue(request.seed)

    def _show(self, recipe: FitRecipe) -> None:
        self._base = recipe
        with QSignalBlocker(self.views), QSignalBlocker(self.steps):
            self.views.setValue(recipe.views)
            self.steps.setMinimum(0 if recipe.solve else 1)
            self.steps.setValue(recipe.gradient_steps)
        self.colour.setChecked(recipe.colour)
        self.recipe.setToolTip(_RECIPES.get(recipe.name, ("", ""))[1])
