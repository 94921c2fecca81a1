"""Which features can be compared number by number: those of one backbone, layer and weights. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featup_app.fields.field import FeatureField


@dataclass(frozen=True)
class FeatureSpace:
    """What the channels of features mean. Features of equal spaces can be subtracted, and share principal components.

    The size of the backbone's input and the upsampling method do not change what a channel means.

    Attributes:
        backbone: its name; empty where it is not known, as for a map of a file without a record.
        layer: name of the layer.
        channels: how many there are.
        weights_sha256: of the backbone's weights; empty where they have no file.
        norm: sha256 of the upsampler that normalises the channels first; None for the features of the backbone itself.
    """

    backbone: str
    layer: str
    channels: int
    weights_sha256: str = ""
    norm: str | None = None

    def in_words(self) -> str:
        """A name for the middle of a sentence."""
        normalised = "" if self.norm is None else ", normalised by an upsampler"
        return f"{self.backbone or 'an unknown backbone'}, layer {self.layer}, {self.channels} channels{normalised}"

    def difference(self, other: FeatureSpace) -> str | None:
        """What keeps the features of another space from meaning the same, for the middle of a sentence; None if nothing does."""
        for what, mine, theirs in (
            ("the backbone", self.backbone, other.backbone),
            ("the layer", self.layer, other.layer),
            ("channels", self.channels, other.channels),
        ):
            if mine != theirs:
                return f"{what} {theirs}, not {mine}" if what != "channels" else f"{theirs} channels, not {mine}"
        if self.weights_sha256 != other.weights_sha256:
            return "other weights of the backbone"
        if self.norm != other.norm:
            return "features that an upsampler has normalised otherwise"
        return None

    def as_json(self) -> dict[str, Any]:
        """The attributes by name."""
        return asdict(self)


def space_of(field: FeatureField) -> FeatureSpace:
    """The space of the features of a field."""
    coarse = field.coarse
    norm = None
    if coarse.normalised:
        weights = field.settings().get("upsampler")
        norm = str(weights.get("sha256") or "unknown") if isinstance(weights, Mapping) else "unknown"
    weights_sha256 = str(coarse.provenance.get("weights_sha256") or "")
    return FeatureSpace(coarse.backbone_name or "", coarse.layer, coarse.channels, weights_sha256, norm)
