"""An example of a lens in one file: how long the feature of each pixel is."""

from dataclasses import dataclass
from typing import ClassVar

from featup_app.lenses.lens import ColorRange, Lens, LensView, Request, Values
from featup_app.lenses.look import FieldFacts
from featup_app.lenses.pictures import heat_picture, numbers_of


@dataclass(frozen=True)
class LengthRequest(Request):
    lens: ClassVar[str] = "length"


@dataclass(frozen=True, eq=False)
class LengthView(LensView):
    request: LengthRequest
    facts: FieldFacts
    values: Values

    def limits(self):
        return float(self.values.min()), float(self.values.max())

    def picture(self):
        return heat_picture(self.values, colormap="magma", limits=self.limits())

    def legend(self):
        return ColorRange("magma", self.limits(), "length of the feature")

    def stem(self):
        return "length"

    def provenance(self):
        return {"lens": "length", "limits": self.limits()}


class LengthLens(Lens):
    name, title, tooltip, usage = "length", "Length", "How long the feature of each pixel is", "length"
    request_type = LengthRequest

    def view(self, request, looks, progress):
        look = looks.look(progress)
        return LengthView(request, look.facts, numbers_of(look.field.norms(size=look.size, progress=progress))), look
