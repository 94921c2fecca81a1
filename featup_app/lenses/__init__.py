"""Lenses: from a feature field to numbers and pictures that a person can read. Importing this room imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.lazily import lazy_names
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

__getattr__ = lazy_names(
    __name__,
    {
        "ClassScore": "class_activation",
        "cam": "class_activation",
        "top_classes": "class_activation",
        "similarity": "cosine",
        "PCABasis": "principal_components",
        "fit_pca": "principal_components",
        "pca": "principal_components",
    },
)
