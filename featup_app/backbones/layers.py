"""The layers of a backbone whose features can be extracted, and the names by which a person chooses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featup_app.base.errors import BackboneError

ATTENTION_INPUT = "attention input"
"""The normalised input of a transformer's last attention."""

HEAD = "head"
"""The map that the head reads, where that is not the map of the last block or stage."""


@dataclass(frozen=True)
class Layer:
    """One layer of a backbone.

    Attributes:
        name: as in exports and on the command line, e.g. "block 10", "stage 3", "head".
        title: as in the window, e.g. "stage 3 (stride 16)".
        channels: channels of its map.
        stride: pixels of the resized input per cell.
        index: position in ``Backbone.layers``.
    """

    name: str
    title: str
    channels: int
    stride: int
    index: int

    @property
    def numbered(self) -> bool:
        """Whether this is one of the blocks or stages, rather than a layer after or inside them."""
        return self.name.startswith(("block ", "stage "))


def find_layer(layers: Sequence[Layer], wanted: str | int, backbone: str) -> Layer:
    """The layer that a name or a number means.

    Args:
        layers: all layers of the backbone; the numbered ones come first.
        wanted: a name, a title, or the number of a block or stage (negative numbers count from the last one).
        backbone: name of the backbone, for the message.

    Raises:
        BackboneError: if there is no such layer; the message names the valid range.
    """
    text = str(wanted).strip().lower()
    for layer in layers:
        if text in (layer.name.lower(), layer.title.lower()):
            return layer
    numbered = [layer for layer in layers if layer.numbered]
    count = len(numbered)
    try:
        number = int(text)
    except ValueError:
        number = count
    if -count <= number < count:
        return numbered[number]
    others = [f'"{layer.name}"' for layer in layers if not layer.numbered]
    names = ", ".join([f'"{numbered[0].name}" to "{numbered[-1].name}"', *others])
    raise BackboneError(
        f'The backbone {backbone} has no layer "{wanted}". Choose {names}, or a number from {-count} to {count - 1}.'
    )
