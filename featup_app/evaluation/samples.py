"""Sample pictures for a report: the PCA colours of each method's features for a few images."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as pillow

from featup_app.base.errors import FeatUpError
from featup_app.base.progress import Progress, silent
from featup_app.evaluation.methods import PreparedMethod
from featup_app.evaluation.plan import Plan, Values
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.tasks.common import fingerprint
from featup_app.features import FeatureMap, Size
from featup_app.images import Image, resized
from featup_app.lenses import PCABasis, fit_pca, pca

COUNT = 2
WIDTH = 256
"""Width of a picture of the report in pixels."""

_QUALITY = 88


@dataclass(frozen=True)
class Sample:
    """One image with the PCA colours of each method.

    Attributes:
        name: name of the image.
        pictures: (caption, JPEG) of the image itself and of each method, all of the same size.
    """

    name: str
    pictures: tuple[tuple[str, bytes], ...]


def sample_pictures(
    plan: Plan, records: Records, *, count: int = COUNT, progress: Progress = silent
) -> tuple[Sample, ...]:
    """PCA colours of each method for a few pictures of the data set, evenly spread over it.

    Components and colour limits come from the low-resolution map, so that colours are comparable between methods.

    Args:
        plan: methods, pictures and backbone.
        records: the store of pictures, those of earlier runs included.
        count: number of images.
        progress: called for each picture; may cancel.
    """
    methods = _prepared(plan)
    samples = []
    for item in plan.data.limited(count).items:
        try:
            picture, image = fingerprint(item), item.image()
        except FeatUpError:
            continue
        shown = [("image", _jpeg(resized(image.pixels, _size(image))))]
        maps: list[FeatureMap] = []
        for method in methods:
            progress(f"drawing {method.label}, {item.name}", 0, 0)
            key = configuration_key({"task": "samples", "width": WIDTH, **plan.facts(), **method.identity})
            known = records.find(key, picture)
            if known is None:
                if not maps:
                    maps.append(plan.backbone.extract(image, size=plan.size, layer=plan.layer, progress=progress))
                known = _rendered(method, maps[0], progress)
                if known is None:
                    continue
                records.keep(key, picture, known)
            shown.append((method.label, base64.b64decode(known["jpeg"])))
        samples.append(Sample(item.name, tuple(shown)))
    return tuple(samples)


def _prepared(plan: Plan) -> list[PreparedMethod]:
    """The methods whose weights fit; the tables give the reasons for the others."""
    methods: list[PreparedMethod] = []
    for choice in plan.methods:
        try:
            methods.extend(dataclasses.replace(plan, methods=(choice,)).prepared())
        except FeatUpError:
            continue
    return methods


def _rendered(method: PreparedMethod, features: FeatureMap, progress: Progress) -> Values | None:
    source = method.source(features)
    basis: PCABasis = fit_pca(source, progress=progress)
    try:
        picture = pca(method.field(features, progress), size=_size(features.image), basis=basis, progress=progress)
    except FeatUpError:
        return None
    return {"jpeg": base64.b64encode(_jpeg(picture)).decode()}


def _size(image: Image) -> Size:
    height, width = image.size_hw
    return max(1, math.ceil(height * WIDTH / width)), WIDTH


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    pillow.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
