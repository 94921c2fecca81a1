"""PCA colours: three principal components of the features as red, green and blue. Imports no torch by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress, silent
from featup_app.features import Size
from featup_app.lenses.lens import Components, Lens, LensView, Looks, Pixels, Request, Values
from featup_app.lenses.look import FieldFacts, Look
from featup_app.lenses.pictures import numbers_of, signed

if TYPE_CHECKING:
    from featup_app.fields.field import FeatureField
    from featup_app.lenses.principal_components import PCABasis

PCAFit = Literal["grid", "field", "joint"]


def pca(
    field: FeatureField,
    *,
    size: Size,
    basis: PCABasis | None = None,
    components: Sequence[int] = (1, 2, 3),
    progress: Progress = silent,
) -> Pixels:
    """PCA colours of a field: (H, W, 3) uint8 RGB.

    Args:
        field: of the features.
        size: (H, W) of the output.
        basis: from :func:`~featup_app.lenses.fit_pca`; fitted on this field if not given.
        components: the three components, counted from 1, that become red, green and blue. Fields with fewer than three
            channels repeat the last.
        progress: may cancel.

    Raises:
        LensError: if there is no such component.
    """
    from featup_app.lenses.principal_components import fit_pca

    basis = basis or fit_pca(field, progress=progress)
    components = _shown(field, components)
    return basis.picture(basis.values(field, components, size=size, progress=progress), components)


def _shown(field: FeatureField, numbers: Sequence[int]) -> tuple[int, ...]:
    """The components that are shown: a field of one or two channels repeats its last one."""
    return tuple(numbers) if field.channels >= 3 else tuple(min(number, field.channels) for number in numbers)


@dataclass(frozen=True)
class PCARequest(Request):
    """Which components are shown, counted from 1, and what they are fitted on.

    ``fit``: "grid" fits the low-resolution map, so that colours are the same for every method; "field" the upsampled features
    alone; "joint" those of all methods together, except those that are fitted to each image or run the backbone again.
    """

    lens: ClassVar[str] = "pca"
    numbers: tuple[int, ...] = (1, 2, 3)
    fit: PCAFit = "grid"

    def stem(self) -> str:
        if self.numbers == (1, 2, 3):
            return "pca"
        if self.numbers == tuple(range(self.numbers[0], self.numbers[0] + 3)):
            return f"pca-{self.numbers[0]}-{self.numbers[-1]}"
        return f"pca-{'.'.join(str(number) for number in self.numbers)}"


@dataclass(frozen=True, eq=False)
class PCAView(LensView):
    """Three components as colours.

    Attributes:
        values: (3, H, W).
        numbers: of the components that are shown, counted from 1.
        basis: all components that were fitted.
        pixels: (H, W, 3) uint8 RGB.
    """

    request: PCARequest
    facts: FieldFacts
    values: Values
    numbers: tuple[int, ...]
    basis: PCABasis
    pixels: Pixels

    @property
    def explained(self) -> tuple[float, ...]:
        """Share of the variance of every component."""
        return self.basis.explained

    def picture(self) -> Pixels:
        return self.pixels

    def legend(self) -> Components:
        return Components(self.numbers, self.explained)

    def subtitle(self) -> str:
        return f"{100 * sum(self.explained[number - 1] for number in set(self.numbers)):.0f} % of the variance"

    def reading(self, row: int, column: int) -> str:
        return "PCA " + "  ".join(signed(value, 1) for value in self.values[:, row, column])

    def stem(self) -> str:
        return self.request.stem()

    def provenance(self) -> dict[str, Any]:
        from featup_app.lenses.principal_components import PERCENTILES

        rows = [number - 1 for number in self.numbers]
        return {
            "lens": self.request.lens,
            "numbers": self.numbers,
            "fit": self.request.fit,
            "mean": self.basis.mean,
            "components": self.basis.components[rows],
            "explained_variance_ratio": [self.explained[row] for row in rows],
            "low": self.basis.low[rows],
            "high": self.basis.high[rows],
            "clip_percentiles": PERCENTILES,
            "sign": "the sum of the cubes of the entries of a component is positive",
            "colours": "255 * (components @ (feature - mean) - low) / (high - low), clipped to 0 .. 255",
        }


class PCALens(Lens[PCARequest, PCAView]):
    name = "pca"
    title = "PCA"
    tooltip = "Three principal components of the features as colours: alike colours, alike features"
    request_type = PCARequest
    usage = "pca, pca:4-6"
    argument = r"(?::\s*(?:(?P<first>\d+)\s*-\s*(?P<last>\d+)|(?P<list>\d+\s*,\s*\d+\s*,\s*\d+)))?"

    def view(self, request: PCARequest, looks: Looks, progress: Progress = silent) -> tuple[PCAView, Look]:
        look = looks.look(progress)
        basis = self.basis(request, looks, look, progress)
        numbers = _shown(look.field, request.numbers)
        values = basis.values(look.field, numbers, size=look.size, progress=progress)
        view = PCAView(request, look.facts, numbers_of(values), numbers, basis, basis.picture(values, numbers))
        return view, look

    def basis(self, request: PCARequest, looks: Looks, look: Look, progress: Progress = silent) -> PCABasis:
        """The principal components that a request shows.

        An upsampler that normalises its features gives fields of other numbers than the backbone's own; components are
        then fitted on features that are normalised in the same way, and on no others.
        """
        from featup_app.lenses.principal_components import fit_pca

        coarse = look.field.coarse
        if request.fit == "grid":
            key = look.field_key if coarse.normalised else look.map_key
            return looks.remember(("pca", "grid", key), lambda: fit_pca(coarse, progress=progress))
        if request.fit == "field":
            return looks.remember(("pca", "field", look.field_key), lambda: fit_pca(look.field, progress=progress))
        key = looks.alternatives_key(progress), look.field_key if coarse.normalised else None
        return looks.remember(("pca", "joint", key), lambda: fit_pca(looks.alternatives(progress), progress=progress))

    def label(self, request: PCARequest, view: PCAView | None = None) -> str:
        return f"PCA, components {', '.join(map(str, request.numbers))}"

    def parse(self, found: re.Match[str]) -> PCARequest:
        if found["list"]:
            return PCARequest(tuple(int(number) for number in found["list"].split(",")))
        first, last = int(found["first"] or 1), int(found["last"] or 3)
        if last - first != 2:
            raise LensError(
                f"The view pca:{first}-{last} has {max(0, last - first + 1)} components; a picture shows three, "
                f"such as pca:{first}-{first + 2}."
            )
        return PCARequest((first, first + 1, last))
