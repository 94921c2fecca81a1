"""Data sets in folders: pictures, with labels or depths of their pixels. Nothing is downloaded or copied.

This module has the plain layouts, :mod:`featup_app.evaluation.known_datasets` those of well-known data sets, and
:mod:`featup_app.evaluation.layouts` all of them by name. Files are read when they are needed.
"""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featup_app.base.errors import EvaluationError, without_warnings
from featup_app.base.files import reason_of
from featup_app.evaluation.turned import as_targets
from featup_app.images import Image, Selection, load_image, stored_values, visible_pictures

Labels = npt.NDArray[np.int16]
Depths = npt.NDArray[np.float32]

UNLABELLED = -1
"""The label of pixels that do not count."""

PHOTOS, LABELS, REGIONS, DEPTHS = "photos", "labels", "regions", "depths"
"""Kinds of data sets: each pixel has no target, a class, the number of a region of its picture, or a distance."""

PER_METRE = 1000.0
"""Default readings of a depth file for one metre: millimetres, which most cameras write."""

CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
CAMVID_VOID = 11
CLASSES_FILE = "classes.txt"
NO_REGION = 0
"""The value of pixels of no region, where the values are numbers of regions."""

PHOTOS_TREE = "FOLDER/\n  any name.jpg\n  ..."
LABELLED_TREE = (
    "FOLDER/\n  images/  name.jpg ...\n  labels/  name.png ... (one grey value per class)\n"
    "  classes.txt  (optional: one class a line, in the order of the values; a line `void` for what does not count; "
    "without it the 11 classes of CamVid and 11 for void)"
)
REGIONS_TREE = (
    "FOLDER/\n  images/  name.jpg ...\n  labels/  name.png ... (one number per region, 0 where there is none)"
)
RGBD_TREE = (
    "FOLDER/\n  color/  name.png ... (or rgb/ or images/)\n  depth/  name.png or name.pgm ... (16 bit, 0 = no reading)\n"
    "or a folder of such folders, one for each scene"
)
_COLOUR_FOLDERS = ("color", "rgb", "images")
_LARGEST_NUMBER = int(np.iinfo(np.int16).max)
_LARGEST_VALUE = int(np.iinfo(np.int32).max)
_LOOKED_AT = 100


@dataclass(frozen=True)
class Item:
    """One picture of a data set, with the file of its targets.

    Attributes:
        name: name of the picture, unique in its data set.
        image_path: file of the picture.
        target_path: file of its labels or depths; None where there is none.
        class_count: number of classes of the data set; 0 if values are numbers of regions and not classes.
        void: the value in the label file that does not count; None if all count.
        table: the class of each value in the label file, or UNLABELLED; empty where values are classes.
        truth: class of the whole picture, such as an identifier of ImageNet; empty where it is unknown.
        scene: name of the scene, whose pictures resemble each other; empty where scenes are unknown.
        per_metre: readings of the depth file for one metre.
        selection: page, channels and range that are read of the picture.
    """

    name: str
    image_path: Path
    target_path: Path | None = None
    class_count: int = 0
    void: int | None = None
    table: tuple[int, ...] = ()
    truth: str = ""
    scene: str = ""
    per_metre: float = PER_METRE
    selection: Selection = field(default_factory=Selection)

    def image(self) -> Image:
        """The picture, decoded; as its targets lie, if EXIF data turn it and not them.

        Raises:
            ImageError: if it cannot be decoded.
            EvaluationError: if it is turned, and the targets may or may not be.
        """
        image = load_image(self.image_path, self.selection)
        return image if self.target_path is None else as_targets(image, self.target_path)

    def labels(self) -> Labels:
        """Class or region of every pixel, (H, W) int16: 0 .. class_count - 1, any number of a region, or :data:`UNLABELLED`.

        Raises:
            EvaluationError: if the file cannot be read, or holds a class that the data set does not have.
        """
        stored = self._read_target()
        if stored.dtype.kind == "f" and not (np.isfinite(stored) & (stored == np.round(stored))).all():
            raise EvaluationError(
                f'The labels "{self.target_path}" hold fractions, infinite numbers or NaN; one whole number per pixel is needed.'
            )
        if stored.max(initial=0) > _LARGEST_VALUE or stored.min(initial=0) < -_LARGEST_VALUE:
            raise EvaluationError(
                f'The labels "{self.target_path}" hold values beyond {_LARGEST_VALUE}, which are no classes.'
            )
        values = stored.astype(np.int32)
        values[values == (-1 if self.void is None else self.void)] = UNLABELLED
        largest = int(values.max())
        if self.table and largest >= len(self.table):
            raise EvaluationError(
                f'The labels "{self.target_path}" hold the value {largest}, but those of this data set end at '
                f"{len(self.table) - 1}; choose the layout that the files belong to."
            )
        if self.table:
            values = np.append(np.array(self.table, dtype=np.int32), UNLABELLED)[
                values
            ]  # UNLABELLED, -1, is the last index
        elif not self.class_count and largest > _LARGEST_NUMBER:
            raise EvaluationError(
                f'The labels "{self.target_path}" hold the value {largest}, but numbers of regions end at '
                f"{_LARGEST_NUMBER}; number them again."
            )
        elif self.class_count and largest >= self.class_count:
            raise EvaluationError(
                f'The labels "{self.target_path}" hold the value {largest}, but the data set has '
                f"{self.class_count} classes (0 to {self.class_count - 1}); list all of them in {CLASSES_FILE}."
            )
        return values.astype(np.int16)

    def depths(self) -> Depths:
        """Distance at every pixel, (H, W) float32 in metres; 0 where there is no reading: zero, negative, infinite or NaN.

        Raises:
            EvaluationError: if the file cannot be read.
        """
        with np.errstate(over="ignore"):
            metres = (self._read_target() / self.per_metre).astype(np.float32)
        return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))

    def check_size(self, targets: str, target_hw: tuple[int, ...], image_hw: tuple[int, int]) -> None:
        """Check that the targets have the size of the picture.

        Args:
            targets: ``labels`` or ``depths``.
            target_hw, image_hw: (height, width) of targets and picture.

        Raises:
            EvaluationError: if the sizes differ.
        """
        if target_hw != image_hw:
            raise EvaluationError(
                f'The {targets} "{self.target_path}" are {target_hw[0]}x{target_hw[1]} pixels, but their picture is '
                f"{image_hw[0]}x{image_hw[1]}; both must be of the same size."
            )

    def _read_target(self) -> npt.NDArray[Any]:
        """(H, W) values of the target file, as stored."""
        if self.target_path is None:
            raise EvaluationError(f'The picture "{self.name}" has no labels; choose a data set that has them.')
        try:
            # The decoders warn about odd files in words for programmers; what cannot be read raises as well.
            with without_warnings():
                values = stored_values(self.target_path)
        except Exception as error:  # a damaged file breaks the decoders in any way
            raise EvaluationError(
                f'Cannot read "{self.target_path}": {" ".join(str(error).split())}; copy or download it again.'
            ) from error
        if values.ndim != 2:
            raise EvaluationError(
                f'The file "{self.target_path}" holds colours; one number per pixel (a grey or palette picture) is '
                "needed."
            )
        return values


@dataclass(frozen=True)
class Dataset:
    """Pictures of one folder.

    Attributes:
        folder: folder of the data set.
        items: the pictures in the order of their names.
        class_names: names of the classes; empty where there are none.
        kind: :data:`PHOTOS`, :data:`LABELS`, :data:`REGIONS` or :data:`DEPTHS`.
        layout: name of the layout.
        split: name of this part of the data set; empty where it has no parts.
    """

    folder: Path
    items: tuple[Item, ...]
    class_names: tuple[str, ...] = ()
    kind: str = PHOTOS
    layout: str = "photos"
    split: str = ""

    def with_selection(self, selection: Selection) -> Dataset:
        """The data set with a choice of page, channels and range for every picture."""
        items = (dataclasses.replace(item, selection=selection) for item in self.items)
        return dataclasses.replace(self, items=tuple(items)) if selection else self

    def limited(self, count: int | None) -> Dataset:
        """The data set with at most ``count`` pictures, spread evenly over the folder because frames of a film resemble their
        neighbours; all pictures for None."""
        if count is None or count >= len(self.items):
            return self
        chosen = [self.items[index * len(self.items) // count] for index in range(count)]
        return dataclasses.replace(self, items=tuple(chosen))


def photos(folder: Path) -> Dataset:
    """A folder of pictures, without labels. Files without the suffix of a picture are skipped.

    Raises:
        EvaluationError: if there are none.
    """
    paths = pictures(folder, folder, PHOTOS_TREE)
    return Dataset(folder, tuple(Item(path.name, path) for path in paths))


def labelled_images(folder: Path) -> Dataset:
    """Pictures in ``images/`` and their classes in ``labels/`` under the same names.

    Raises:
        EvaluationError: if the folders do not exist, or a picture lacks its labels; the message shows the expected tree.
    """
    names, void = _classes(folder)
    found = pairs(folder, folder / "images", folder / "labels", LABELLED_TREE)
    items = tuple(Item(image.stem, image, target, len(names), void) for image, target in found)
    return Dataset(folder, items, names, LABELS, "labelled")


def numbered_regions(folder: Path) -> Dataset:
    """Pictures in ``images/`` and the regions of each in ``labels/`` under the same names, as numbers without further meaning.

    Raises:
        EvaluationError: if the folders do not exist, or a picture lacks its labels; the message shows the expected tree.
    """
    found = pairs(folder, folder / "images", folder / "labels", REGIONS_TREE)
    items = tuple(Item(image.stem, image, target, void=NO_REGION) for image, target in found)
    return Dataset(folder, items, (), REGIONS, "regions")


def numbers_regions(folder: Path) -> bool:
    """Whether the values in ``labels/`` are numbers of regions: no file names their classes, and one is above those of CamVid.

    At most a hundred of the files are read, evenly spread.
    """
    if (folder / CLASSES_FILE).is_file() or not (folder / "labels").is_dir():
        return False
    paths = visible_pictures(folder / "labels")
    items = tuple(Item(path.stem, path, path) for path in paths)
    for item in Dataset(folder, items).limited(_LOOKED_AT).items:
        try:
            if item._read_target().max() > CAMVID_VOID:
                return True
        except EvaluationError:
            continue  # the sentence about this file follows where it is read in earnest
    return False


def rgbd_images(folder: Path, *, per_metre: Mapping[str, float] | float = PER_METRE) -> Dataset:
    """Pictures in ``color/`` and readings of a depth camera in ``depth/`` under the same names; or scenes of such folders.

    Args:
        folder: folder of one scene, or of scenes.
        per_metre: readings of the depth files for one metre: a number, or one for each scene by the name of its folder.

    Raises:
        EvaluationError: if the folders do not exist, a picture lacks its depths, or a scene lacks its unit; the message
            shows the expected tree.
    """
    scenes = [folder]
    if folder.is_dir() and not (folder / "depth").is_dir():
        scenes = sorted(path for path in folder.iterdir() if (path / "depth").is_dir()) or scenes
    items: list[Item] = []
    for scene in scenes:
        colour = next((scene / name for name in _COLOUR_FOLDERS if (scene / name).is_dir()), scene / _COLOUR_FOLDERS[0])
        unit = per_metre if isinstance(per_metre, float | int) else per_metre.get(scene.name)
        if unit is None:
            raise EvaluationError(
                f'The unit of the depths of "{scene.name}" is not given; give readings per metre for it too.'
            )
        prefix = "" if len(scenes) == 1 else f"{scene.name}/"
        for image, target in pairs(scene, colour, scene / "depth", RGBD_TREE):
            items.append(Item(f"{prefix}{image.stem}", image, target, scene=scene.name, per_metre=float(unit)))
    return Dataset(folder, tuple(items), (), DEPTHS, "rgbd")


def _classes(folder: Path) -> tuple[tuple[str, ...], int | None]:
    """Names of the classes and the value of void."""
    path = folder / CLASSES_FILE
    if not path.is_file():
        return CAMVID_CLASSES, CAMVID_VOID
    names = [line.strip() for line in text_of(path).splitlines() if line.strip()]
    voids = [index for index, name in enumerate(names) if name.lower() == "void"]
    if len(voids) > 1 or (voids and voids[0] != len(names) - 1) or len(names) - len(voids) < 2:
        raise EvaluationError(
            f'The file "{path}" must name at least two classes, one a line, and `void`, if there is one, in the last line.'
        )
    return tuple(names[: len(names) - len(voids)]), voids[0] if voids else None


def text_of(path: Path) -> str:
    """The text of a list that a person or another program wrote: UTF-8 or UTF-16, with or without a mark, else Windows' Latin-1.

    Raises:
        EvaluationError: if the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvaluationError(f'Cannot read "{path}": {reason_of(error)}; check its permissions.') from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content:  # UTF-16 without a mark: ASCII letters have a zero byte
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def layout_error(folder: Path, why: str, tree: str) -> EvaluationError:
    """The error about a folder with another layout, which shows the expected tree."""
    return EvaluationError(f'The folder "{folder}" cannot be used: {why}. This is expected:\n{tree}')


def pictures(folder: Path, root: Path, tree: str) -> list[Path]:
    """The pictures of a folder in the order of their names.

    Raises:
        EvaluationError: about ``root``, showing its ``tree``, if there are none.
    """
    if not folder.is_dir():
        raise layout_error(root, f'there is no folder "{folder}"', tree)
    paths = visible_pictures(folder)
    if not paths:
        raise layout_error(root, f'"{folder}" holds no pictures', tree)
    return paths


def pairs(root: Path, images: Path, targets: Path, tree: str) -> Sequence[tuple[Path, Path]]:
    """Pictures of a folder with the files of the same names in another.

    Raises:
        EvaluationError: about ``root``, showing its ``tree``, if a picture lacks its file.
    """
    found = {path.stem: path for path in pictures(targets, root, tree)}
    paths = pictures(images, root, tree)
    missing = [path.name for path in paths if path.stem not in found]
    if missing:
        count = f"{len(missing)} pictures have" if len(missing) > 1 else "a picture has"
        raise layout_error(root, f'{count} no file of the same name in {targets.name}/, such as "{missing[0]}"', tree)
    return [(path, found[path.stem]) for path in paths]
