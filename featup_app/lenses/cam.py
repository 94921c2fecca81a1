"""Class activation maps: where in the image a class finds its evidence. Imports no torch by itself.

The methods are defined in :mod:`featup_app.lenses.evidence`. Without a class, EigenCAM shows the direction of most of the chosen
features, and the gradient methods explain the embedding of the picture, so that backbones without a head have maps of their own.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress, silent
from featup_app.base.words import slug
from featup_app.features import Size
from featup_app.lenses.classes import find_class
from featup_app.lenses.lens import Classes, ColorRange, Evidence, Lens, LensView, Limits, Looks, Pixels, Request, Values
from featup_app.lenses.look import FieldFacts, Look
from featup_app.lenses.masking import MaskedProbability
from featup_app.lenses.pictures import (
    DIVERGING,
    decimals,
    evidence_limits,
    heat_picture,
    numbers_of,
    signed,
    symmetric_limits,
)

if TYPE_CHECKING:
    from torch import Tensor

    from featup_app.fields.field import FeatureField
    from featup_app.images import Image


EIGENCAM = "eigencam"
METHODS = {"cam": "CAM", "gradcam": "Grad-CAM", "hirescam": "HiResCAM", "layercam": "LayerCAM", EIGENCAM: "EigenCAM"}
"""The methods that can be asked for, and their titles."""

CELL_METHODS = ("hirescam", "layercam")
"""Methods whose weights differ from cell to cell: their maps are made on the grid, and then brought to the output."""

CLASS, PICTURE = "class", "picture"
TARGETS = (CLASS, PICTURE)
"""What may be explained: a class, or the embedding of the picture."""


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
    """The evidence for a class.

    Attributes:
        chosen: its name or index; the most probable one if None.
        colormap, limits: of the picture; limits as they suit the image if None. A difference has :data:`DIVERGING`.
        method: one of :data:`METHODS`; if None, CAM where the head allows it and Grad-CAM elsewhere, and HiResCAM for a picture.
        against: name or index of a class whose evidence is subtracted.
        drop: whether the average drop of the map is measured, at the cost of two runs of the classifier.
        target: one of :data:`TARGETS`.
    """

    lens: ClassVar[str] = "cam"
    chosen: str | int | None = None
    colormap: str = "inferno"
    limits: Limits | None = None
    method: str | None = None
    against: str | int | None = None
    drop: bool = False
    target: str = CLASS

    def computation(self) -> Hashable:
        classes = type(self.chosen), self.chosen, type(self.against), self.against
        return classes, self.method, self.drop, self.target

    @property
    def of_a_class(self) -> bool:
        """Whether a class is explained."""
        return self.target == CLASS and self.method != EIGENCAM

    def check_image(self, image: Image) -> None:
        if self.method is not None and self.method not in METHODS:
            raise LensError(f'There is no method "{self.method}" of class maps; choose one of: {", ".join(METHODS)}.')
        if self.target not in TARGETS:
            raise LensError(f'A map cannot explain "{self.target}"; choose one of: {", ".join(TARGETS)}.')
        if self.target == PICTURE and self.method == "cam":
            raise LensError(
                "CAM explains classes by the rows of a head, and the picture as a whole has none; choose gradcam, hirescam or "
                "layercam."
            )
        if self.target == PICTURE and self.method == EIGENCAM:
            raise LensError(
                "EigenCAM explains neither class nor picture; leave out the target, or choose another method."
            )
        if not self.of_a_class and (self.chosen is not None or self.against is not None or self.drop):
            what = "EigenCAM" if self.method == EIGENCAM else "A map of the picture as a whole"
            raise LensError(
                f"{what} has no class; leave out the classes and the average drop, or choose another method."
            )


@dataclass(frozen=True, eq=False)
class CAMView(LensView):
    """Evidence for one class, (H, W), or less that for another; negative values speak against it.

    Attributes:
        chosen: the class; None if none is explained.
        top: the most probable ones; empty if none is explained.
        kind: the method, as a person writes it.
        note: a sentence, if another backbone than the chosen one had to give the classes.
        class_names: all that may be chosen; empty if none is explained.
        against: the class whose evidence is subtracted, or None.
        parts: (2, H, W) the evidence for both classes, or None.
        masked: probabilities with and without the map as a mask, if the drop was asked for.
    """

    request: CAMRequest
    facts: FieldFacts
    values: Values
    chosen: ClassScore | None
    top: tuple[ClassScore, ...]
    kind: str
    note: str | None
    class_names: Sequence[str]
    against: ClassScore | None = None
    parts: Values | None = None
    masked: MaskedProbability | None = None

    def limits(self) -> Limits:
        """Values of the first and the last colour."""
        suiting = evidence_limits if self.against is None else symmetric_limits
        return self.request.limits or suiting(self.values)

    def colormap(self) -> str:
        """The chosen one; a difference has two sides, which need colours of their own."""
        return self.request.colormap if self.against is None else DIVERGING

    def picture(self) -> Pixels:
        return heat_picture(self.values, colormap=self.colormap(), limits=self.limits())

    def legend(self) -> ColorRange:
        words = f"{self.kind} · {self.facts.backbone_title.split(' (')[0]}"
        tooltip = self.note or "Evidence for the class; negative evidence has the lowest colour"
        if self.request.method is not None or self.request.target == PICTURE or self.against is not None:
            tooltip = ". ".join(each.rstrip(".") for each in (self.meaning(), self.note) if each)
        return ColorRange(self.colormap(), self.limits(), words, tooltip)

    def meaning(self) -> str:
        """What the values mean, and how they came to the output size."""
        if self.against is not None and self.chosen is not None:
            meaning = f"Red: more evidence for {self.chosen.name}; blue: more for {self.against.name}"
        elif self.request.method == EIGENCAM:
            meaning = "How far the features go in the direction that most of them share; no class is asked for"
        elif self.request.target == PICTURE:
            meaning = "What the embedding of the picture, its pooled features, owes to each position"
        else:
            meaning = "Evidence for the class; negative evidence has the lowest colour"
        if self.kind in {METHODS[method] for method in CELL_METHODS}:
            return f"{meaning}. Weighted cell by cell on the grid, and then brought to this size as one map"
        return f"{meaning}. One weight for each channel of the upsampled features"

    def subtitle(self) -> str:
        if self.chosen is None:
            return "the picture as a whole" if self.request.target == PICTURE else "the features as a whole"
        if self.against is not None:
            return f"{self.chosen.name} − {self.against.name}"
        return f"{self.chosen.name}, {100 * self.chosen.probability:.0f} %"

    def reading(self, row: int, column: int) -> str:
        digits = decimals(self.limits())  # gradients are small numbers
        value = signed(self.values[row, column], digits)
        if self.parts is None or self.chosen is None or self.against is None:
            return f"evidence {value}"
        one, other = (signed(part[row, column], digits) for part in self.parts)
        return f"{self.chosen.name} {one}, {self.against.name} {other}, difference {value}"

    def settled_request(self) -> CAMRequest:
        chosen, against = (None if each is None else each.index for each in (self.chosen, self.against))
        return replace(self.request, chosen=chosen, against=against)

    def named_request(self) -> CAMRequest:
        """:meth:`settled_request` by the names of the classes, where they are unique: other heads number them otherwise."""

        def named(each: ClassScore | None) -> str | int | None:
            if each is None:
                return None
            return each.name if list(self.class_names).count(each.name) == 1 else each.index

        return replace(self.request, chosen=named(self.chosen), against=named(self.against))

    def stem(self) -> str:
        parts = ["cam"]
        if self.chosen is not None:
            parts.append(self._named(self.chosen))
        if self.against is not None:
            parts += ["minus", self._named(self.against)]
        if self.request.target == PICTURE:
            parts.append("whole-picture")
        return "-".join([*parts, *filter(None, [self.request.method])])

    def _named(self, chosen: ClassScore) -> str:
        own = slug(chosen.name)
        shared = sum(slug(name) == own for name in self.class_names) > 1  # "crane" is a bird and a machine
        return f"{own}-{chosen.index}" if own and shared else own or str(chosen.index)

    def provenance(self) -> dict[str, Any]:
        request = self.request
        facts: dict[str, Any] = {
            "lens": request.lens, "kind": self.kind, "note": self.note, "colormap": self.colormap(), "limits": self.limits(),
        }  # fmt: skip
        if self.chosen is not None:
            facts["class"] = asdict(self.chosen)
        if self.against is not None:
            facts["against"] = asdict(self.against)
        if request.target != CLASS:
            facts["target"] = request.target
        if request.method is not None:
            facts["method"] = request.method
        if self.masked is not None:
            facts["average_drop"] = {"percent": 100 * self.masked.drop, **asdict(self.masked)}
        return facts


_OPTION = r"[a-z]+\s*="


class CAMLens(Lens[CAMRequest, CAMView]):
    name = "cam"
    title = "CAM"
    tooltip = "Class activation map: where in the image a class finds its evidence"
    request_type = CAMRequest
    reads_other_features = True
    usage = (
        "cam (the most probable class), cam:CLASS (by name or number), with any of :minus=CLASS, "
        f":method={'|'.join(METHODS)}, :drop=yes and :target=picture behind it"
    )
    argument = rf"""
        (?: :\s* (?!{_OPTION})
            (?: "(?P<double>[^"]+)" | '(?P<single>[^']+)' | (?P<plain>[^,"'\s](?:(?!\s*:\s*{_OPTION})[^,])*) ) )?
        (?P<options> (?: \s*:\s*{_OPTION}\s* (?: "[^"]+" | '[^']+' | [^,"'\s](?:(?!\s*:\s*{_OPTION})[^,])* ) )* )
    """

    def view(self, request: CAMRequest, looks: Looks, progress: Progress = silent) -> tuple[CAMView, Look]:
        """The evidence for a class, explained by the chosen backbone if it has a head, else by the bundled classifier.

        Without a class, the chosen backbone explains the direction of its features or its embedding.
        """
        request.check_image(looks.image)
        if request.method == EIGENCAM:
            from featup_app.lenses.evidence import eigencam_weights

            look = looks.look(progress, channels=1)
            weights = eigencam_weights(look.field.coarse.data)
            values = numbers_of(cam(look.field, weights, size=look.size, progress=progress)[0])
            return CAMView(request, look.facts, values, None, (), METHODS[EIGENCAM], None, ()), look
        if request.target == PICTURE:
            evidence = looks.evidence(None, progress, gradients=True)
            method = request.method or "hirescam"  # the mean gradient of an embedding may be negative nearly everywhere
            values = numbers_of(_maps(evidence, method, progress)[0])
            view = CAMView(request, evidence.look.facts, values, None, (), METHODS[method], evidence.note, ())
            return view, evidence.look
        return _class_view(request, looks, progress)

    def initial(self, image: Image, before: CAMRequest | None = None) -> CAMRequest:
        return CAMRequest() if before is None else replace(before, chosen=None, against=None)

    def label(self, request: CAMRequest, view: CAMView | None = None) -> str:
        title = METHODS.get(request.method or "", "CAM")
        if not request.of_a_class:
            return title if request.method == EIGENCAM else f"{title}, picture as a whole"
        if view is None or view.chosen is None:
            return f"{title}, most probable class"
        return f"{title}, {view.chosen.name}" + (f" less {view.against.name}" if view.against is not None else "")

    def parse(self, found: re.Match[str]) -> CAMRequest:
        chosen = found["double"] or found["single"] or (found["plain"] or "").strip() or None
        options = _options(found["options"])
        drop = options.get("drop", "no").lower()
        if drop not in ("yes", "no"):
            raise LensError(f'The average drop of a class map is drop=yes or drop=no, not "{drop}".')
        method, target = options.get("method"), options.get("target", CLASS)
        return CAMRequest(
            chosen,
            method=None if method is None else method.lower(),
            against=options.get("minus"),
            drop=drop == "yes",
            target=target.lower(),
        )


def _options(text: str) -> dict[str, str]:
    """The settings behind a class, by name: ``:minus=teapot:method=layercam``. Raises LensError."""
    known = ("minus", "method", "drop", "target")
    found: dict[str, str] = {}
    for part in re.split(rf":\s*(?={_OPTION})", text, flags=re.IGNORECASE)[1:]:
        name, value = (each.strip() for each in part.split("=", 1))
        if name.lower() not in known or name.lower() in found:
            why = "twice" if name.lower() in found else "but knows no such setting"
            raise LensError(f'A class map was given "{name}" {why}; its settings are: {", ".join(known)}, each once.')
        found[name.lower()] = value.strip("\"'")
    return found


def _class_view(request: CAMRequest, looks: Looks, progress: Progress) -> tuple[CAMView, Look]:
    classes = looks.classes(progress)
    names, best = classes.names, top_classes(classes.logits, classes.names)
    chosen = _class(classes, best[0].index if request.chosen is None else request.chosen)
    against = None if request.against is None else _class(classes, request.against)
    if against is not None and against.index == chosen.index:
        raise LensError(
            f'The evidence for "{chosen.name}" less itself is zero everywhere; choose another class to subtract.'
        )
    progress("explaining the class", 0, 0)
    method = request.method
    indices = [each.index for each in (chosen, against) if each is not None]
    evidence = looks.evidence(indices, progress, gradients=method not in (None, "cam"))
    if method == "cam" and evidence.kind != METHODS["cam"]:
        raise LensError(
            f"{evidence.look.facts.backbone_title} has no CAM: its head is not one linear layer on the average of its map; "
            "choose gradcam, hirescam or layercam."
        )
    maps = _maps(evidence, method, progress)
    values = maps[0] if against is None else maps[0] - maps[1]
    view = CAMView(
        request, evidence.look.facts, numbers_of(values), chosen, tuple(best),
        evidence.kind if method is None else METHODS[method], evidence.note, names, against,
        None if against is None else numbers_of(maps),
        looks.masked_probability(chosen.index, values, progress) if request.drop else None,
    )  # fmt: skip
    return view, evidence.look


def _class(classes: Classes, wanted: str | int) -> ClassScore:
    """The class that a person means, with its probability. Raises LensError."""
    import torch

    names = classes.names
    known = isinstance(wanted, int) and 0 <= wanted < len(names)
    index = wanted if known and isinstance(wanted, int) else find_class(names, str(wanted))
    return ClassScore(index, names[index], float(torch.softmax(classes.logits.float(), dim=0)[index]))


def _maps(evidence: Evidence, method: str | None, progress: Progress) -> Tensor:
    """(K, H, W): the maps of what is explained, by the method; by its weights where there is none."""
    from featup_app.lenses.evidence import carried, gradcam_weights, hirescam, layercam

    look, weights = evidence.look, evidence.weights
    if method in CELL_METHODS:
        cells = (hirescam if method == "hirescam" else layercam)(look.features.data, evidence.gradients)
        maps = carried(look.field, look.features, cells, size=look.size, progress=progress)
        return maps.clamp(min=0) if method == "layercam" else maps  # some fields overshoot
    weights = gradcam_weights(evidence.gradients) if weights is None else weights
    return cam(look.field, weights, size=look.size, progress=progress)
