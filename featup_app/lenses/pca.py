"""PCA colours: three principal components of the features as red, green and blue. Imports no torch by itself."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from featup_app.base.errors import LensError
from featup_app.base.files import file_state
from featup_app.base.progress import Progress, silent
from featup_app.features import Size
from featup_app.lenses.lens import Components, Lens, LensView, Looks, Mask, Pixels, Request, Values
from featup_app.lenses.look import FieldFacts, Look
from featup_app.lenses.masks import ThresholdMask
from featup_app.lenses.pictures import numbers_of, signed

if TYPE_CHECKING:
    from featup_app.fields.field import FeatureField
    from featup_app.lenses.pca_bases import LockedBasis
    from featup_app.lenses.principal_components import PCABasis

PCAFit = Literal["grid", "field", "joint"]
Side = Literal["above", "below"]


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
    """Which components are shown, and what they are fitted on.

    Attributes:
        numbers: of the components, counted from 1.
        fit: "grid" fits the low-resolution map, so that colours are the same for every method; "field" the upsampled features
            alone; "joint" those of all methods together, except those that are fitted to each image or run the backbone again.
        basis: a locked basis instead, whatever ``fit`` is: the path of its file, or its reference in memory
            (:mod:`featup_app.lenses.pca_bases`).
        foreground: which side of ``threshold`` along the first component is the foreground; None for no foreground. The sign of
            a component has no meaning, so that a person chooses.
        threshold: a value of the first component; 0 is that of the mean feature.
    """

    lens: ClassVar[str] = "pca"
    numbers: tuple[int, ...] = (1, 2, 3)
    fit: PCAFit = "grid"
    basis: str | None = None
    foreground: Side | None = None
    threshold: float = 0.0

    def computation(self) -> Hashable:
        basis = None if self.basis is None else file_state(self.basis)
        return self.numbers, self.fit, basis, self.foreground is not None

    def gives_mask(self) -> bool:
        return self.foreground is not None

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
        locked: where the components come from, if the request names a locked basis.
        first: (H, W) values of the first component, if the request asks for a foreground.
    """

    request: PCARequest
    facts: FieldFacts
    values: Values
    numbers: tuple[int, ...]
    basis: PCABasis
    pixels: Pixels
    locked: LockedBasis | None = None
    first: Values | None = None

    @property
    def explained(self) -> tuple[float, ...]:
        """Share of the variance of every component."""
        return self.basis.explained

    def picture(self) -> Pixels:
        return self.pixels

    def foreground(self) -> Mask | None:
        """(H, W): the pixels on the side of the threshold that the request names; None if it asks for no foreground."""
        if self.first is None or self.request.foreground is None:
            return None
        above = self.first >= self.request.threshold
        return above if self.request.foreground == "above" else ~above

    def mask(self) -> ThresholdMask | None:
        inside = self.foreground()
        return None if inside is None else ThresholdMask(self.request.threshold, inside)

    def outlined(self) -> Mask | None:
        return self.foreground()

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
        locked = {} if self.locked is None else {"basis": self.locked.facts()}
        side = {} if self.first is None else {"foreground": [self.request.foreground, self.request.threshold]}
        return {
            "lens": self.request.lens,
            "numbers": self.numbers,
            "fit": self.request.fit if self.locked is None else "locked",
            **locked,
            **side,
            "mean": self.basis.mean,
            "components": self.basis.components[rows],
            "explained_variance_ratio": [self.explained[row] for row in rows],
            "low": self.basis.low[rows],
            "high": self.basis.high[rows],
            "clip_percentiles": PERCENTILES,
            "sign": "the sum of the cubes of the entries of a component is positive",
            "colours": "255 * (components @ (feature - mean) - low) / (high - low), clipped to 0 .. 255",
        }


def _locked(request: PCARequest, looks: Looks, look: Look) -> LockedBasis | None:
    """The locked basis that a request names, which fits the features of a look. Raises LensError."""
    from featup_app.lenses.pca_bases import HELD, find_basis

    reference = request.basis
    if reference is None:
        return None
    if reference.startswith(HELD):
        locked, name = find_basis(reference), "that are locked"
    else:
        locked = looks.remember(("pca", "file", file_state(reference)), lambda: find_basis(reference))
        name = f'of "{reference}"'
    locked.check_fits(look.field, name)
    return locked


class PCALens(Lens[PCARequest, PCAView]):
    name = "pca"
    title = "PCA"
    tooltip = "Three principal components of the features as colours: alike colours, alike features"
    request_type = PCARequest
    usage = "pca, pca:4-6"
    argument = r"(?::\s*(?:(?P<first>\d+)\s*-\s*(?P<last>\d+)|(?P<list>\d+\s*,\s*\d+\s*,\s*\d+)))?"

    def view(self, request: PCARequest, looks: Looks, progress: Progress = silent) -> tuple[PCAView, Look]:
        wanted = request.foreground is not None
        look = looks.look(progress, channels=4 if wanted else 3)
        locked = _locked(request, looks, look)
        basis = self.basis(request, looks, look, progress) if locked is None else locked.basis
        numbers = _shown(look.field, request.numbers)
        values = basis.values(look.field, numbers, size=look.size, progress=progress)
        first = numbers_of(basis.values(look.field, (1,), size=look.size, progress=progress)[0]) if wanted else None
        picture = basis.picture(values, numbers)
        view = PCAView(request, look.facts, numbers_of(values), numbers, basis, picture, locked, first)
        return view, look

    def basis(self, request: PCARequest, looks: Looks, look: Look, progress: Progress = silent) -> PCABasis:
        """The principal components that are fitted for a request.

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
