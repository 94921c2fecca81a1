"""``featup-app compare``: methods or other settings side by side, on one sheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from featup_app.base.errors import FeatUpError
from featup_app.base.progress import Progress
from featup_app.cli import compare_options as options
from featup_app.cli.export_options import OutputSize, Overwrite
from featup_app.cli.options import AsJSON, Channels, Device, LockedBasis, Page, Range, selection_of, with_basis
from featup_app.cli.stopping import interrupted_by_signals
from featup_app.cli.terminal import (
    CANCELLED,
    PASSED_OVER,
    print_image_notes,
    print_json,
    print_line,
    print_message,
    progress_bar,
)
from featup_app.engine.settings import ViewSettings
from featup_app.export.sheets import WIDTH
from featup_app.fields import DEFAULT_METHOD, find_method
from featup_app.images.selection import AUTO
from featup_app.lenses import parse_views

if TYPE_CHECKING:
    from featup_app.engine.comparison_sheet import SheetReport
    from featup_app.engine.session import Session
    from featup_app.images import Image

METHODS = "attention,jbu,bilinear"
"""What is compared if no list is given."""

_DEFAULT = ViewSettings()


def compare(
    image: options.Picture,
    output: options.Output = Path(),
    methods: options.Methods = None,
    backbones: options.Backbones = None,
    layers: options.Layers = None,
    sizes: options.Sizes = None,
    views: options.Views = "pca",
    pca: LockedBasis = None,
    difference: options.Difference = False,
    output_size: OutputSize = _DEFAULT.output_size,
    width: options.Width = WIDTH,
    overwrite: Overwrite = False,
    page: Page = "",
    channels: Channels = "",
    range: Range = AUTO,
    device: Device = None,
    as_json: AsJSON = False,
) -> None:
    """Compare two to four settings of an image on one sheet: a column each, with its cost and label-free scores.

    Lists with several entries are combined: two backbones and two methods make four columns. The rows are the views. Colours
    of a row have one scale, and principal components are shared by all columns whose features mean the same. A column that
    fails says why on the sheet, and the others stay. The paths of the files are printed, one on a line.
    """
    columns = columns_of(methods, backbones, layers, sizes, output_size)
    requests = with_basis(parse_views(views), pca)
    selection = selection_of(page, channels, range)
    try:
        with interrupted_by_signals(), progress_bar() as progress:
            progress("starting", 0, 0)
            from featup_app.engine.comparison import Comparison
            from featup_app.engine.comparison_sheet import SheetOptions, sheet_targets, write_comparison
            from featup_app.engine.session import Session
            from featup_app.images import load_image

            session, picture = Session(device=device), load_image(image, selection)
            print_image_notes(picture, picture.name)
            inputs = [Path(file) for each in columns if (file := each.upsampler_file) is not None]
            inputs += [] if pca is None else [pca]
            wanted = SheetOptions(requests, difference, width, overwrite, tuple(inputs))
            wanted.check(picture)
            opened = [_with_fit(session, picture, settings, progress) for settings in columns]
            targets = sheet_targets(output, picture)
            report = write_comparison(session, Comparison(picture, opened), wanted, targets, progress)
    except KeyboardInterrupt:
        print_message("Cancelled; nothing was written.")
        raise typer.Exit(CANCELLED) from None
    _print(report, as_json)
    if report.failed:
        raise typer.Exit(PASSED_OVER)


def columns_of(
    methods: str | None, backbones: str | None, layers: str | None, sizes: str | None, output_size: str
) -> list[ViewSettings]:
    """The settings of all columns: each backbone with each layer, size and method, the methods in the innermost order.

    Raises:
        FeatUpError: if an entry of a list cannot be used.
    """
    from featup_app.evaluation.methods import parse_methods

    names, places, inputs = (
        _entries(text, name) for text, name in zip((backbones, layers, sizes), _LISTS, strict=True)
    )
    several = any(len(entries) > 1 for entries in (names, places, inputs))
    choices = parse_methods(methods or (DEFAULT_METHOD if several else METHODS))
    for choice in choices:
        if choice.options:
            raise FeatUpError(
                f'"{choice.label}" sets an option of the method {choice.method}, which a comparison cannot; compare methods '
                f"and weights, such as {choice.method}."
            )
    return [
        _DEFAULT.with_(
            backbone=name or _DEFAULT.backbone,
            layer=layer,
            input_size=size,
            method=choice.method,
            upsampler=choice.upsampler,
            output_size=output_size,
        )
        for name in names
        for layer in places
        for size in inputs
        for choice in choices
    ]


_LISTS = ("--backbones", "--layers", "--sizes")


def _entries(text: str | None, name: str) -> list[str | None]:
    """The entries of a list; [None] for none, which is the default. Raises FeatUpError for an empty one."""
    if text is None:
        return [None]
    entries = [entry.strip() for entry in text.split(",")]
    if not all(entries):
        raise FeatUpError(f'The list "{text}" of {name} has an empty entry; write names, separated by commas.')
    return list(entries)


def _with_fit(session: Session, image: Image, settings: ViewSettings, progress: Progress) -> ViewSettings:
    """The settings with the fit of their file opened, if they name one. Raises UpsamplerError."""
    if not find_method(settings.method).takes_fit or settings.upsampler_file is None:
        return settings
    from featup_app.engine.fits import next_number
    from featup_app.engine.fitting import open_fit

    number, chosen = next_number(), settings.with_(upsampler=None)
    open_fit(session, number, image, chosen, Path(settings.upsampler_file), progress)
    return chosen.with_(fit=number)


def _print(report: SheetReport, as_json: bool) -> None:
    for column in report.columns:
        for error in column.errors:
            print_message(f"{column.title}: {error}")
    if as_json:
        files = [str(file) for file in report.files]
        print_json({"files": files, "columns": [column.as_json() for column in report.columns]})
        return
    for file in report.files:
        print_line(str(file))
