"""Backbones by name: pretrained vision models that turn an image into a coarse feature map.

Importing this package imports neither torch nor timm; loading a backbone does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featup_app.backbones.catalogue import BackboneInfo, Status, find_backbone, list_backbones, status
from featup_app.backbones.layers import Layer

if TYPE_CHECKING:
    from featup_app.backbones.adapter import Backbone
    from featup_app.backbones.loading import load_backbone

__all__ = [
    "Backbone",
    "BackboneInfo",
    "Layer",
    "Status",
    "find_backbone",
    "list_backbones",
    "load_backbone",
    "status",
]


def __getattr__(name: str) -> Any:
    if name == "Backbone":
        from featup_app.backbones.adapter import Backbone

        return Backbone
    if name == "load_backbone":
        from featup_app.backbones.loading import load_backbone

        return load_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
