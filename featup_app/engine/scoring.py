"""Label-free scores of the methods on the current image, for the window's Quality tab. Imports no torch by itself."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featup_app.base.files import file_state
from featup_app.base.progress import Progress, silent
from featup_app.engine.settings import ViewSettings
from featup_app.features import Size
from featup_app.fields import find_method
from featup_app.images import Image

if TYPE_CHECKING:
    from featup_app.engine.session import Session
    from featup_app.features import FeatureMap
    from featup_app.lenses import QualityReference
    from featup_app.multiview.reprojection import HeldOutViews

HELD_OUT = "held_out_error"


@dataclass(frozen=True)
class MethodScores:
    """What one method scores on one image.

    Attributes:
        method, title: as in ``METHODS``.
        scores: by the keys of ``lenses.SCORES``; NaN where a score is not defined, no entry where it was not asked for.
        explained: share of the features' variance that the scored components hold.
        size: (H, W) at which the field was drawn.
        seconds: for making the field and scoring it.
    """

    method: str
    title: str
    scores: dict[str, float]
    explained: float
    size: Size
    seconds: float


def measured_settings(settings: ViewSettings) -> Hashable:
    """What the scores of a method depend on besides the method: scores measured under equal ones belong together."""
    files = [file_state(file) if file else None for file in (settings.weights_file, settings.upsampler_file)]
    return settings.backbone, settings.layer, settings.input_size, settings.upsampler, *files


def score_method(
    session: Session, image: Image, settings: ViewSettings, *, held_out: bool, progress: Progress = silent
) -> MethodScores:
    """Score the method of these settings. For the engine's thread only.

    Args:
        session: gives features and fields, and keeps what methods are compared with.
        image: the picture.
        settings: with the method.
        held_out: whether to measure the held-out reprojection error too, which runs the backbone on sixteen views.
        progress: may cancel.

    Raises:
        FeatUpError: if features or field cannot be had.
    """
    from featup_app.lenses import quality_scores
    from featup_app.multiview.reprojection import reprojection_error

    features = session.features(image, settings, progress)
    started = time.perf_counter()
    field = session.field(image, settings, progress)
    reference = _reference_of(session, field.coarse, progress)
    found = quality_scores(field, reference, progress=progress)
    scores = {name: value for name, value in dataclasses.asdict(found).items() if name != "explained"}
    if held_out:
        # The views hold the backbone's own features, which normalised ones cannot be compared with.
        views = None if field.coarse.normalised else _views_of(session, features, progress)
        scores[HELD_OUT] = math.nan if views is None else reprojection_error(field, views, progress=progress).mean
    session.kept.settle()
    title = find_method(settings.method).title
    seconds = time.perf_counter() - started
    return MethodScores(settings.method, title, scores, found.explained, reference.size, seconds)


def _reference_of(session: Session, coarse: FeatureMap, progress: Progress) -> QualityReference:
    from featup_app.lenses import quality_reference

    # The value keeps the map, so that no other one gets its identity meanwhile.
    key = "quality reference", id(coarse)
    return session.remember(coarse.image, key, lambda: quality_reference(coarse, progress=progress))


def _views_of(session: Session, features: FeatureMap, progress: Progress) -> HeldOutViews:
    from featup_app.multiview.reprojection import held_out_views

    key = "held-out views", id(features)
    return session.remember(features.image, key, lambda: (features, held_out_views(features, progress=progress)))[1]
