"""Correspondences of two pictures, computed and written. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.base.progress import Progress, silent
from featup_app.engine.exporting import proposed_stem, targets_of
from featup_app.engine.settings import ViewSettings
from featup_app.export import Staging, build_provenance
from featup_app.export.match_files import MATCH_SUFFIXES, check_match_name, files_of, stage_matches
from featup_app.features import Point
from featup_app.fields.registry import find_method
from featup_app.images import Image

if TYPE_CHECKING:
    from featup_app.engine.session import Session
    from featup_app.lenses.correspondence import Matches


@dataclass(frozen=True)
class MatchOptions:
    """What is matched and how it is written.

    Attributes:
        count: matches, at most.
        refine: whether points are refined on the upsampled features.
        point: of the first picture, (x, y) in its pixels: only its match is wanted.
        overwrite: whether files that are there already may be replaced.
        inputs: files that are never replaced, beside those of the images.
    """

    count: int = 200
    refine: bool = True
    point: Point | None = None
    overwrite: bool = False
    inputs: tuple[Path, ...] = ()


def match_targets(place: Path, images: tuple[Image, Image]) -> list[Path]:
    """The files that an argument means: itself if it ends like a file, else a table, a PNG and an SVG in that folder.

    Raises:
        ExportError: if it ends like a file of another kind.
    """
    stem = ".".join(proposed_stem(image) for image in images)
    return targets_of(place, f"{stem}.match", MATCH_SUFFIXES, check_match_name)


def write_matches(
    session: Session,
    images: tuple[Image, Image],
    settings: ViewSettings,
    options: MatchOptions,
    targets: Sequence[Path],
    progress: Progress = silent,
) -> tuple[Matches, list[Path]]:
    """Match two pictures and write what was found.

    Args:
        session: computes.
        images: the two pictures.
        settings: of the features of both.
        options: what is matched.
        targets: files, .csv, .png or .svg, which appear together.
        progress: may cancel; then, as after any failure, nothing is left behind.

    Returns:
        The matches, and all files that were written.

    Raises:
        FeatUpError: if features or matches cannot be had, or a file cannot be written.
    """
    from featup_app.lenses.correspondence import correspond, match_point, refined_size

    inputs = [*options.inputs, *(image.path for image in images if image.path is not None)]
    written = [path for target in targets for path in files_of(target)]
    with Staging(overwrite=options.overwrite, inputs=inputs) as files:
        for path in written:  # computing can take long, so look first whether its result may be written
            files.check(path)
        one, other = (session.field(image, settings, progress) for image in images)
        if options.point is None:
            found = correspond(one, other, count=options.count, refine=options.refine, progress=progress)
        else:
            found = match_point(one, options.point, other, progress=progress).as_matches(options.point)
        records = [
            build_provenance(
                features=session.features(image, settings, progress), field=field, size=refined_size(field)
            )
            for image, field in zip(images, (one, other), strict=True)
        ]
        facts: dict[str, Any] = {
            **records[0],
            "match": {
                "other": {name: records[1][name] for name in ("image", "preprocess", "grid", "upsampler", "mapping")},
                "count": len(found),
                "refined": options.refine or options.point is not None,
                "point": options.point,
            },
        }
        lines = (f"{session.backbone(settings, progress).title}, {find_method(settings.method).title}",)
        progress("writing the matches", 0, 0)
        for target in targets:
            stage_matches(files, target, images, found, provenance=facts, lines=lines)
    return found, written
