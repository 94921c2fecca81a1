"""``featup-app export``: features and pictures of images as files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import typer

from featup_app.base.errors import FeatUpError, UpsamplerError
from featup_app.base.progress import Progress, part_of
from featup_app.cli import export_options as options
from featup_app.cli.options import (
    AsJSON,
    BackboneName,
    Channels,
    Checkpoint,
    Device,
    Images,
    InputSize,
    LayerName,
    LockedBasis,
    Page,
    Range,
    UpsamplerChoice,
    selection_of,
    with_basis,
)
from featup_app.cli.stopping import interrupted_by_signals
from featup_app.cli.terminal import (
    BAD_INPUT,
    CANCELLED,
    PASSED_OVER,
    print_image_notes,
    print_json,
    print_line,
    print_message,
    print_notes,
    progress_bar,
)
from featup_app.engine.exporting import ExportOptions, export_image, pictures_of, unique_stems
from featup_app.engine.settings import ViewSettings
from featup_app.fields import CLASSICAL, DEFAULT_METHOD, METHODS, find_method
from featup_app.images.selection import AUTO, Selection, split_name
from featup_app.lenses import parse_views

_DEFAULT = ViewSettings()
_OPTIONS = ExportOptions()


def export(
    images: Images,
    folder: options.Folder = Path(),
    backbone: BackboneName = _DEFAULT.backbone,
    checkpoint: Checkpoint = None,
    layer: LayerName = None,
    size: InputSize = None,
    method: options.Method = None,
    upsampler: UpsamplerChoice = None,
    output_size: options.OutputSize = _DEFAULT.output_size,
    format: options.Format = _OPTIONS.format,
    dtype: options.DType = _OPTIONS.dtype,
    views: options.Views = "",
    pca: LockedBasis = None,
    features: options.Features = True,
    overwrite: options.Overwrite = False,
    page: Page = "",
    channels: Channels = "",
    range: Range = AUTO,
    device: Device = None,
    as_json: AsJSON = False,
) -> None:
    """Write the upsampled features of images, and pictures of them, to files.

    A folder means the pictures in it, without those in folders inside. Images that cannot be read are passed over.
    Each file carries where it comes from: image, backbone, sizes, method, versions. The paths are printed, one on a
    line. The files of an image appear when all of them are complete; a cancelled or failed export leaves nothing
    behind.
    """
    method = method or _method_for(upsampler)
    settings = ViewSettings(
        backbone=backbone,
        layer=layer,
        input_size=size,
        method=method,
        output_size=output_size,
        upsampler=upsampler,
        weights_file=None if checkpoint is None else str(checkpoint),
    )
    _check_upsampler(method, upsampler)
    selection = selection_of(page, channels, range)
    wanted = ExportOptions(format, dtype, features, with_basis(parse_views(views), pca), overwrite)
    wanted.check()
    results: list[dict[str, Any]] = []
    pictures: list[Path] = []
    try:
        with interrupted_by_signals():
            pictures = _found(images, results)
            read = [split_name(path)[0] for path in pictures]
            read += [Path(file) for file in (settings.weights_file, settings.upsampler_file, pca) if file is not None]
            wanted = dataclasses.replace(wanted, inputs=tuple(read))
            if pictures:
                _check_basis(pca)
                _export_all(pictures, selection, settings, wanted, folder, device, as_json, results)
    except KeyboardInterrupt:
        done = sum(result["error"] is None for result in results)
        count = max(len(images), len(pictures))
        kept = f"the files of {done} of {count} images were written before" if done else "nothing was written"
        print_message(f"Cancelled; {kept}.")
        raise typer.Exit(CANCELLED) from None
    if as_json:
        print_json({"exports": results})
    failed = sum(result["error"] is not None for result in results)
    if failed and len(results) > 1:
        print_message(f"{failed} of {len(results)} images were passed over.")
    if failed:
        raise typer.Exit(PASSED_OVER if failed < len(results) else BAD_INPUT)


def _method_for(upsampler: str | None) -> str:
    """The method where none is named: that of the chosen weights, or the default one. Raises UpsamplerError."""
    if upsampler is None:
        return DEFAULT_METHOD
    if upsampler == CLASSICAL:
        return next(method.name for method in METHODS if method.has_classical)
    from featup_app.fields.weights import loaded_upsampler

    return loaded_upsampler(upsampler).method


def _check_upsampler(method: str, upsampler: str | None) -> None:
    """Raises UpsamplerError where the method has no use for the chosen weights, whatever they are."""
    if upsampler is None:
        return
    entry = find_method(method)
    if not entry.takes_weights and not entry.takes_fit:
        with_weights = ", ".join(other.name for other in METHODS if other.takes_weights)
        raise UpsamplerError(
            f"The method {method} has no weights to choose; leave out --upsampler, or take a --method with weights: "
            f"{with_weights}."
        )
    if entry.takes_fit and upsampler == CLASSICAL:
        raise UpsamplerError(
            f'The method {method} has no form called "{CLASSICAL}"; give a file of "featup-app fit", or leave out '
            "--upsampler to fit now."
        )


def _check_basis(path: Path | None) -> None:
    """Raises LensError for a file without principal components, once and not for each image."""
    if path is not None:
        from featup_app.lenses import read_basis

        read_basis(path)


def _export_all(
    pictures: list[Path],
    selection: Selection,
    settings: ViewSettings,
    options: ExportOptions,
    folder: Path,
    device: str | None,
    as_json: bool,
    results: list[dict[str, Any]],
) -> None:
    """Export one image after the other; one that fails does not keep the others from being exported."""
    with progress_bar() as progress:
        progress("starting", 0, 0)
        from featup_app.engine.fits import next_number
        from featup_app.engine.fitting import open_fit
        from featup_app.engine.session import Session
        from featup_app.fields.implicit.files import read_fit_facts
        from featup_app.images import load_image

        session = Session(device=device)
        if settings.weights_file is not None:
            print_notes(session.backbone(settings, progress))  # refused once, not for each image
        fitted = None
        if find_method(settings.method).takes_fit:
            fitted, settings = settings.upsampler_file, settings.with_(upsampler=None)
        if fitted is not None:
            read_fit_facts(Path(fitted))  # refused once, not for each image
        if settings.upsampler_file is not None:
            session.check_upsampler(settings, progress)  # refused once, not for each image
        for path, stem in zip(pictures, unique_stems(pictures), strict=True):
            own = _of_file(progress, path, len(pictures))
            try:
                image, chosen = load_image(path, selection), settings
                print_image_notes(image, path.name)
                if fitted is not None:
                    number = next_number()
                    open_fit(session, number, image, settings, Path(fitted), own)
                    chosen = settings.with_(fit=number)
                files = export_image(session, image, chosen, options, folder, stem=stem, progress=own)
            except FeatUpError as error:
                results.append(_passed_over(path, error))
                continue
            results.append({"image": str(path), "files": [str(file) for file in files], "error": None})
            if not as_json:
                for file in files:
                    print_line(str(file))


def _found(places: list[Path], results: list[dict[str, Any]]) -> list[Path]:
    """The pictures that the arguments mean, each once; arguments that mean none are results already."""
    pictures: list[Path] = []
    for place in places:
        try:
            pictures += pictures_of(place)
        except FeatUpError as error:
            results.append(_passed_over(place, error))
    return list(dict.fromkeys(pictures))


def _passed_over(path: Path, error: FeatUpError) -> dict[str, Any]:
    print_message(error)
    return {"image": str(path), "files": [], "error": str(error)}


def _of_file(progress: Progress, path: Path, count: int) -> Progress:
    return part_of(progress, words=lambda words: f"{path.name}: {words}") if count > 1 else progress
