"""Well-known data sets, in the folders of their own archives. Nothing is downloaded.

The arguments of each function are the folder and the part (``train`` or ``val``). If something is missing, it raises an
EvaluationError that shows the expected tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featup_app.base.errors import EvaluationError
from featup_app.evaluation.datasets import (
    CAMVID_CLASSES,
    CAMVID_VOID,
    DEPTHS,
    LABELS,
    PER_METRE,
    UNLABELLED,
    Dataset,
    Item,
    layout_error,
    pairs,
    pictures,
    text_of,
)
from featup_app.images import visible_pictures

IMAGENET_TREE = (
    "FOLDER/\n  n01440764/  name.JPEG ... (one folder for each class, named by its WordNet identifier)\n"
    "  n01443537/  ...\nor any folders of pictures in a folder"
)
VOC_TREE = (
    "VOC2012/\n  JPEGImages/  2007_000032.jpg ...\n  SegmentationClass/  2007_000032.png ...\n"
    "  ImageSets/Segmentation/  train.txt val.txt"
)
ADE20K_TREE = (
    "ADEChallengeData2016/\n  images/       training/ validation/  ADE_val_00000001.jpg ...\n"
    "  annotations/  training/ validation/  ADE_val_00000001.png ...\n  objectInfo150.txt  (optional: names of the classes)"
)
CITYSCAPES_TREE = (
    "FOLDER/\n  leftImg8bit/  train/ val/  CITY/  name_leftImg8bit.png ...\n"
    "  gtFine/       train/ val/  CITY/  name_gtFine_labelIds.png ... (or name_gtFine_labelTrainIds.png)"
)
COCO_STUFF_TREE = (
    "FOLDER/\n  images/       train2017/ val2017/  000000000139.jpg ...\n"
    "  annotations/  train2017/ val2017/  000000000139.png ... (the pixel maps of COCO-Stuff: 0 to 181, 255 void)"
)
CAMVID_TREE = (
    "FOLDER/\n  train/ val/ test/  name.png ...\n  trainannot/ valannot/ testannot/  name.png ... (0 to 10, 11 void)"
)
NYUV2_TREE = (
    "FOLDER/\n  train/ test/  SCENE/  rgb_00045.jpg ...\n"
    "                        sync_depth_00045.png ... (16 bit, millimetres, 0 = no reading)"
)

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
    "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip

CITYSCAPES_CLASSES = (
    ("road", 7), ("sidewalk", 8), ("building", 11), ("wall", 12), ("fence", 13), ("pole", 17), ("traffic light", 19),
    ("traffic sign", 20), ("vegetation", 21), ("terrain", 22), ("sky", 23), ("person", 24), ("rider", 25), ("car", 26),
    ("truck", 27), ("bus", 28), ("train", 31), ("motorcycle", 32), ("bicycle", 33),
)  # fmt: skip
"""The 19 classes that are scored, with their values in the files ``labelIds``."""

COCO_STUFF_CLASSES = (
    ("electronic", "71-76"), ("appliance", "77-82"), ("food", "51-60"), ("furniture", "61-70"), ("indoor", "83-90"),
    ("kitchen", "43-50"), ("accessory", "25-32"), ("animal", "15-24"), ("outdoor", "9-14"), ("person", "0"),
    ("sports", "33-42"), ("vehicle", "1-8"), ("ceiling", "101-102"), ("floor", "100 113-117"),
    ("food (stuff)", "120-121 152 169"), ("furniture (stuff)", "97 106-107 109 111 122 129 132 155 160 164"),
    ("raw material", "99 131 138 142"), ("textile", "91-92 103-104 108 130 136 140 151 166-167"), ("wall", "170-176"),
    ("window", "179-180"), ("building", "94-95 127 150 157 165"),
    ("ground", "110 124-125 135 139 143-144 146 148 153 158"), ("plant", "93 96 118 123 128 133 141 162 168"),
    ("sky", "105 156"), ("solid", "126 134 149 159 161 181"), ("structural", "98 112 137 145 163"),
    ("water", "119 147 154 177-178"),
)  # fmt: skip
"""The 27 upper classes of COCO-Stuff's hierarchy in the usual order, with the values of the 182 fine ones in each."""

_ADE20K_COUNT = 150


def imagenet(folder: Path, split: str) -> Dataset:
    """Pictures in folders named by their class, as ImageNet's validation set is usually sorted; ``split`` is ignored."""
    if not folder.is_dir():
        raise layout_error(folder, "there is no such folder", IMAGENET_TREE)
    items = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        items += [Item(f"{inner.name}/{path.name}", path, truth=inner.name) for path in visible_pictures(inner)]
    if not items:
        raise layout_error(folder, "none of its folders holds pictures", IMAGENET_TREE)
    return Dataset(folder, tuple(items), layout="imagenet")


def voc2012(folder: Path, split: str) -> Dataset:
    """Pascal VOC 2012: 21 classes with the background; pixels with the value 255, the borders, do not count."""
    names = _listed(folder, folder / "ImageSets" / "Segmentation" / f"{split}.txt", VOC_TREE)
    found = _named(
        folder,
        names,
        {path.stem: path for path in pictures(folder / "JPEGImages", folder, VOC_TREE)},
        {path.stem: path for path in pictures(folder / "SegmentationClass", folder, VOC_TREE)},
        VOC_TREE,
    )
    items = tuple(Item(name, image, target, len(VOC_CLASSES), 255) for name, image, target in found)
    return Dataset(folder, items, VOC_CLASSES, LABELS, "voc2012", split)


def ade20k(folder: Path, split: str) -> Dataset:
    """ADE20K of the scene parsing challenge: 150 classes; pixels with the value 0 do not count."""
    part = {"train": "training", "val": "validation"}[split]
    found = pairs(folder, folder / "images" / part, folder / "annotations" / part, ADE20K_TREE)
    table = (UNLABELLED, *range(_ADE20K_COUNT))
    items = tuple(Item(image.stem, image, target, _ADE20K_COUNT, table=table) for image, target in found)
    return Dataset(folder, items, _ade20k_names(folder / "objectInfo150.txt"), LABELS, "ade20k", split)


def cityscapes(folder: Path, split: str) -> Dataset:
    """Cityscapes: the 19 classes that are scored, from ``labelIds`` (all others do not count) or ``labelTrainIds``."""
    targets, cities = folder / "gtFine" / split, folder / "leftImg8bit" / split
    if not cities.is_dir() or not targets.is_dir():
        raise layout_error(folder, f'there is no folder "{targets if cities.is_dir() else cities}"', CITYSCAPES_TREE)
    table = [UNLABELLED] * 256
    for index, (_, value) in enumerate(CITYSCAPES_CLASSES):
        table[value] = index
    items = []
    for image in (path for city in sorted(cities.iterdir()) if city.is_dir() for path in visible_pictures(city)):
        name = image.stem.removesuffix("_leftImg8bit")
        full, reduced = (
            targets / image.parent.name / f"{name}_gtFine_{kind}.png" for kind in ("labelIds", "labelTrainIds")
        )
        if full.is_file():
            items.append(Item(name, image, full, len(CITYSCAPES_CLASSES), table=tuple(table)))
        elif reduced.is_file():
            items.append(Item(name, image, reduced, len(CITYSCAPES_CLASSES), 255))
        else:
            raise layout_error(folder, f'the picture "{image.name}" has no labels', CITYSCAPES_TREE)
    if not items:
        raise layout_error(folder, f'"{cities}" holds no pictures', CITYSCAPES_TREE)
    return Dataset(folder, tuple(items), tuple(name for name, _ in CITYSCAPES_CLASSES), LABELS, "cityscapes", split)


def coco_stuff(folder: Path, split: str) -> Dataset:
    """COCO-Stuff 27: the upper classes of COCO-Stuff, as used by FeatUp and STEGO; pixels with the value 255 do not count."""
    part = f"{split}2017"
    images = next(
        (path for path in (folder / "images" / part, folder / part) if path.is_dir()), folder / "images" / part
    )
    labels = next((path for path in sorted(folder.glob(f"*/{part}")) if path.parent.name in _COCO_LABELS), None)
    if labels is None:
        raise layout_error(folder, f'there is no folder "{folder / "annotations" / part}"', COCO_STUFF_TREE)
    found = _named(
        folder,
        [path.stem for path in pictures(images, folder, COCO_STUFF_TREE)],
        {path.stem: path for path in pictures(images, folder, COCO_STUFF_TREE)},
        {path.stem: path for path in pictures(labels, folder, COCO_STUFF_TREE)},
        COCO_STUFF_TREE,
    )
    table = coco_stuff_table()
    items = tuple(Item(name, image, target, len(COCO_STUFF_CLASSES), 255, table) for name, image, target in found)
    return Dataset(folder, items, tuple(name for name, _ in COCO_STUFF_CLASSES), LABELS, "coco-stuff", split)


def camvid(folder: Path, split: str) -> Dataset:
    """CamVid as SegNet published it: 11 classes; the value 11 is void."""
    found = pairs(folder, folder / split, folder / f"{split}annot", CAMVID_TREE)
    items = tuple(Item(image.stem, image, target, len(CAMVID_CLASSES), CAMVID_VOID) for image, target in found)
    return Dataset(folder, items, CAMVID_CLASSES, LABELS, "camvid", split)


def nyuv2(folder: Path, split: str) -> Dataset:
    """NYU Depth V2 in the folders that depth networks usually use; ``val`` is its ``test`` part."""
    part = {"train": "train", "val": "test"}[split]
    if not (folder / part).is_dir():
        raise layout_error(folder, f'there is no folder "{folder / part}"', NYUV2_TREE)
    items = []
    for scene in sorted(path for path in (folder / part).iterdir() if path.is_dir()):
        for image in (path for path in visible_pictures(scene) if path.stem.startswith("rgb_")):
            target = scene / f"sync_depth_{image.stem.removeprefix('rgb_')}.png"
            if not target.is_file():
                raise layout_error(folder, f'the picture "{scene.name}/{image.name}" has no depths', NYUV2_TREE)
            name = f"{scene.name}/{image.stem.removeprefix('rgb_')}"
            items.append(Item(name, image, target, scene=scene.name, per_metre=PER_METRE))
    if not items:
        raise layout_error(folder, f'"{folder / part}" holds no pictures', NYUV2_TREE)
    return Dataset(folder, tuple(items), (), DEPTHS, "nyuv2", split)


_COCO_LABELS = ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017", "pixelmaps")


def coco_stuff_table() -> tuple[int, ...]:
    """The upper class of each of the 182 fine classes."""
    table = [UNLABELLED] * 182
    for index, (_, values) in enumerate(COCO_STUFF_CLASSES):
        for run in values.split():
            first, _, last = run.partition("-")
            for value in range(int(first), int(last or first) + 1):
                table[value] = index
    return tuple(table)


def _ade20k_names(path: Path) -> tuple[str, ...]:
    """Names of the classes from the list of the data set; numbers if it is missing."""
    if not path.is_file():
        return tuple(f"class {number}" for number in range(1, _ADE20K_COUNT + 1))
    lines = text_of(path).splitlines()[1:]
    names = tuple(line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip())
    if len(names) != _ADE20K_COUNT:
        raise EvaluationError(
            f'The file "{path}" names {len(names)} classes instead of {_ADE20K_COUNT}; unpack it again.'
        )
    return names


def _listed(folder: Path, path: Path, tree: str) -> list[str]:
    """The names in a file with one picture a line."""
    if not path.is_file():
        raise layout_error(folder, f'there is no file "{path}"', tree)
    names = [line.split()[0] for line in text_of(path).splitlines() if line.strip()]
    if not names:
        raise layout_error(folder, f'the file "{path}" names no pictures', tree)
    return names


def _named(
    folder: Path, names: Sequence[str], images: dict[str, Path], targets: dict[str, Path], tree: str
) -> list[tuple[str, Path, Path]]:
    """Name, picture and labels of each of the names."""
    for kind, found in (("picture", images), ("file with labels", targets)):
        missing = [name for name in names if name not in found]
        if missing:
            raise layout_error(
                folder, f'there is no {kind} for {len(missing)} of its names, such as "{missing[0]}"', tree
            )
    return [(name, images[name], targets[name]) for name in names]
