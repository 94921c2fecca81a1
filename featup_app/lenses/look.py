"""One look at an image: its features, the field made of them, and the size at which they are shown. Imports no torch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from featup_app.features import FeatureMap, Geometry, Size
    from featup_app.fields.field import FeatureField


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


@dataclass(frozen=True)
class FieldFacts:
    """What a person wants to know about the features that a view shows.

    ``upsampler`` is None for methods without weights; ``restoration`` says how such a method restores the coarse map first;
    ``backbone_notes`` are what had to be done to the weights of a file.
    """

    backbone: str
    backbone_title: str
    layer: str
    channels: int
    geometry: Geometry
    method: str
    size: Size
    upsampler: UpsamplerFacts | None = None
    restoration: str | None = None
    backbone_notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Look:
    """What a lens, an export and a record of provenance need to know, made once by the session and handed to all of them.

    Attributes:
        features: the low-resolution map, (C, h, w).
        field: the same features at any size.
        size: (H, W) of the output.
        facts: about them, for a person.
        map_key: equal for looks with the same low-resolution map.
        field_key: equal for looks with the same field.
        spare_bytes: memory that is left beside what the view needs, for what a lens keeps.
    """

    features: FeatureMap
    field: FeatureField
    size: Size
    facts: FieldFacts
    map_key: Hashable
    field_key: Hashable
    spare_bytes: float
