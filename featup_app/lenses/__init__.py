"""Lenses: from a feature field to numbers and pictures that a person can read. Importing this room imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from featup_app.lenses.classes import find_class, search_classes
from featup_app.lenses.pictures import COLORMAPS, heat_picture, lookup_table, overlay

if TYPE_CHECKING:
    from featup_app.lenses.class_activation import ClassScore, cam, top_classes
    from featup_app.lenses.cosine import similarity
    from featup_app.lenses.principal_components import PCABasis, fit_pca, pca

__all__ = [
    "COLORMAPS",
    "ClassScore",
    "PCABasis",
    "cam",
    "find_class",
    "fit_pca",
    "heat_picture",
    "lookup_table",
    "overlay",
    "pca",
    "search_classes",
    "similarity",
    "top_classes",
]

_HOMES = {
    "ClassScore": "class_activation",
    "cam": "class_activation",
    "top_classes": "class_activation",
    "similarity": "cosine",
    "PCABasis": "principal_components",
    "fit_pca": "principal_components",
    "pca": "principal_components",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
