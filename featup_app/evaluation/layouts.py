"""The layouts of data sets by name, and recognition of the layout of a folder. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from featup_app.base.errors import EvaluationError
from featup_app.evaluation import known_datasets as known
from featup_app.evaluation.datasets import (
    DEPTHS,
    LABELLED_TREE,
    LABELS,
    PHOTOS,
    PHOTOS_TREE,
    REGIONS,
    REGIONS_TREE,
    RGBD_TREE,
    Dataset,
    labelled_images,
    layout_error,
    numbered_regions,
    numbers_regions,
    photos,
    rgbd_images,
)
from featup_app.images import visible_pictures

AUTO = "auto"
TRAIN, VAL = "train", "val"
KINDS = (PHOTOS, LABELS, REGIONS, DEPTHS)


@dataclass(frozen=True)
class Layout:
    """One arrangement of the files of a data set.

    Attributes:
        name: for commands.
        title: a few words for people.
        kind: kind of the data set: photos, labels, regions or depths.
        tree: the expected folders and files, for messages.
        marks: paths inside the folder, with wildcards; a folder with one of them seems to have this layout.
        read: function from the folder and the part (``train`` or ``val``) to the data set.
        parts: whether the folder holds a part to train on and a part to measure on.
        confirms: a look into the files of a folder that has one of the marks; None if the marks are enough.
    """

    name: str
    title: str
    kind: str
    tree: str
    marks: tuple[str, ...]
    read: Callable[[Path, str], Dataset]
    parts: bool = False
    confirms: Callable[[Path], bool] | None = None

    def resembles(self, folder: Path) -> bool:
        """Whether the folder seems to have this layout."""
        marked = any(next(folder.glob(mark), None) is not None for mark in self.marks)
        return marked and (self.confirms is None or self.confirms(folder))


LAYOUTS: tuple[Layout, ...] = (
    Layout("voc2012", "Pascal VOC 2012", LABELS, known.VOC_TREE, ("SegmentationClass",), known.voc2012, parts=True),
    Layout(
        "ade20k",
        "ADE20K",
        LABELS,
        known.ADE20K_TREE,
        ("annotations/training", "annotations/validation"),
        known.ade20k,
        parts=True,
    ),
    Layout(
        "cityscapes",
        "Cityscapes",
        LABELS,
        known.CITYSCAPES_TREE,
        ("leftImg8bit", "gtFine"),
        known.cityscapes,
        parts=True,
    ),
    Layout(
        "coco-stuff",
        "COCO-Stuff 27",
        LABELS,
        known.COCO_STUFF_TREE,
        ("annotations/*2017", "stuffthingmaps*/*2017", "pixelmaps/*2017", "images/val2017", "val2017"),
        known.coco_stuff,
        parts=True,
    ),
    Layout("camvid", "CamVid", LABELS, known.CAMVID_TREE, ("trainannot", "valannot"), known.camvid, parts=True),
    Layout(
        "nyuv2",
        "NYU Depth V2",
        DEPTHS,
        known.NYUV2_TREE,
        ("train/*/sync_depth_*", "test/*/sync_depth_*"),
        known.nyuv2,
        parts=True,
    ),
    Layout(
        "regions",
        "images and numbered regions",
        REGIONS,
        REGIONS_TREE,
        ("labels",),
        lambda folder, _: numbered_regions(folder),
        confirms=numbers_regions,
    ),
    Layout(
        "labelled", "images and labels", LABELS, LABELLED_TREE, ("labels",), lambda folder, _: labelled_images(folder)
    ),
    Layout(
        "rgbd", "colours and depths", DEPTHS, RGBD_TREE, ("depth", "*/depth"), lambda folder, _: rgbd_images(folder)
    ),
    Layout("photos", "pictures", PHOTOS, PHOTOS_TREE, (), lambda folder, _: photos(folder)),
    Layout("imagenet", "pictures in folders by class", PHOTOS, known.IMAGENET_TREE, ("n[0-9]*", "*/"), known.imagenet),
)

_PLAIN = {LABELS: "labelled", REGIONS: "regions", DEPTHS: "rgbd", PHOTOS: "photos"}
"""The layout in the message if no data set of a kind is recognised."""


def find_layout(name: str) -> Layout:
    """The layout of this name.

    Raises:
        EvaluationError: if there is none; the message lists the layouts.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    names = ", ".join(layout.name for layout in LAYOUTS)
    raise EvaluationError(f'There is no layout "{name}"; choose one of: {AUTO}, {names}.')


def detect_layout(folder: Path, kinds: tuple[str, ...] = KINDS) -> Layout:
    """The layout that a folder seems to have. Data sets of any kind may serve as pictures.

    Args:
        folder: folder of the data set.
        kinds: the kinds of data sets to accept.

    Raises:
        EvaluationError: if it has no layout of these kinds; the message shows the expected tree.
    """
    fitting = [layout for layout in LAYOUTS if layout.kind in kinds or PHOTOS in kinds]
    if folder.is_dir():
        for layout in fitting:
            if layout.resembles(folder) or (layout.name == "photos" and visible_pictures(folder)):
                return layout
    plain = find_layout(_PLAIN[kinds[0]])
    others = [layout.title for layout in LAYOUTS if layout.kind in kinds and layout is not plain]
    why = (
        "there is no such folder" if not folder.is_dir() else "it has none of the layouts that are known for this task"
    )
    raise layout_error(folder, why, f"{plain.tree}\nor {', '.join(others)} as unpacked from their archives")


def open_dataset(
    folder: Path,
    *,
    layout: str = AUTO,
    kinds: tuple[str, ...] = KINDS,
    part: str = VAL,
    per_metre: Mapping[str, float] | float | None = None,
) -> Dataset:
    """The data set in a folder.

    Args:
        folder: folder of the data set.
        layout: a name in :data:`LAYOUTS`, or ``auto`` to recognise it.
        kinds: the kinds of data sets to accept; with photos, any kind.
        part: ``train`` or ``val``, where the data set has parts.
        per_metre: readings of depth files for one metre, a number or one for each scene; None for the default.

    Raises:
        EvaluationError: if the folder has another layout; the message shows the expected tree.
    """
    found = detect_layout(folder, kinds) if layout == AUTO else find_layout(layout)
    if found.kind not in kinds and PHOTOS not in kinds:
        words = {LABELS: "classes", REGIONS: "regions", DEPTHS: "depths", PHOTOS: "pictures"}
        wanted = " or ".join(words[kind] for kind in kinds)
        raise EvaluationError(
            f'The layout {found.name} of "{folder}" tells nothing about the {wanted} that this task needs; '
            f"choose one of: {', '.join(entry.name for entry in LAYOUTS if entry.kind in kinds)}."
        )
    if per_metre is not None and found.kind != DEPTHS:
        raise EvaluationError(f'The folder "{folder}" holds no depths; leave out their unit.')
    if found.name == "rgbd" and per_metre is not None:
        return rgbd_images(folder, per_metre=per_metre)
    dataset = found.read(folder, part)
    if isinstance(per_metre, float | int):
        items = tuple(dataclasses.replace(item, per_metre=float(per_metre)) for item in dataset.items)
        dataset = dataclasses.replace(dataset, items=items)
    return dataset
