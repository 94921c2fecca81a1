"""Class activation maps: where in the image a class finds its evidence. Imports no torch by itself."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from featup_app.base.progress import Progress, silent
from featup_app.base.words import slug
from featup_app.features import Size
from featup_app.lenses.classes import find_class
from featup_app.lenses.lens import ColorRange, Lens, LensView, Limits, Looks, Pixels, Request, Values
from featup_app.lenses.look import FieldFacts, Look
from featup_app.lenses.pictures import evidence_limits, heat_picture, numbers_of, signed

if TYPE_CHECKING:
    from torch import Tensor

    from featup_app.fields.field import FeatureField
    from featup_app.images import Image


@dataclass(frozen=True)
class ClassScore:
    """One class of an image: its index in the head, its name, and its probability (softmax over all classes)."""

    index: int
    name: str
    probability: float


def top_classes(logits: Tensor, names: Sequence[str], count: int = 5) -> list[ClassScore]:
    """The most probable classes: (classes) logits -> scores, best first."""
    import torch

    probabilities = torch.softmax(logits.float(), dim=0)
    best = torch.topk(probabilities, min(count, len(names)))
    return [ClassScore(int(i), names[int(i)], float(p)) for p, i in zip(best.values, best.indices, strict=True)]


def cam(field: FeatureField, weights: Tensor, *, size: Size, progress: Progress = silent) -> Tensor:
    """Class evidence at each output pixel: the class's weights times the upsampled features.

    Sources: CAM (Zhou et al. 2016) when the weights are a linear head's rows; Grad-CAM (Selvaraju et al. 2017) when they are
    mean gradients. Upsampled through the field like everything else; negative evidence is kept and only pictures clip it.

    Args:
        field: of the layer that the weights belong to.
        weights: (K, C), one row for each class, from ``Backbone.class_weights``.
        size: (H, W) of the output.
        progress: may cancel.

    Returns:
        (K, H, W) float32.
    """
    return field.project(weights, size=size, progress=progress)


@dataclass(frozen=True)
class CAMRequest(Request):
    """The evidence for a class: its name, index, or the most probable one if None; limits as they suit the image if None."""

    lens: ClassVar[str] = "cam"
    chosen: str | int | None = None
    colormap: str = "inferno"
    limits: Limits | None = None

    def computation(self) -> Hashable:
        return type(self.chosen), self.chosen


@dataclass(frozen=True, eq=False)
class CAMView(LensView):
    """Evidence for one class, (H, W); negative values speak against it.

    Attributes:
        chosen: the class.
        top: the most probable ones.
        kind: "CAM" or "Grad-CAM".
        note: a sentence, if another backbone than the chosen one had to give the classes.
        class_names: all that may be chosen.
    """

    request: CAMRequest
    facts: FieldFacts
    values: Values
    chosen: ClassScore
    top: tuple[ClassScore, ...]
    kind: str
    note: str | None
    class_names: Sequence[str]

    def limits(self) -> Limits:
        """Values of the first and the last colour."""
        return self.request.limits or evidence_limits(self.values)

    def picture(self) -> Pixels:
        return heat_picture(self.values, colormap=self.request.colormap, limits=self.limits())

    def legend(self) -> ColorRange:
        words = f"{self.kind} · {self.facts.backbone_title.split(' (')[0]}"
        tooltip = self.note or "Evidence for the class; negative evidence has the lowest colour"
        return ColorRange(self.request.colormap, self.limits(), words, tooltip)

    def subtitle(self) -> str:
        return f"{self.chosen.name}, {100 * self.chosen.probability:.0f} %"

    def reading(self, row: int, column: int) -> str:
        return f"evidence {signed(self.values[row, column], 2)}"

    def settled_request(self) -> CAMRequest:
        return replace(self.request, chosen=self.chosen.index)

    def stem(self) -> str:
        own = slug(self.chosen.name)
        shared = sum(slug(name) == own for name in self.class_names) > 1  # "crane" is a bird and a machine
        return f"cam-{own}-{self.chosen.index}" if own and shared else f"cam-{own or self.chosen.index}"

    def provenance(self) -> dict[str, Any]:
        chosen = self.chosen
        return {
            "lens": self.request.lens, "kind": self.kind, "note": self.note, "colormap": self.request.colormap,
            "limits": self.limits(),
            "class": {"index": chosen.index, "name": chosen.name, "probability": chosen.probability},
        }  # fmt: skip


class CAMLens(Lens[CAMRequest, CAMView]):
    name = "cam"
    title = "CAM"
    tooltip = "Class activation map: where in the image a class finds its evidence"
    request_type = CAMRequest
    reads_other_features = True
    usage = "cam (the most probable class), cam:CLASS (by name or number)"
    argument = r"""(?::\s*(?:"(?P<double>[^"]+)"|'(?P<single>[^']+)'|(?P<plain>[^,"'\s][^,]*)))?"""

    def view(self, request: CAMRequest, looks: Looks, progress: Progress = silent) -> tuple[CAMView, Look]:
        """The evidence for a class, explained by the chosen backbone if it has a head, else by the bundled classifier."""
        import torch

        classes = looks.classes(progress)
        names, best = classes.names, top_classes(classes.logits, classes.names)
        wanted = best[0].index if request.chosen is None else request.chosen
        known = isinstance(wanted, int) and 0 <= wanted < len(names)
        index = wanted if known and isinstance(wanted, int) else find_class(names, str(wanted))
        probability = float(torch.softmax(classes.logits.float(), dim=0)[index])
        progress("explaining the class", 0, 0)
        evidence = looks.class_evidence(index, progress)
        look = evidence.look
        values = cam(look.field, evidence.weights, size=look.size, progress=progress)[0]
        chosen = ClassScore(index, names[index], probability)
        view = CAMView(
            request, look.facts, numbers_of(values), chosen, tuple(best), evidence.kind, evidence.note, names
        )
        return view, look

    def initial(self, image: Image, before: CAMRequest | None = None) -> CAMRequest:
        return CAMRequest() if before is None else replace(before, chosen=None)

    def label(self, request: CAMRequest, view: CAMView | None = None) -> str:
        return f"CAM, {view.chosen.name}" if view is not None else "CAM, most probable class"

    def parse(self, found: re.Match[str]) -> CAMRequest:
        return CAMRequest(found["double"] or found["single"] or (found["plain"] or "").strip() or None)
