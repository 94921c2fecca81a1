"""Exporting an image: its features and pictures of its views, all of them or none.

Window and command line both come here, so that they write the same bytes. Importing this imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.base.errors import ExportError
from featup_app.base.progress import Progress, silent
from featup_app.engine.views import CAMView, PCAOptions, PCAView, SimilarityView, ViewSettings
from featup_app.export import Staging, build_provenance, stage_features, stage_picture
from featup_app.export.feature_files import MEMORY_BUDGET, check_choice, json_beside
from featup_app.features import Point, Size
from featup_app.images import Image

if TYPE_CHECKING:
    from featup_app.engine.session import Session

Limits = tuple[float, float]


@dataclass(frozen=True)
class PCARequest:
    """A picture of three principal components."""

    options: PCAOptions = field(default_factory=PCAOptions)


@dataclass(frozen=True)
class SimilarityRequest:
    """A picture of the cosine to the feature under a point; ``limits`` as the view chooses them if None."""

    point: Point
    colormap: str = "viridis"
    limits: Limits | None = None


@dataclass(frozen=True)
class CAMRequest:
    """A picture of the evidence for a class: its name, index, or the most probable one if None."""

    chosen: str | int | None = None
    colormap: str = "inferno"
    limits: Limits | None = None


ViewRequest = PCARequest | SimilarityRequest | CAMRequest


@dataclass(frozen=True)
class ExportOptions:
    """What is written of an image.

    Attributes:
        format, dtype: of the features, as in :func:`~featup_app.export.export_features`.
        features: whether the features themselves are written.
        views: the pictures to write.
        overwrite: whether files that are there already may be replaced.
    """

    format: str = "npz"
    dtype: str = "float32"
    features: bool = True
    views: tuple[ViewRequest, ...] = ()
    overwrite: bool = False

    def check(self) -> None:
        """Raises ExportError if these options cannot be met, whatever the image."""
        check_choice(self.format, self.dtype)
        if not self.features and not self.views:
            raise ExportError("There is nothing to export: neither features nor views are asked for.")


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_VIEW = re.compile(
    rf"""\s*(?:
        (?P<pca>pca)(?::\s*(?:(?P<first>\d+)\s*-\s*(?P<last>\d+)|(?P<list>\d+\s*,\s*\d+\s*,\s*\d+)))?
        | similarity\s*@\s*(?P<x>{_NUMBER})\s*,\s*(?P<y>{_NUMBER})
        | (?P<cam>cam)(?::\s*(?:"(?P<double>[^"]+)"|'(?P<single>[^']+)'|(?P<plain>[^,"'\s][^,]*)))?
    )\s*(?:,|$)""",
    re.VERBOSE | re.IGNORECASE,
)
_GRAMMAR = (
    "Write pca, pca:4-6, similarity@X,Y (a point in pixels of the image), cam or cam:CLASS, separated by commas; "
    'a class whose name holds a comma in quotes: cam:"lynx, catamount".'
)


def parse_views(text: str) -> tuple[ViewRequest, ...]:
    """The views that a person asks for, e.g. ``pca,pca:4-6,similarity@120,80,cam:espresso``.

    ``pca`` shows components 1 to 3, ``pca:4-6`` and ``pca:1,4,9`` others; ``similarity@x,y`` the similarity to an image
    point; ``cam`` the most probable class, ``cam:CLASS`` one by name or number.

    Raises:
        ExportError: if a part cannot be understood, or is there twice.
    """
    requests: list[ViewRequest] = []
    position = 0
    while position < len(text.rstrip()):
        found = _VIEW.match(text, position)
        if found is None:
            raise ExportError(f'The view "{text[position:].strip()}" is not understood. {_GRAMMAR}')
        request = _request(found)
        if request in requests:
            raise ExportError(f'The view "{found.group().strip(" ,")}" is asked for twice; once is enough.')
        requests.append(request)
        position = found.end()
    return tuple(requests)


def _request(found: re.Match[str]) -> ViewRequest:
    if found["pca"]:
        if found["list"]:
            return PCARequest(PCAOptions(tuple(int(number) for number in found["list"].split(","))))
        first, last = int(found["first"] or 1), int(found["last"] or 3)
        if last - first != 2:
            raise ExportError(
                f"The view pca:{first}-{last} has {max(0, last - first + 1)} components; a picture shows three, "
                f"such as pca:{first}-{first + 2}."
            )
        return PCARequest(PCAOptions((first, first + 1, last)))
    if found["x"]:
        return SimilarityRequest((float(found["x"]), float(found["y"])))
    name = found["double"] or found["single"] or (found["plain"] or "").strip() or None
    return CAMRequest(name)


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """A name for the files of each image: its own without the suffix, numbered where several images share it."""
    own = {path.stem.casefold() for path in paths}
    taken: set[str] = set()
    stems = []
    for path in paths:
        stem, number = path.stem, 1
        while stem.casefold() in taken or (number > 1 and stem.casefold() in own):
            number += 1
            stem = f"{path.stem}-{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def export_image(
    session: Session,
    image: Image,
    settings: ViewSettings,
    options: ExportOptions,
    folder: Path,
    *,
    stem: str | None = None,
    progress: Progress = silent,
) -> list[Path]:
    """Write the features and views of one image into a folder, which is made if there is none.

    The files are ``<stem>.features.<format>`` (with ``.json`` beside a .npy), ``<stem>.pca.png``,
    ``<stem>.pca-4-6.png``, ``<stem>.similarity-120-80.png``, ``<stem>.cam-espresso.png``. They appear together when all
    are complete.

    Args:
        stem: beginning of the file names; from the name of the image if not given.
        progress: may cancel; then, as after any failure, nothing is left behind.

    Returns:
        The files, the features first.

    Raises:
        FeatUpError: whatever keeps one of them from being made.
    """
    options.check()
    stem = stem or re.sub(r'[\\/:*?"<>|]+', "-", Path(image.name).stem) or "image"
    height, width = image.size_hw
    for request in options.views:
        if isinstance(request, SimilarityRequest) and not _inside(request.point, image.size_hw):
            x, y = request.point
            raise ExportError(
                f'The point ({x:g}, {y:g}) lies outside of "{image.name}", which is {width} pixels wide '
                f"and {height} high."
            )
    with Staging(overwrite=options.overwrite) as files:
        features_file = folder / f"{stem}.features.{options.format}"
        if options.features:  # computing can take minutes, so look first whether its result may be written
            files.check(features_file)
            if options.format == "npy":
                files.check(json_beside(features_file))
        size = session.output_size(image, settings, progress, streamed=True)
        pictures = [
            _stage_view(files, session, image, settings, request, folder, stem, progress) for request in options.views
        ]
        written: list[Path] = []
        if options.features:
            upsampled = session.field(image, settings, progress)
            facts = build_provenance(features=session.features(image, settings, progress), field=upsampled, size=size)
            written = stage_features(
                files,
                upsampled,
                features_file,
                size=size,
                format=options.format,
                dtype=options.dtype,
                provenance=facts,
                memory_budget=min(MEMORY_BUDGET, int(session.memory_budget)),
                progress=progress,
            )
        progress("finishing the files", 0, 0)
    return [*sorted(written, key=lambda path: path != features_file), *pictures]


def _inside(point: Point, size_hw: Size) -> bool:
    return 0 <= point[0] <= size_hw[1] and 0 <= point[1] <= size_hw[0]


def _stage_view(
    files: Staging,
    session: Session,
    image: Image,
    settings: ViewSettings,
    request: ViewRequest,
    folder: Path,
    stem: str,
    progress: Progress,
) -> Path:
    """Compute one view and write its picture."""
    facts: dict[str, Any]
    view: PCAView | SimilarityView | CAMView
    if isinstance(request, PCARequest):
        view = session.pca_view(image, settings, request.options, progress)
        name, pixels, facts = (
            _pca_name(request.options),
            view.picture(),
            _pca_facts(session, image, settings, request, view),
        )
    elif isinstance(request, SimilarityRequest):
        x, y = request.point
        view = session.similarity_view(image, settings, request.point, progress)
        limits = request.limits or view.limits()
        name, pixels = f"similarity-{x:g}-{y:g}", view.picture(request.colormap, limits)
        facts = {"lens": "similarity", "point_xy": (x, y), "colormap": request.colormap, "limits": limits}
    else:
        view = session.cam_view(image, settings, request.chosen, progress)
        limits, chosen = request.limits or view.limits(), view.chosen
        name, pixels = f"cam-{_slug(chosen.name) or chosen.index}", view.picture(request.colormap, limits)
        facts = {"lens": "cam", "kind": view.kind, "note": view.note, "colormap": request.colormap, "limits": limits}
        facts["class"] = {"index": chosen.index, "name": chosen.name, "probability": chosen.probability}
        settings = session.class_settings(settings, progress)
        settings = settings.with_(layer=view.facts.layer, method=view.facts.method)
    shown = session.class_field if isinstance(view, CAMView) else session.field
    provenance = build_provenance(
        features=session.features(image, settings, progress),
        field=shown(image, settings, progress),
        size=view.facts.size,
        view=facts,
    )
    target = folder / f"{stem}.{name}.png"
    stage_picture(files, target, pixels, provenance=provenance)
    return target


def _pca_name(options: PCAOptions) -> str:
    numbers = options.numbers
    if numbers == (1, 2, 3):
        return "pca"
    if numbers == tuple(range(numbers[0], numbers[0] + 3)):
        return f"pca-{numbers[0]}-{numbers[-1]}"
    return f"pca-{'.'.join(str(number) for number in numbers)}"


def _pca_facts(
    session: Session, image: Image, settings: ViewSettings, request: PCARequest, view: PCAView
) -> dict[str, Any]:
    """Everything that turns features into these colours."""
    from featup_app.lenses.principal_components import PERCENTILES

    basis = session.pca_basis(image, settings, request.options, silent)
    rows = [number - 1 for number in view.numbers]
    return {
        "lens": "pca",
        "numbers": view.numbers,
        "fit": request.options.fit,
        "mean": basis.mean,
        "components": basis.components[rows],
        "explained_variance_ratio": [view.explained[row] for row in rows],
        "low": basis.low[rows],
        "high": basis.high[rows],
        "clip_percentiles": PERCENTILES,
        "sign": "the sum of the cubes of the entries of a component is positive",
        "colours": "255 * (components @ (feature - mean) - low) / (high - low), clipped to 0 .. 255",
    }


def _slug(name: str) -> str:
    """A class name as a part of a file name: "espresso maker" -> "espresso-maker"."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")[:60]
