"""What the engine answers: settled numbers and pictures of one image, in numpy alone, so that readers need no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featup_app.features import Geometry, Point, Size
from featup_app.lenses.pictures import evidence_limits, heat_picture, similarity_limits

Values = NDArray[np.float32]
Pixels = NDArray[np.uint8]
PCAFit = Literal["grid", "field", "joint"]

CLASSICAL = "classical"
"""Choice of untrained weights for the joint bilateral upsampler."""


@dataclass(frozen=True)
class ViewSettings:
    """What decides the features of an image: everything above the lenses.

    Attributes:
        backbone: name in the catalogue, or of any timm model.
        layer: its layer; None for the backbone's default.
        input_size: what the image is resized to for the backbone (grammar of ``sizes``); None for its default.
        method: upsampling method.
        output_size: size of the upsampled maps (grammar of ``sizes``).
        weights_file: local checkpoint for the backbone, instead of its own weights.
        upsampler: file with weights for joint bilateral upsampling, or "classical"; None for the bundled ones. Other methods
            take no notice of it.
        fit: for the method ``implicit``, the number of a fit that the session keeps; None fits anew.
        fit_latest: show the latest state of that fit, instead of its best one.
    """

    backbone: str = "dinov2-s14-imgfocus"
    layer: str | None = None
    input_size: str | None = None
    method: str = "jbu"
    output_size: str = "16x"
    weights_file: str | None = None
    upsampler: str | None = None
    fit: int | None = None
    fit_latest: bool = False

    @property
    def upsampler_file(self) -> str | None:
        """The chosen file with upsampler weights, if a file is chosen."""
        return None if self.upsampler == CLASSICAL else self.upsampler

    def with_(self, **changes: Any) -> ViewSettings:
        """A copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class PCAOptions:
    """Which components are shown, counted from 1, and what they are fitted on.

    ``fit``: "grid" fits the low-resolution map, so that colours are the same for every method; "field" the upsampled features
    alone; "joint" those of all methods together, except those that are fitted to each image or run the backbone again.
    """

    numbers: tuple[int, ...] = (1, 2, 3)
    fit: PCAFit = "grid"


@dataclass(frozen=True)
class UpsamplerFacts:
    """Which weights a method uses.

    Attributes:
        kind: chosen from a "file", "bundled" for the backbone, "universal" (bundled for all backbones), "classical" for
            joint bilateral upsampling without any, or "untrained" for another method without any.
        title: what a person calls them.
        universal: whether they serve every backbone.
        details: (name, value) pairs about file and training, for tooltips and panels.
        method: name of the upsampling method that they are for.
    """

    kind: Literal["file", "bundled", "universal", "classical", "untrained"]
    title: str
    universal: bool
    details: tuple[tuple[str, str], ...] = ()
    method: str = "jbu"


def upsampler_facts(settings: ViewSettings, weights: Mapping[str, Any] | None) -> UpsamplerFacts:
    """Facts about weights, as a field's settings give them; None stands for the classical ones, or for none."""
    if weights is None and settings.method != "jbu":
        reason = ("Weights", "none for these features; as bilinear")
        return UpsamplerFacts("untrained", "untrained", True, (reason,), settings.method)
    if weights is None:
        return UpsamplerFacts("classical", "classical", True, (("Weights", "joint bilateral filter, nothing trained"),))
    # A chosen file serves the method that it is for; the others use theirs.
    file = settings.upsampler_file if Path(settings.upsampler_file or "").name == weights["file"] else None
    universal = weights["channels"] is None
    trained = weights["trained"]
    serves = "every backbone" if universal else None
    entries = (
        ("File", file or weights["file"]),
        ("Method", None if weights["method"] == "jbu" else weights["method"]),
        ("Serves", serves),
        ("Backbone", trained.get("backbone")),
        ("Layer", trained.get("layer")),
        ("Channels", weights["channels"]),
        ("Trained on", trained.get("data")),
        ("Made", trained.get("created")),
        ("Features", "normalised over their channels first" if weights["channel_norm"] else None),
        ("Coarse map", weights.get("restoration")),
    )
    details = tuple((name, _in_words(value)) for name, value in entries if value not in (None, "", [], {}))
    # Weights without a last correction serve every backbone, also those that were trained for one.
    backbones = trained.get("backbone")
    for_one = not universal or (isinstance(backbones, list) and len(backbones) == 1)
    kind: Literal["file", "bundled", "universal"] = "bundled" if for_one else "universal"
    return UpsamplerFacts("file" if file else kind, str(weights["title"]), universal, details, weights["method"])


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_in_words(item) for item in value)
    return str(value)


@dataclass(frozen=True)
class FieldFacts:
    """What a person wants to know about the features that a view shows; ``upsampler`` is None for methods without weights."""

    backbone: str
    backbone_title: str
    layer: str
    channels: int
    geometry: Geometry
    method: str
    size: Size
    upsampler: UpsamplerFacts | None = None


@dataclass(frozen=True, eq=False)
class PCAView:
    """Three components as colours. ``values`` is (3, H, W); ``explained`` the share of variance of every component."""

    facts: FieldFacts
    numbers: tuple[int, ...]
    values: Values
    pixels: Pixels
    explained: tuple[float, ...]

    def picture(self) -> Pixels:
        """(H, W, 3) uint8 RGB."""
        return self.pixels


@dataclass(frozen=True, eq=False)
class SimilarityView:
    """Cosine to the feature under ``point``, (H, W) in -1 .. 1."""

    facts: FieldFacts
    point: Point
    values: Values

    def limits(self) -> tuple[float, float]:
        """Values of the first and the last colour that suit this image."""
        return similarity_limits(self.values)

    def picture(self, colormap: str = "viridis", limits: tuple[float, float] | None = None) -> Pixels:
        """(H, W, 3) uint8 RGB."""
        return heat_picture(self.values, colormap=colormap, limits=limits or self.limits())


@dataclass(frozen=True)
class ClassChoice:
    """A class of the image: its index in the head, name, and probability."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True, eq=False)
class CAMView:
    """Evidence for one class, (H, W); negative values speak against it.

    ``note`` says so when another backbone than the chosen one had to give the classes. ``kind`` is "CAM" or "Grad-CAM".
    """

    facts: FieldFacts
    chosen: ClassChoice
    top: tuple[ClassChoice, ...]
    values: Values
    kind: str
    note: str | None
    class_names: Sequence[str]

    def limits(self) -> tuple[float, float]:
        """Values of the first and the last colour that suit this image."""
        return evidence_limits(self.values)

    def picture(self, colormap: str = "inferno", limits: tuple[float, float] | None = None) -> Pixels:
        """(H, W, 3) uint8 RGB."""
        return heat_picture(self.values, colormap=colormap, limits=limits or self.limits())


@dataclass(frozen=True)
class BackboneFacts:
    """What a loaded backbone offers, for menus: (name, title) of its layers, and which one is taken by default."""

    name: str
    title: str
    layers: tuple[tuple[str, str], ...]
    default_layer: str
    default_size: int
    stride: int
    has_head: bool
    device: str
