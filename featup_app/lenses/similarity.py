"""Similarity: how alike each pixel's feature is to that of one chosen pixel. Imports no torch by itself."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress, silent
from featup_app.features import Point, Size
from featup_app.lenses.lens import ColorRange, Lens, LensView, Limits, Looks, Pixels, Request, Values
from featup_app.lenses.look import FieldFacts, Look
from featup_app.lenses.pictures import heat_picture, numbers_of, signed, similarity_limits

if TYPE_CHECKING:
    from torch import Tensor

    from featup_app.fields.field import FeatureField
    from featup_app.images import Image

_SMALLEST_NORM = 1e-12
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"


def similarity(field: FeatureField, point: Point, *, size: Size, progress: Progress = silent) -> Tensor:
    """Cosine between the feature under an image point and the feature of every output pixel.

    Exact: the dot product is one projected channel, divided by the true lengths of the upsampled features.

    Args:
        field: of the features.
        point: (x, y) in original image pixels; outside counts as the nearest pixel inside.
        size: (H, W) of the output.
        progress: may cancel.

    Returns:
        (H, W) in -1 .. 1; the pixel that holds the point is 1 (0 where a feature is all zero).
    """
    norms = field.norms(size=size, progress=progress)
    query = field.sample([point], size=size)
    query = query / query.norm().clamp(min=_SMALLEST_NORM)
    dots = field.project(query, size=size, progress=progress)[0]
    return (dots / norms.clamp(min=_SMALLEST_NORM)).clamp(-1, 1)


@dataclass(frozen=True)
class SimilarityRequest(Request):
    """The cosine to the feature under ``point``, (x, y) in image pixels; limits as they suit the image if None."""

    lens: ClassVar[str] = "similarity"
    point: Point
    colormap: str = "viridis"
    limits: Limits | None = None

    def computation(self) -> Hashable:
        return self.point

    def check_image(self, image: Image) -> None:
        (x, y), (height, width) = self.point, image.size_hw
        if not (0 <= x <= width and 0 <= y <= height):
            raise LensError(
                f'The point ({x:g}, {y:g}) lies outside of "{image.name}", which is {width} pixels wide and {height} high.'
            )


@dataclass(frozen=True, eq=False)
class SimilarityView(LensView):
    """Cosine to the feature under the point of the request, (H, W) in -1 .. 1."""

    request: SimilarityRequest
    facts: FieldFacts
    values: Values

    def limits(self) -> Limits:
        """Values of the first and the last colour."""
        return self.request.limits or similarity_limits(self.values)

    def picture(self) -> Pixels:
        return heat_picture(self.values, colormap=self.request.colormap, limits=self.limits())

    def legend(self) -> ColorRange:
        return ColorRange(self.request.colormap, self.limits(), "cosine", "Cosine similarity to the query pixel")

    def subtitle(self) -> str:
        return f"to x {self.request.point[0]:.1f}, y {self.request.point[1]:.1f}"

    def reading(self, row: int, column: int) -> str:
        return f"cos {signed(self.values[row, column], 2)}"

    def stem(self) -> str:
        return "similarity-{:g}-{:g}".format(*self.request.point)

    def provenance(self) -> dict[str, Any]:
        request = self.request
        return {
            "lens": request.lens, "point_xy": request.point, "colormap": request.colormap, "limits": self.limits(),
        }  # fmt: skip


class SimilarityLens(Lens[SimilarityRequest, SimilarityView]):
    name = "similarity"
    title = "Similarity"
    tooltip = "How alike each pixel's feature is to that of the query pixel (cosine)"
    request_type = SimilarityRequest
    usage = "similarity@X,Y (a point in pixels of the image)"
    argument = rf"@\s*(?P<x>{_NUMBER})\s*,\s*(?P<y>{_NUMBER})"
    reads_all_channels = True

    def view(
        self, request: SimilarityRequest, looks: Looks, progress: Progress = silent
    ) -> tuple[SimilarityView, Look]:
        look = looks.look(progress)
        values = similarity(look.field, request.point, size=look.size, progress=progress)
        return SimilarityView(request, look.facts, numbers_of(values)), look

    def initial(self, image: Image, before: SimilarityRequest | None = None) -> SimilarityRequest:
        height, width = image.size_hw
        middle = width / 2, height / 2
        return SimilarityRequest(middle) if before is None else replace(before, point=middle)

    def at_point(self, request: SimilarityRequest, point: Point) -> SimilarityRequest:
        return replace(request, point=point)

    def label(self, request: SimilarityRequest, view: SimilarityView | None = None) -> str:
        return f"Similarity to x {request.point[0]:.1f}, y {request.point[1]:.1f}"

    def parse(self, found: re.Match[str]) -> SimilarityRequest:
        return SimilarityRequest((float(found["x"]), float(found["y"])))
