"""What the window and the command line ask of a session about fits. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from featup_app.base.errors import SizeError
from featup_app.base.progress import Progress, silent
from featup_app.engine.fit_book import FitRecord
from featup_app.engine.fits import FitRefusal, FitReport, FitRequest
from featup_app.engine.settings import ViewSettings
from featup_app.features import Geometry, Size
from featup_app.images import Image
from featup_app.lenses import PCARequest
from featup_app.lenses.lens import Pixels
from featup_app.sizes import resolve_output_size

if TYPE_CHECKING:
    from featup_app.engine.session import Session

LIVE_PIXELS = 160 * 160
"""Output pixels of the pictures while a fit goes on: they are made anew about once a second, at the cost of the fit."""


@dataclass(frozen=True, eq=False)
class ComparedPicture:
    """PCA colours of one method or fit, (H, W, 3) uint8, beside its held-out error; ``fit`` is the number of a fit."""

    title: str
    fit: int | None
    held_out: float | None
    pixels: Pixels


def begin_fit(
    session: Session,
    number: int,
    image: Image,
    settings: ViewSettings,
    request: FitRequest,
    progress: Progress = silent,
) -> FitReport | FitRefusal:
    """Begin to fit the features that these settings mean. Raises what :meth:`Fits.begin` and ``Session.features`` raise."""
    features = session.features(image, settings, progress)
    return session.fits.begin(number, features, request, memory_budget=session.memory_budget, progress=progress)


def open_fit(
    session: Session, number: int, image: Image, settings: ViewSettings, path: Path, progress: Progress = silent
) -> FitReport:
    """Read a fit for the features that these settings mean. Raises what :meth:`Fits.open` and ``Session.features`` raise."""
    return session.fits.open(number, path, session.features(image, settings, progress), progress)


def compare_fits(
    session: Session,
    image: Image,
    settings: ViewSettings,
    numbers: Sequence[int],
    request: PCARequest,
    progress: Progress = silent,
) -> tuple[ComparedPicture, ...]:
    """PCA colours of bilinear interpolation, joint bilateral upsampling and fits of the same features, all in one set of colours.

    Args:
        session: keeps the fits.
        image: that they are of.
        settings: name the features; the method is not looked at.
        numbers: of the fits.
        request: components that are shown. Whatever they are fitted on, here it is the low-resolution map.
        progress: may cancel.
    """
    features = session.features(image, settings, progress)
    size = live_size(settings, features.geometry)
    common = settings.with_(output_size=f"{size[0]}x{size[1]}", fit=None)
    request = replace(request, fit="grid")
    reports = [session.fits.report(number) for number in numbers if session.fits.serves(number, features)]
    reports = [report for report in reports if report.state is None or report.held_out is not None]
    state = next((report.state for report in reports if report.state is not None), None)
    rows: list[tuple[str, int | None, float | None, ViewSettings]] = [
        ("Bilinear", None, state.bilinear if state else None, common.with_(method="bilinear")),
        ("FeatUp JBU", None, state.jbu if state else None, common.with_(method="jbu")),
    ]
    rows += [(r.title, r.number, r.held_out, common.with_(method="implicit", fit=r.number)) for r in reports]
    found = []
    for index, (title, number, held_out, chosen) in enumerate(rows):
        progress("comparing fits", index, len(rows))
        pixels = session.view(image, chosen, request, progress).picture()
        found.append(ComparedPicture(title, number, held_out, pixels))
    return tuple(found)


def live_size(settings: ViewSettings, geometry: Geometry) -> Size:
    """The output size (H, W) of pictures that are made while a fit goes on: the chosen one, or a smaller one of its aspect.

    Raises:
        SizeError: if the chosen one is not understood.
    """
    height, width = resolve_output_size(settings.output_size, image_hw=geometry.image_hw, grid_hw=geometry.grid_hw)
    shrink = min(1.0, (LIVE_PIXELS / (height * width)) ** 0.5)
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def live_size_text(settings: ViewSettings, record: FitRecord) -> str | None:
    """:func:`live_size` of a fit with a report, as a person would type it; None if the chosen size is not understood."""
    assert record.report is not None
    try:
        height, width = live_size(settings, record.report.geometry)
    except SizeError:
        return None  # the views report it
    return f"{height}x{width}"
