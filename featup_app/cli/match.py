"""``featup-app match``: which places of two pictures show the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from featup_app.base.errors import FeatUpError
from featup_app.cli import match_options as options
from featup_app.cli.export_options import Overwrite
from featup_app.cli.options import (
    AsJSON,
    BackboneName,
    Channels,
    Device,
    InputSize,
    LayerName,
    Page,
    Range,
    selection_of,
)
from featup_app.cli.stopping import interrupted_by_signals
from featup_app.cli.terminal import CANCELLED, print_image_notes, print_json, print_line, print_message, progress_bar
from featup_app.engine.matching import MatchOptions, match_targets, write_matches
from featup_app.engine.settings import ViewSettings
from featup_app.features import Point
from featup_app.fields import find_method
from featup_app.images.selection import AUTO

if TYPE_CHECKING:
    from featup_app.lenses.correspondence import Matches

_DEFAULT = ViewSettings()
_OPTIONS = MatchOptions()


def match(
    one: options.One,
    other: options.Other,
    output: options.Output = Path(),
    backbone: BackboneName = _DEFAULT.backbone,
    layer: LayerName = None,
    size: InputSize = None,
    method: options.Method = _DEFAULT.method,
    count: options.Count = _OPTIONS.count,
    point: options.At = None,
    refine: options.Refine = _OPTIONS.refine,
    overwrite: Overwrite = False,
    page: Page = "",
    channels: Channels = "",
    range: Range = AUTO,
    device: Device = None,
    as_json: AsJSON = False,
) -> None:
    """Find places of two images that show the same, as a table and as a picture with lines.

    Cells of the features that are each other's nearest are matched, and refined on the upsampled features. The table has a
    line for each match: x1, y1, x2, y2 in pixels of the original images, similarity and confidence from 0 to 1, the most
    confident first. The paths of the files are printed, one on a line.
    """
    if find_method(method).takes_fit:
        raise FeatUpError(
            f"The method {method} is fitted to one image, and cannot be matched; choose another --method."
        )
    wanted = MatchOptions(count, refine, None if point is None else parse_point(point), overwrite)
    settings = _DEFAULT.with_(backbone=backbone, layer=layer, input_size=size, method=method)
    selection = selection_of(page, channels, range)
    try:
        with interrupted_by_signals(), progress_bar() as progress:
            progress("starting", 0, 0)
            from featup_app.engine.session import Session
            from featup_app.images import load_image

            images = load_image(one, selection), load_image(other, selection)
            for image in images:
                print_image_notes(image, image.name)
            targets = match_targets(output, images)
            found, files = write_matches(Session(device=device), images, settings, wanted, targets, progress)
    except KeyboardInterrupt:
        print_message("Cancelled; nothing was written.")
        raise typer.Exit(CANCELLED) from None
    if as_json:
        print_json({"files": [str(file) for file in files], "matches": _rows(found)})
        return
    for file in files:
        print_line(str(file))


def parse_point(text: str) -> Point:
    """(x, y) of ``120,80``. Raises FeatUpError for anything else."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise FeatUpError(f'The point "{text}" of --point is not understood; write x and y in pixels, such as 120,80.')
    return x, y


def _rows(found: Matches) -> list[dict[str, object]]:
    return [
        {"one": one.tolist(), "other": other.tolist(), "similarity": float(similarity), "confidence": float(confidence)}
        for one, other, similarity, confidence in zip(
            found.one, found.other, found.similarity, found.confidence, strict=True
        )
    ]
