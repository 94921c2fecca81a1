"""Lenses: from a feature field to numbers and pictures that a person can read. Importing this room imports no torch.

A new lens is one module like :mod:`~featup_app.lenses.similarity` and one entry in :data:`LENSES`. Its module and the
function of the same name share a name: write ``from featup_app.lenses.similarity import ...`` for the former.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.base.lazily import lazy_names
from featup_app.lenses.cam import CAMLens, CAMRequest, CAMView, ClassScore, cam, top_classes
from featup_app.lenses.classes import find_class, search_classes
from featup_app.lenses.feature_spaces import FeatureSpace, space_of
from featup_app.lenses.lens import Lens, LensView, Request
from featup_app.lenses.look import FieldFacts, Look
from featup_app.lenses.masks import ThresholdMask
from featup_app.lenses.matches import Match, top_matches
from featup_app.lenses.pca import PCALens, PCARequest, PCAView, pca
from featup_app.lenses.pictures import COLORMAPS, heat_picture, lookup_table, overlay
from featup_app.lenses.profile import ComparedFeatures, Profile, compared_features, kernel, profile
from featup_app.lenses.queries import COMBINES, FORMULAS, Query
from featup_app.lenses.query_sets import QuerySet, read_query_set, write_query_set
from featup_app.lenses.registry import LENSES, find_lens, parse_views, request_from_json
from featup_app.lenses.score_names import SCORES, ScoreName
from featup_app.lenses.similarity import SimilarityLens, SimilarityView, cosine, similarity
from featup_app.lenses.similarity_request import SimilarityRequest

if TYPE_CHECKING:
    from featup_app.lenses.calibration import Calibration, uncertainty_calibration
    from featup_app.lenses.correspondence import Matches, PointMatch, correspond, match_point
    from featup_app.lenses.difference import cosine_distance
    from featup_app.lenses.pca_bases import BasisPicture, LockedBasis, read_basis, write_basis
    from featup_app.lenses.principal_components import PCABasis, fit_pca
    from featup_app.lenses.quality import QualityReference, QualityScores, quality_reference, quality_scores
    from featup_app.lenses.query_vectors import pinned
    from featup_app.lenses.threshold import proposed_threshold

__all__ = [
    "BasisPicture",
    "CAMLens",
    "CAMRequest",
    "CAMView",
    "COLORMAPS",
    "COMBINES",
    "Calibration",
    "ClassScore",
    "ComparedFeatures",
    "FORMULAS",
    "FeatureSpace",
    "FieldFacts",
    "LENSES",
    "Lens",
    "LensView",
    "LockedBasis",
    "Look",
    "Match",
    "Matches",
    "PCABasis",
    "PCALens",
    "PCARequest",
    "PCAView",
    "PointMatch",
    "Profile",
    "QualityReference",
    "QualityScores",
    "Query",
    "QuerySet",
    "Request",
    "SCORES",
    "ScoreName",
    "SimilarityLens",
    "SimilarityRequest",
    "SimilarityView",
    "ThresholdMask",
    "cam",
    "compared_features",
    "correspond",
    "cosine",
    "cosine_distance",
    "find_class",
    "find_lens",
    "fit_pca",
    "heat_picture",
    "kernel",
    "lookup_table",
    "match_point",
    "overlay",
    "parse_views",
    "pca",
    "pinned",
    "profile",
    "proposed_threshold",
    "quality_reference",
    "quality_scores",
    "read_basis",
    "read_query_set",
    "request_from_json",
    "search_classes",
    "similarity",
    "space_of",
    "top_classes",
    "top_matches",
    "uncertainty_calibration",
    "write_basis",
    "write_query_set",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Matches": "correspondence",
        "PointMatch": "correspondence",
        "correspond": "correspondence",
        "match_point": "correspondence",
        "cosine_distance": "difference",
        "BasisPicture": "pca_bases",
        "LockedBasis": "pca_bases",
        "read_basis": "pca_bases",
        "write_basis": "pca_bases",
        "PCABasis": "principal_components",
        "fit_pca": "principal_components",
        "pinned": "query_vectors",
        "QualityReference": "quality",
        "QualityScores": "quality",
        "quality_reference": "quality",
        "quality_scores": "quality",
        "Calibration": "calibration",
        "uncertainty_calibration": "calibration",
        "proposed_threshold": "threshold",
    },
)
