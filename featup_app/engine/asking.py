"""What is asked of a picture beside its views: files of masks and queries, and what is known about one pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress, silent
from featup_app.engine.session import Session
from featup_app.engine.settings import ViewSettings
from featup_app.export import build_provenance, write_picture
from featup_app.features import Point
from featup_app.images import Image
from featup_app.lenses import SimilarityRequest
from featup_app.lenses.lens import Values
from featup_app.lenses.profile import ComparedFeatures, compared_features, kernel
from featup_app.lenses.queries import Query
from featup_app.lenses.query_sets import QuerySet, write_query_set
from featup_app.lenses.query_vectors import pinned


def save_mask(
    session: Session,
    image: Image,
    settings: ViewSettings,
    request: SimilarityRequest,
    path: Path,
    progress: Progress = silent,
) -> Path:
    """Write the mask of a similarity as PNG, 255 inside and 0 outside; a file of that name is replaced.

    Raises:
        LensError: if the request has no threshold.
        FeatUpError: what keeps the similarity from being computed or the file from being written.
    """
    view, look = session.view_and_look(image, settings, request, progress)
    mask = view.mask()
    if mask is None:
        raise LensError("There is no mask to save; switch the threshold on first.")
    facts = {**view.provenance(), "mask": mask.facts()}
    provenance = build_provenance(features=look.features, field=look.field, size=look.size, view=facts)
    return write_picture(path, mask.picture(), provenance=provenance, overwrite=True)


def pin_queries(
    session: Session, image: Image, settings: ViewSettings, request: SimilarityRequest, progress: Progress = silent
) -> tuple[Query, ...]:
    """The queries of a request with the features of their marks, so that other pictures can be asked of them.

    Raises:
        FeatUpError: what keeps the features from being computed.
    """
    look = session.look(image, settings, progress)
    return pinned(look.field, request.queries, size=look.size, grouping=request.grouping, progress=progress)


def save_queries(
    session: Session,
    image: Image,
    settings: ViewSettings,
    request: SimilarityRequest,
    path: Path,
    progress: Progress = silent,
) -> Path:
    """Write the queries of a request with the features of their marks, so that other pictures can be asked of them.

    A file of that name is replaced.

    Raises:
        FeatUpError: what keeps the features from being computed or the file from being written.
    """
    queries = pin_queries(session, image, settings, request, progress)
    write_query_set(path, QuerySet(path.stem, queries, request.measure, request.grouping, request.combine))
    return path


@dataclass(frozen=True, eq=False)
class PixelFacts:
    """What is known about one pixel.

    Attributes:
        point: (x, y) in pixels of the image.
        compared: its feature beside those of what is asked.
        kernel: (h, w) weights of the coarse cells that its feature is made of; None if there are no such weights.
        why_not: the sentence why there is no kernel.
    """

    point: Point
    compared: ComparedFeatures
    kernel: Values | None
    why_not: str = ""


def pixel_facts(
    session: Session,
    image: Image,
    settings: ViewSettings,
    point: Point,
    queries: Sequence[Query],
    progress: Progress = silent,
) -> PixelFacts:
    """The feature under a point, how it compares with what is asked, and which cells it is made of.

    Raises:
        FeatUpError: what keeps the features from being computed.
    """
    look = session.look(image, settings, progress)
    compared = compared_features(look.field, point, queries, size=look.size)
    try:
        return PixelFacts(point, compared, kernel(look.field, point, size=look.size))
    except LensError as error:
        return PixelFacts(point, compared, None, str(error))
