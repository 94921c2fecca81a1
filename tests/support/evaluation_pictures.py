"""Small folders of pictures for evaluations: photos, and labelled pictures in two parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as pillow

from featup_app.images import load_image, resized, sample_images

SIZE = 64, 96
VOID = 2


def write_photos(folder: Path, size: tuple[int, int] = SIZE) -> Path:
    """Write two sample photos, resized to (height, width), into a folder; returns the folder."""
    folder.mkdir(exist_ok=True)
    for path in sample_images()[:2]:
        pillow.fromarray(resized(load_image(path).pixels, size)).save(folder / f"{path.stem}.png")
    return folder


def write_halves(folder: Path, *, void: bool = False) -> Path:
    """Write labelled pictures of two classes: the cat to the left of the cup, or the other way round.

    Args:
        folder: gets four pictures in ``train`` and two in ``val``.
        void: whether the border between the halves is labelled as void.

    Returns:
        The folder.
    """
    cat, cup = (resized(load_image(path).pixels, (64, 48)) for path in sample_images()[:2])
    for part, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True)
        (folder / part / "classes.txt").write_text("cat\ncup\nvoid\n")
        for index in range(count):
            swapped = index % 2 == 1
            pixels = np.roll(np.concatenate([cup, cat] if swapped else [cat, cup], 1), 3 * index, 0)
            labels = np.full(SIZE, int(not swapped), np.uint8)
            labels[:, :48] = int(swapped)
            if void:
                labels[:, 47:49] = VOID
            pillow.fromarray(pixels).save(folder / part / "images" / f"{index}.png")
            pillow.fromarray(labels).save(folder / part / "labels" / f"{index}.png")
    return folder


def write_regions(folder: Path) -> Path:
    """Write four pictures, the cat beside the cup, with numbered regions: the halves, and a single pixel in the first half.

    Returns:
        The folder, with ``images`` and ``labels``, and without names of classes.
    """
    cat, cup = (resized(load_image(path).pixels, (64, 48)) for path in sample_images()[:2])
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(4):
        labels = np.full(SIZE, 20, np.uint8)
        labels[:, 48:] = 40 + index
        labels[10, 10] = 40 + index
        pillow.fromarray(np.roll(np.concatenate([cat, cup], 1), 3 * index, 0)).save(folder / "images" / f"{index}.png")
        pillow.fromarray(labels).save(folder / "labels" / f"{index}.png")
    return folder
