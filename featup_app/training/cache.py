"""The data of a training: a frozen backbone's features of pictures and their jittered views, computed once.

A backbone takes thousands of times as long as looking its features up. They are kept on disk in half precision, one file for
each picture, named after everything that they depend on, so that other epochs, runs and seeds of the training find them
again. Files are mapped into memory: the system keeps in memory what fits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from featup_app.base.errors import ImageError, SizeError, UpsamplerError
from featup_app.base.files import reason_of, replace_file
from featup_app.base.progress import Progress, Stage, part_of, silent
from featup_app.base.words import human_bytes
from featup_app.features import Region, Size
from featup_app.images import Image, image_from_array, load_image
from featup_app.multiview import Jitter, random_jitter
from featup_app.training.chain import UPSAMPLING

if TYPE_CHECKING:
    from featup_app.backbones import Backbone

VERSION = 1
"""Of the files; raised whenever what they hold would differ."""

DEFAULT_BUDGET = 4 * 10**9
"""Bytes of disk that cached features may take."""

_VIEWS_AT_ONCE = 8


@dataclass(frozen=True)
class Preparation:
    """How pictures are made of images.

    Attributes:
        size: shorter side in pixels of what the backbone sees, rounded to a multiple of its stride.
        crops: random square crops taken from each image beside the whole of it.
        views: jittered views of each picture.
        max_padding, max_zoom: of the jitter, padding in pixels at a size of 224.
        seed: of crops and jitter.
    """

    size: int = 224
    crops: int = 0
    views: int = 10
    max_padding: int = 30
    max_zoom: float = 2.0
    seed: int = 0


@dataclass(frozen=True)
class Picture:
    """One cached picture.

    Attributes:
        name: of the image, with the crop if it is one.
        grid_hw: (h, w) of the feature maps.
        jitters: of its views, drawn for the pixels that the backbone saw.
    """

    name: str
    grid_hw: Size
    jitters: tuple[Jitter, ...]
    _file: Any

    def guidance(self) -> Tensor:
        """(3, 16 h, 16 w) uint8 RGB: the pixels of the image averaged over the finest cells of the stack."""
        data: Tensor = self._file.get_tensor("guidance")
        return data

    def features(self) -> Tensor:
        """(C, h, w) float32 of the picture as it is."""
        data: Tensor = self._file.get_tensor("features")
        return data.float()

    def view_features(self, indices: Sequence[int]) -> Tensor:
        """(V, C, h, w) float32 of the views with these numbers."""
        views = self._file.get_slice("views")
        return torch.cat([views[index : index + 1] for index in indices]).float()


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one backbone and layer, with cached features.

    Attributes:
        pictures: in the order of the images, crops after the whole.
        backbone, layer: their names.
        channels: C.
        scale: root mean square of the features' deviation from their mean over the pictures; the unit of the training.
        digest: SHA-256 over the hashes of the images, in order.
        notes: sentences for the person: images left out, fewer views than asked for.
        bytes: that its files take.
    """

    pictures: tuple[Picture, ...]
    backbone: str
    layer: str
    channels: int
    scale: float
    digest: str
    notes: tuple[str, ...]
    bytes: int

    def spread(self, at_most: int) -> list[Picture]:
        """At most so many of the pictures, spread evenly over the set."""
        count = len(self.pictures)
        chosen = min(count, at_most)
        return [self.pictures[index * count // chosen] for index in range(chosen)]


def cache_folder() -> Path:
    """Where cached features lie; the variable FEATUP_CACHE_DIR moves it."""
    chosen = os.environ.get("FEATUP_CACHE_DIR")
    base = Path(chosen) if chosen else Path(platformdirs.user_cache_dir("featup-app", appauthor=False))
    return base / "training"


def prepare_pictures(
    images: Sequence[Path | Image],
    backbone: Backbone,
    *,
    layer: str | None = None,
    preparation: Preparation | None = None,
    folder: Path | None = None,
    budget: int = DEFAULT_BUDGET,
    keep: int | None = None,
    progress: Progress = silent,
) -> PictureSet:
    """Compute, or find again, the features of images and of jittered views of them.

    Args:
        images: files or decoded pictures. Files that cannot be read are left out and noted.
        backbone: frozen; every feature is its.
        layer: of the backbone; None for its default.
        preparation: how pictures are made of images; the default if not given.
        folder: of the cache; :func:`cache_folder` if not given.
        budget: bytes that the files of this set may take. If they do not fit, each picture gets fewer views.
        keep: bytes that the whole folder may take, ``budget`` if not given; beyond that, the oldest files of other sets go.
        progress: called before each batch of views; may cancel, and the pictures that are ready stay ready.

    Raises:
        UpsamplerError: if no image is usable, the budget does not hold one view of each, or a value is not finite.
    """
    preparation = preparation or Preparation()
    folder = folder or cache_folder()
    found = backbone.layer(layer)
    store = _Store(backbone, found.name, preparation, folder)
    pictures: list[Picture] = []
    notes: list[str] = []
    hashes: list[str] = []
    views = preparation.views
    total = len(images) * (1 + preparation.crops)
    for number, source in enumerate(images):
        try:
            image = source if isinstance(source, Image) else load_image(source)
            parts = list(_parts(image, preparation))
            sizes = [backbone.input_size(part.size_hw, preparation.size) for part, _ in parts]
        except (ImageError, SizeError) as error:
            notes.append(f"Left out: {error}")
            continue
        hashes.append(image.sha256)
        for index, ((part, name), size_hw) in enumerate(zip(parts, sizes, strict=True)):
            if not pictures:
                views = _affordable(views, total, budget, found.channels, size_hw, backbone.stride, notes)
            done = number * (1 + preparation.crops) + index
            pictures.append(
                store.picture(part, name, size_hw, views, part_of(progress, done, total, words="computing features"))
            )
    if not pictures:
        reason = notes[0].removeprefix("Left out: ") if notes else "There are none."
        raise UpsamplerError(f"There is no image to train with. {reason}")
    progress("computing features", total, total, Stage.EXTRACTING)
    _make_room(folder, store.paths, max(budget, keep or 0))
    return PictureSet(
        pictures=tuple(pictures),
        backbone=backbone.name,
        layer=found.name,
        channels=pictures[0].features().shape[0],
        scale=_scale(pictures),
        digest=hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        notes=tuple(notes),
        bytes=sum(path.stat().st_size for path in store.paths),
    )


def _affordable(
    views: int, pictures: int, budget: int, channels: int, size_hw: Size, stride: int, notes: list[str]
) -> int:
    """How many views of each picture fit into the budget; adds a note if that is fewer than wanted."""
    cells = (size_hw[0] // stride) * (size_hw[1] // stride)
    one = 2 * channels * cells
    fixed = one + 3 * UPSAMPLING**2 * cells + 4096
    possible = (budget // pictures - fixed) // one
    if possible < 1:
        needed = human_bytes(pictures * (fixed + one))
        raise UpsamplerError(
            f"The cache of features may take {human_bytes(budget)}, but {pictures} pictures need at least {needed}; "
            "allow more, or give fewer images."
        )
    if possible < views:
        notes.append(
            f"Only {possible} of {views} views of each picture fit into {human_bytes(budget)} of cache; "
            f"{human_bytes(pictures * (fixed + views * one))} would hold all."
        )
    return int(min(views, possible))


def _parts(image: Image, preparation: Preparation) -> list[tuple[Image, str]]:
    """The whole image and its crops, with their names."""
    parts = [(image, image.name)]
    height, width = image.size_hw
    generator = _generator(preparation.seed, image.sha256, "crops")
    for index in range(preparation.crops):
        amount, down, right = torch.rand(3, generator=generator).tolist()
        shorter = min(height, width)
        side = min(shorter, round(preparation.size + amount * max(0, shorter - preparation.size)))
        region = Region(int(down * (height - side + 1)), int(right * (width - side + 1)), side, side)
        name = f"{image.name}, crop {index + 1}"
        parts.append((image_from_array(image.pixels[region.rows, region.columns], name=name), name))
    return parts


def _generator(seed: int, *words: object) -> torch.Generator:
    """A random generator whose seed depends on nothing but the arguments."""
    text = "\n".join(str(word) for word in (seed, *words))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


def _scale(pictures: Sequence[Picture]) -> float:
    """The deviation of the features over the first pictures, all channels together."""
    values = torch.cat([picture.features().flatten(1) for picture in pictures[:64]], dim=1)
    deviation = float((values - values.mean(dim=1, keepdim=True)).square().mean().sqrt())
    return deviation if deviation > 0 else 1.0


class _Store:
    """The files of the cache."""

    def __init__(self, backbone: Backbone, layer: str, preparation: Preparation, folder: Path) -> None:
        self.backbone, self.layer, self.preparation, self.folder = backbone, layer, preparation, folder
        self.paths: set[Path] = set()

    def picture(self, image: Image, name: str, size_hw: Size, views: int, progress: Progress) -> Picture:
        """Find a picture with at least so many views, or compute what is missing."""
        jitters = tuple(self._jitters(image, size_hw, views))
        path = self.folder / f"{self._key(image, size_hw)}.safetensors"
        opened, known = _open(path)
        if known < views:
            tensors = self._compute(image, size_hw, jitters, opened, known, progress)
            _write(path, tensors)
            opened, known = _open(path)
            if known < views:
                raise UpsamplerError(f'The cached features "{path}" cannot be read back; check the disk.')
        with contextlib.suppress(OSError):
            os.utime(path)  # the oldest files are the first to go
        self.paths.add(path)
        grid_hw = tuple(opened.get_slice("features").get_shape()[1:])
        return Picture(name, (int(grid_hw[0]), int(grid_hw[1])), jitters, opened)

    def _jitters(self, image: Image, size_hw: Size, views: int) -> list[Jitter]:
        """Every view has a random generator of its own, so that more views can be added later."""
        padding = round(self.preparation.max_padding * min(size_hw) / 224)
        return [
            random_jitter(
                _generator(self.preparation.seed, image.sha256, index),
                size_hw,
                max_padding=padding,
                max_zoom=self.preparation.max_zoom,
            )
            for index in range(views)
        ]

    def _key(self, image: Image, size_hw: Size) -> str:
        facts = {
            "version": VERSION,
            "backbone": {key: self.backbone.provenance.get(key) for key in _WHAT_MAKES_FEATURES},
            "layer": self.layer,
            "image": image.sha256,
            "size_hw": size_hw,
            "seed": self.preparation.seed,
            "max_padding": self.preparation.max_padding,
            "max_zoom": self.preparation.max_zoom,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]

    def _compute(
        self, image: Image, size_hw: Size, jitters: Sequence[Jitter], opened: Any, known: int, progress: Progress
    ) -> dict[str, Tensor]:
        pixels = self.backbone.resized(image, size_hw)
        if known:
            guidance, features = opened.get_tensor("guidance"), opened.get_tensor("features")
            parts = [opened.get_tensor("views")]
        else:
            progress("computing features", 0, 0, Stage.EXTRACTING)
            features = self._half(pixels[None])[0]
            guidance = _guidance(image, (UPSAMPLING * features.shape[1], UPSAMPLING * features.shape[2]))
            parts = []
        for start in range(known, len(jitters), _VIEWS_AT_ONCE):
            progress("computing features", 0, 0, Stage.EXTRACTING)
            some = jitters[start : start + _VIEWS_AT_ONCE]
            parts.append(self._half(torch.stack([jitter.pixels(pixels) for jitter in some])))
        return {"guidance": guidance, "features": features, "views": torch.cat(parts)}

    def _half(self, batch: Tensor) -> Tensor:
        features = self.backbone.features(batch, self.layer).half().cpu()
        if not bool(torch.isfinite(features).all()):
            raise UpsamplerError(
                f"The features of {self.backbone.name}, {self.layer}, do not fit into half precision; "
                "train on another layer."
            )
        return features


_WHAT_MAKES_FEATURES = ("backbone", "architecture", "weights_sha256", "weights", "mean", "std", "interpolation", "timm")


def _guidance(image: Image, size_hw: Size) -> Tensor:
    """(3, H, W) uint8: the image averaged over cells, interpolated where they are finer than its pixels."""
    planes = torch.from_numpy(image.pixels.copy()).permute(2, 0, 1)[None].float()
    for axis, count in ((2, size_hw[0]), (3, size_hw[1])):
        shape = (count, planes.shape[3]) if axis == 2 else (planes.shape[2], count)
        if count <= planes.shape[axis]:
            planes = F.adaptive_avg_pool2d(planes, shape)
        else:
            planes = F.interpolate(planes, shape, mode="bilinear", align_corners=False)
    return planes[0].round().clamp(0, 255).to(torch.uint8)


def _open(path: Path) -> tuple[Any, int]:
    """The file and how many views it holds; 0 if it is missing or damaged, which makes it be computed again."""
    try:
        opened: Any = safe_open(path, framework="pt")
        if not {"guidance", "features", "views"} <= set(opened.keys()):
            return None, 0
        return opened, int(opened.get_slice("views").get_shape()[0])
    except (OSError, SafetensorError):
        return None, 0


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        replace_file(path, save({key: value.contiguous() for key, value in tensors.items()}))
    except OSError as error:
        raise UpsamplerError(
            f'Cannot write the cached features "{path}": {reason_of(error)}; free some space, or set FEATUP_CACHE_DIR to '
            "another folder."
        ) from error


def _make_room(folder: Path, used: set[Path], budget: int) -> None:
    """Delete files of other sets, the oldest first, until the folder fits into the budget."""
    files = []
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(OSError):
            facts = path.stat()
            files.append((facts.st_mtime, facts.st_size, path))
    size = sum(length for _, length, _ in files)
    for _, length, path in sorted(files):
        if size <= budget:
            return
        if path not in used:
            with contextlib.suppress(OSError):
                path.unlink()
                size -= length
