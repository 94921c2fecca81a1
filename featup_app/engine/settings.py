"""Settings of the features of an image, and facts about weights and backbones for menus. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from featup_app.backbones.catalogue import DEFAULT_BACKBONE
from featup_app.base.errors import SizeError
from featup_app.features import Size
from featup_app.fields.registry import CLASSICAL, DEFAULT_METHOD
from featup_app.lenses.look import UpsamplerFacts
from featup_app.sizes import resolve_output_size


@dataclass(frozen=True)
class ViewSettings:
    """Everything that decides the features of an image; lenses have requests of their own.

    Attributes:
        backbone: name in the catalogue, or of any timm model.
        layer: its layer; None for the backbone's default.
        input_size: what the image is resized to for the backbone (grammar of ``sizes``); None for its default.
        method: upsampling method.
        output_size: size of the upsampled maps (grammar of ``sizes``).
        weights_file: local checkpoint for the backbone, instead of its own weights.
        upsampler: file with weights, or "classical" for joint bilateral upsampling without any; None for the bundled ones.
            Methods for which the file is not use their bundled ones.
        fit: for the method ``implicit``, the number of a fit that the session keeps; None fits anew.
        fit_latest: show the latest state of that fit, instead of its best one.
    """

    backbone: str = DEFAULT_BACKBONE
    layer: str | None = None
    input_size: str | None = None
    method: str = DEFAULT_METHOD
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


STARTING_PIXELS = 4_000_000
"""A remembered output that is larger is not computed at a start, before the person asks for it."""

_STRIDE = 14  # of the default backbone; others differ by a factor that does not matter here


def starting_settings(remembered: ViewSettings, image_hw: Size) -> ViewSettings:
    """Remembered settings for the first image of a start: with the default output where theirs would be huge for the image."""
    try:
        pixels = resolve_output_size(remembered.input_size or "448", image_hw=image_hw, grid_hw=(1, 1))
        grid = max(1, pixels[0] // _STRIDE), max(1, pixels[1] // _STRIDE)
        height, width = resolve_output_size(remembered.output_size, image_hw=image_hw, grid_hw=grid)
    except SizeError:
        return remembered  # the sentence comes when it is computed
    return remembered if height * width <= STARTING_PIXELS else remembered.with_(output_size=ViewSettings().output_size)


def upsampler_facts(settings: ViewSettings, weights: Mapping[str, Any] | None) -> UpsamplerFacts:
    """Facts about weights, as a field's settings give them; None means the classical ones, or none."""
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
class BackboneFacts:
    """A loaded backbone for menus: (name, title) of its layers, the default one, and whether it accepts one input size only."""

    name: str
    title: str
    layers: tuple[tuple[str, str], ...]
    default_layer: str
    default_size: int
    stride: int
    has_head: bool
    device: str
    fixed_size: bool = False
