"""Principal components fitted for other pictures too: on selections, and on several pictures together."""

from __future__ import annotations

from collections.abc import Sequence

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress, part_of, silent
from featup_app.engine.session import Session
from featup_app.engine.settings import ViewSettings
from featup_app.features import FeatureMap
from featup_app.fields import find_method
from featup_app.images import Image
from featup_app.lenses import BasisPicture, LockedBasis, fit_pca, space_of
from featup_app.lenses.lens import Mask

MOST_PICTURES = 100
"""Their coarse maps are in memory at once."""


def fit_basis(
    session: Session,
    pictures: Sequence[tuple[Image, Mask | None]],
    settings: ViewSettings,
    progress: Progress = silent,
) -> LockedBasis:
    """Fit principal components on the coarse maps of pictures together, each weighing as much as the others.

    Args:
        session: gives the features.
        pictures: each with the part of it that is fitted, (H, W) bool over the whole picture; None for all of it.
        settings: backbone, layer, input size and weights.
        progress: may cancel.

    Raises:
        LensError: for no picture, more than :data:`MOST_PICTURES`, or a selection that holds too few cells.
        FeatUpError: if the features of a picture cannot be had.
    """
    if not 1 <= len(pictures) <= MOST_PICTURES:
        raise LensError(
            f"Principal components were to be fitted on {len(pictures)} pictures; choose from 1 to {MOST_PICTURES}."
        )
    maps: list[FeatureMap] = []
    words = "extracting features"
    for index, (image, _) in enumerate(pictures):
        progress(words, index, len(pictures))
        own = part_of(progress, index, len(pictures), words=words)
        # The coarse map of a field is the backbone's, or what an upsampler has normalised of it; a fit would take seconds.
        quick = settings if find_method(settings.method).quick else settings.with_(method="bilinear", fit=None)
        field = session.field(image, quick, own)
        maps.append(field.coarse)
        space = space_of(field)
    basis = fit_pca(maps, masks=[mask for _, mask in pictures], progress=progress)
    session.kept.settle()
    used = tuple(
        BasisPicture(image.name, image.sha256, features.geometry.input_hw, 1.0 if mask is None else float(mask.mean()))
        for (image, mask), features in zip(pictures, maps, strict=True)
    )
    return LockedBasis(basis, space, used)
