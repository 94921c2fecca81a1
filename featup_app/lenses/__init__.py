"""Lenses: from a feature field to numbers and pictures that a person can read. Importing this room imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.base.lazily import lazy_names
from featup_app.lenses.classes import find_class, search_classes
from featup_app.lenses.pictures import COLORMAPS, heat_picture, lookup_table, overlay
from featup_app.lenses.score_names import SCORES, ScoreName

if TYPE_CHECKING:
    from featup_app.lenses.calibration import Calibration, uncertainty_calibration
    from featup_app.lenses.class_activation import ClassScore, cam, top_classes
    from featup_app.lenses.cosine import similarity
    from featup_app.lenses.principal_components import PCABasis, fit_pca, pca
    from featup_app.lenses.quality import QualityReference, QualityScores, quality_reference, quality_scores

__all__ = [
    "COLORMAPS",
    "SCORES",
    "Calibration",
    "ClassScore",
    "PCABasis",
    "QualityReference",
    "QualityScores",
    "ScoreName",
    "cam",
    "find_class",
    "fit_pca",
    "heat_picture",
    "lookup_table",
    "overlay",
    "pca",
    "quality_reference",
    "quality_scores",
    "search_classes",
    "similarity",
    "top_classes",
    "uncertainty_calibration",
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
        "QualityReference": "quality",
        "QualityScores": "quality",
        "quality_reference": "quality",
        "quality_scores": "quality",
        "Calibration": "calibration",
        "uncertainty_calibration": "calibration",
    },
)
