"""Exporting an image: its features and pictures of its views, all of them or none.

Window and command line both come here, so that they write the same bytes. Importing this imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.base.errors import ExportError, ImageError
from featup_app.base.files import reason_of
from featup_app.base.progress import Progress, silent
from featup_app.engine.settings import ViewSettings
from featup_app.export import Staging, build_provenance, stage_features, stage_picture
from featup_app.export.feature_files import MEMORY_BUDGET, check_choice, json_beside
from featup_app.images import Image, split_name, visible_pictures
from featup_app.images.selection import named
from featup_app.lenses import Look, Request
from featup_app.lenses.pictures import laid_over

if TYPE_CHECKING:
    from featup_app.engine.session import Session


@dataclass(frozen=True)
class ExportOptions:
    """What is written of an image.

    Attributes:
        format, dtype: of the features, as in :func:`~featup_app.export.export_features`.
        features: whether the features themselves are written.
        views: the pictures to write.
        overwrite: whether files that are there already may be replaced.
        inputs: files that are never replaced, beside that of the image itself.
        opacities: of pictures over the image, 0 to 1, by the name of their lens; a picture that is not named hides the image.
    """

    format: str = "npz"
    dtype: str = "float32"
    features: bool = True
    views: tuple[Request, ...] = ()
    overwrite: bool = False
    inputs: tuple[Path, ...] = ()
    opacities: Mapping[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Raises ExportError if these options cannot be met, whatever the image."""
        check_choice(self.format, self.dtype)
        if not self.features and not self.views:
            raise ExportError("There is nothing to export: neither features nor views are asked for.")
        stems = [stem for request in self.views if (stem := request.stem()) is not None]
        twice = next((stem for stem in stems if stems.count(stem) > 1), None)
        if twice is not None:
            raise ExportError(
                f'Two of the views would be written to the same file, "IMAGE.{twice}.png"; ask for one of them.'
            )


def pictures_of(place: Path) -> list[Path]:
    """The pictures that an argument means: itself, or those of a folder in the order of their names.

    ``scans#page=2`` means that page of each picture of the folder. What lies in folders inside is left out.

    Raises:
        ImageError: if the part after ``#`` is no selection, or the folder cannot be read or holds no pictures.
    """
    file, selection = split_name(place)
    try:
        if not file.is_dir():
            return [place]
        found = visible_pictures(file)
    except OSError as error:
        raise ImageError(f'Cannot open "{file}": {reason_of(error)}; check its permissions.') from error
    if not found:
        raise ImageError(f'The folder "{file}" holds no pictures; name a folder with picture files, or the files.')
    return [named(path, selection) for path in found]


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """A name for the files of each image: its own without the suffix, numbered where several images share it."""
    names = [_stem(path) for path in paths]
    own = {name.casefold() for name in names}
    taken: set[str] = set()
    stems = []
    for name in names:
        stem, number = name, 1
        while stem.casefold() in taken or (number > 1 and stem.casefold() in own):
            number += 1
            stem = f"{name}-{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def _stem(path: Path) -> str:
    """The name of a file without its suffix, with the page if the path names one."""
    file, selection = split_name(path)
    return file.stem if selection.page is None else f"{file.stem}-page{selection.page}"


_FORBIDDEN = r'[\\/:*?"<>|]+'
"""What some system forbids in the name of a file."""


def proposed_stem(image: Image) -> str:
    """The beginning of the names of an image's files: its own name, where every system allows it."""
    return re.sub(_FORBIDDEN, "-", Path(image.name).stem) or "image"


def targets_of(place: Path, beginning: str, suffixes: Sequence[str], check: Callable[[Path], None]) -> list[Path]:
    """The files that an argument means: itself if it ends like a file, else one of each kind in that folder.

    Args:
        place: the argument.
        beginning: of the names in a folder.
        suffixes: of the kinds.
        check: raises an error for a file that ends like none of them.
    """
    if re.fullmatch(r"\.[A-Za-z]{2,5}", place.suffix) and not place.is_dir():
        check(place)
        return [place]
    return [place / f"{beginning}{suffix}" for suffix in suffixes]


def stem_problem(stem: str) -> str:
    """Why the names of files cannot begin so, as a sentence; empty if they can."""
    if not stem.strip():
        return "Type a name for the files."
    found = re.search(_FORBIDDEN, stem)
    return f'The name "{stem}" holds "{found[0]}", which names of files cannot have; leave it out.' if found else ""


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
    ``<stem>.pca-4-6.png``, ``<stem>.similarity-120-80.png``, ``<stem>.cam-espresso.png``, and beside a picture whose request
    has a threshold its mask, ``<stem>.similarity-120-80.mask.png``. They appear together when all are complete.

    Args:
        stem: beginning of the file names; from the name of the image if not given.
        progress: may cancel; then, as after any failure, nothing is left behind.

    Returns:
        The files, the features first.

    Raises:
        FeatUpError: whatever keeps one of them from being made.
    """
    options.check()
    stem = stem or proposed_stem(image)
    for request in options.views:
        request.check_image(image)
    inputs = [*options.inputs, *(file for request in options.views for file in request.inputs())]
    inputs += [] if image.path is None else [image.path]
    with Staging(overwrite=options.overwrite, inputs=inputs) as files:
        features_file = folder / f"{stem}.features.{options.format}"
        if options.features:  # computing can take minutes, so look first whether its result may be written
            files.check(features_file)
            if options.format == "npy":
                files.check(json_beside(features_file))
        for request in options.views:
            if (known := request.stem()) is not None:
                files.check(folder / f"{stem}.{known}.png")
                if request.gives_mask():
                    files.check(folder / f"{stem}.{known}.mask.png")
        look = session.look(image, settings, progress, channels=0)
        pictures = []
        for request in options.views:
            view, shown = session.view_and_look(image, settings, request, progress)
            target = folder / f"{stem}.{view.stem()}.png"
            opacity = options.opacities.get(request.lens, 1.0)
            facts = view.provenance() if opacity >= 1 else {**view.provenance(), "opacity_over_image": opacity}
            pixels = laid_over(view.picture(), image.pixels, opacity)
            stage_picture(files, target, pixels, provenance=_provenance(shown, facts))
            pictures.append(target)
            mask = view.mask()
            if mask is not None:
                target = folder / f"{stem}.{view.stem()}.mask.png"
                facts = {**view.provenance(), "mask": mask.facts()}
                stage_picture(files, target, mask.picture(), provenance=_provenance(shown, facts))
                pictures.append(target)
        written: list[Path] = []
        if options.features:
            written = stage_features(
                files,
                look.field,
                features_file,
                size=look.size,
                format=options.format,
                dtype=options.dtype,
                provenance=_provenance(look),
                memory_budget=min(MEMORY_BUDGET, int(session.memory_budget)),
                progress=progress,
            )
        progress("finishing the files", 0, 0)
    return [*sorted(written, key=lambda path: path != features_file), *pictures]


def _provenance(look: Look, view: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return build_provenance(features=look.features, field=look.field, size=look.size, view=view)
