"""The training of the window: it counts the images, estimates time and disk, trains, and writes the files. No Qt."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from featup_app.backbones.catalogue import CLASSIFIER, DEFAULT_BACKBONE
from featup_app.base.errors import Cancelled, FeatUpError, ImageError, SizeError, UpsamplerError
from featup_app.base.files import file_state
from featup_app.base.progress import Progress, Stage, silent
from featup_app.features import Size
from featup_app.multiview.held_out import HELD_OUT_VIEWS

if TYPE_CHECKING:
    from featup_app.backbones import Backbone
    from featup_app.images import Image
    from featup_app.training import TrainingResult, TrainingState

UNIVERSAL_BACKBONES = (DEFAULT_BACKBONE, CLASSIFIER)
"""The bundled backbones, which a universal upsampler learns from."""

DETAIL_RESTORED = (
    "Detail was restored at the end: features are sharper for it, and the error is above that of the curve."
)
"""The message about a training whose result restores detail."""

CACHE_BUDGET = 4 * 10**9
"""Bytes of disk that cached features may take."""

_LOOKED_AT = 6
"""Sizes and reading times are estimated from this many images."""

_GUIDANCE_BYTES = 3 * 16**2
"""Of the cached picture, for each cell of its feature grid."""

_PAUSE = 0.1


@dataclass(frozen=True)
class TrainingRequest:
    """Everything that is chosen before a training.

    Attributes:
        places: image files, and folders of them.
        backbones: names; several train one universal upsampler.
        output: file for the weights, .safetensors; the report (.json) and the curve (.png) get the same name.
        layer: of a single backbone; None for its default.
        weights_file: local checkpoint for a single backbone, instead of its own weights.
        steps, minutes: limits; whichever comes first.
        seed: of everything that is drawn at random.
        size: shorter side in pixels of what the backbone sees.
        views: jittered views of each picture.
    """

    places: tuple[Path, ...]
    backbones: tuple[str, ...]
    output: Path
    layer: str | None = None
    weights_file: str | None = None
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    size: int = 224
    views: int = 10

    @property
    def checkpoint(self) -> Path:
        """The file that lets an interrupted training go on; it is there only while the training runs."""
        return self.output.with_suffix(".training.pt")

    @property
    def files(self) -> tuple[Path, ...]:
        """What the training leaves: weights, report and curve."""
        return self.output, self.output.with_suffix(".json"), self.output.with_suffix(".png")

    def check(self) -> None:
        """Look at what can be looked at in no time.

        Raises:
            UpsamplerError: if there are no images, a file would be replaced, or the folder cannot be written to.
        """
        if not self.places:
            raise UpsamplerError("Choose a folder of images, or image files.")
        for place in self.places:
            if not place.exists():
                raise UpsamplerError(f'There is no image and no folder "{place}"; check the name.')
        name = self.output.name
        if not name:
            raise UpsamplerError("Choose a file for the weights.")
        if self.output.suffix.lower() != ".safetensors":
            raise UpsamplerError(f'Weights are written as safetensors; give "{name}" the ending .safetensors.')
        for file in (*self.files, self.checkpoint):
            if os.path.lexists(file):
                raise UpsamplerError(f'"{file}" is already there; choose another name for the weights.')
        folder = _existing(self.output.parent)
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise UpsamplerError(f'Nothing can be written into "{folder}"; choose another folder for the weights.')


@dataclass(frozen=True)
class TrainingSurvey:
    """What a training will take.

    Attributes:
        images: that were found.
        held_out: how many of them are kept for measuring.
        cache_bytes: at most so much disk is taken by features.
        free_bytes: on the disk of the cache.
        feature_seconds: to compute the features; less where they are cached from an earlier training.
    """

    images: int
    held_out: int
    cache_bytes: int
    free_bytes: int
    feature_seconds: float


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training gave, without tensors.

    Attributes:
        request: what was asked for.
        files: weights, report and curve.
        error, bilinear, classical: held-out reprojection errors of the weights, of bilinear interpolation and of the
            classical filter that training starts from.
        steps: that were trained.
        best_step: at which the weights were the best; 0 if training found nothing better than its start.
        restored: whether the detail of the coarse map was restored at the end, which raises the error above that of the curve.
        stopped: why it ended early, as a sentence; empty if it did not.
        notes: sentences for the person, such as images that were left out.
    """

    request: TrainingRequest
    files: tuple[Path, ...]
    error: float
    bilinear: float
    classical: float
    steps: int
    best_step: int
    restored: bool
    stopped: str
    notes: tuple[str, ...]


class TrainingControl:
    """How a person, on another thread, stops and pauses a training. Giving it up is cancelling its job."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._going = threading.Event()
        self._going.set()

    @property
    def stopped(self) -> bool:
        """Whether the training was asked to end and keep its best state."""
        return self._stopped.is_set()

    @property
    def paused(self) -> bool:
        """Whether the training waits."""
        return not self._going.is_set()

    def stop(self) -> None:
        """End at the next step, and keep the best state."""
        self._stopped.set()
        self._going.set()

    def pause(self) -> None:
        """Wait before the next step; the time does not count."""
        self._going.clear()

    def go_on(self) -> None:
        """End the pause."""
        self._going.set()

    def checked(self, progress: Progress) -> Progress:
        """A progress that waits while paused, and raises ``Cancelled`` once stopped."""

        def check(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
            progress(words, done, total, stage)
            while not self._going.wait(_PAUSE):
                progress(words, done, total, stage)  # a training may be given up while it waits
            if self.stopped:
                raise Cancelled

        return check


class Workshop:
    """Trains with backbones of its own, so that the window's engine is free for views. One thread owns it.

    Args:
        device: torch device; CUDA if there is one, else the CPU.
    """

    def __init__(self, *, device: str | None = None) -> None:
        self._device = device
        self._backbones: dict[tuple[str, tuple[str, int, int] | None], Backbone] = {}

    def survey(self, request: TrainingRequest, progress: Progress = silent) -> TrainingSurvey:
        """Count the images, and try the backbone on a few of them.

        Raises:
            UpsamplerError: if a place holds no images, none of those tried can be read, or the request's other entries are wrong.
            BackboneError: if a backbone or layer cannot be had.
        """
        from featup_app.training.cache import cache_folder
        from featup_app.training.held_out import split_held_out
        from featup_app.training.train import find_images

        request.check()
        found = find_images(request.places, progress)
        trained, held_out = (len(part) for part in split_held_out(len(found), request.seed))
        tried = [found[round(index * (len(found) - 1) / _LOOKED_AT)] for index in range(min(_LOOKED_AT, len(found)))]
        begun = time.perf_counter()
        images = _readable(tried, progress)
        reading = (time.perf_counter() - begun) / len(tried)
        views = held_out * (1 + HELD_OUT_VIEWS) + trained * (1 + request.views)
        total, seconds = 0, 0.0
        for backbone in self._load(request, progress):
            layer = backbone.layer(request.layer)
            usable, sizes = _sizes(backbone, images, request.size)
            cells = sum((height // layer.stride) * (width // layer.stride) for height, width in sizes) / len(sizes)
            total += round(cells * (2 * layer.channels * views + _GUIDANCE_BYTES * len(found)))
            per_view = _seconds_per_view(backbone, layer.name, usable[0], sizes[0], progress)
            seconds += len(found) * reading + views * per_view
        free = shutil.disk_usage(_existing(cache_folder())).free
        return TrainingSurvey(len(found), held_out, min(total, CACHE_BUDGET), free, seconds)

    def train(
        self,
        request: TrainingRequest,
        control: TrainingControl,
        *,
        on_state: Callable[[TrainingState], None] | None = None,
        progress: Progress = silent,
    ) -> TrainingOutcome:
        """Train, and write weights, report and curve.

        Args:
            request: what is trained on what.
            control: stops and pauses.
            on_state: called with the state of the training, on this thread.
            progress: cancels; then nothing is left but cached features.

        Raises:
            Cancelled: if progress cancelled, or the training was stopped before there was anything to keep.
            UpsamplerError: if images, settings or files cannot be used.
            BackboneError: if a backbone or layer cannot be had.
        """
        from featup_app.training import train_upsampler
        from featup_app.training.train import find_images

        request.check()
        check = control.checked(progress)
        try:
            images = find_images(request.places, check)
            result = train_upsampler(
                images,
                self._load(request, check),
                steps=request.steps,
                minutes=request.minutes,
                layer=request.layer,
                size=request.size,
                views=request.views,
                seed=request.seed,
                budget=CACHE_BUDGET,
                checkpoint=request.checkpoint,
                measure_every=_measure_every(request, len(images)),
                on_state=on_state,
                progress=check,
            )
            outcome = _save(result, request, len(images), progress)
        except Cancelled:
            request.checkpoint.unlink(missing_ok=True)
            raise
        except FeatUpError as error:
            if not request.checkpoint.exists():
                raise
            raise UpsamplerError(
                f'{error} What was learned until the last measurement is in "{request.checkpoint}"; '
                "featup-app train --resume goes on from there."
            ) from error
        finally:
            self._backbones.clear()  # their memory is wanted for views
        request.checkpoint.unlink(missing_ok=True)
        return outcome

    def _load(self, request: TrainingRequest, progress: Progress) -> list[Backbone]:
        from featup_app.backbones import load_backbone

        given = request.weights_file if len(request.backbones) == 1 else None
        wanted = [(name, None if given is None else file_state(given)) for name in request.backbones]
        self._backbones = {key: value for key, value in self._backbones.items() if key in wanted}
        for name, state in wanted:
            if (name, state) not in self._backbones:
                self._backbones[name, state] = load_backbone(name, device=self._device, path=given, progress=progress)
        return [self._backbones[key] for key in wanted]


def upsamplers_folder() -> Path:
    """Where trained weights go if nothing else is chosen; the variable FEATUP_DATA_DIR moves it."""
    chosen = os.environ.get("FEATUP_DATA_DIR")
    base = Path(chosen) if chosen else Path(platformdirs.user_data_dir("featup-app", appauthor=False))
    return base / "upsamplers"


def proposed_output(backbones: tuple[str, ...], layer: str | None, today: date) -> Path:
    """A file for weights that is not there yet, named after what they are for and the day."""
    what = "universal" if len(backbones) > 1 else "-".join(part for part in (backbones[0], layer) if part)
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in f"{what}-{today.isoformat()}")
    number = 1
    while True:
        path = upsamplers_folder() / f"{stem}{f'-{number}' if number > 1 else ''}.safetensors"
        if not any(path.with_suffix(ending).exists() for ending in (".safetensors", ".json", ".png", ".training.pt")):
            return path
        number += 1


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _measure_every(request: TrainingRequest, images: int) -> int:
    """Steps between measurements: about a tenth of the time goes into them, and even a short training has a curve."""
    from featup_app.training.held_out import split_held_out

    often = max(50, 10 * len(split_held_out(images, request.seed)[1]))
    return often if request.steps is None else min(often, max(1, request.steps // 10))


def _readable(paths: list[Path], progress: Progress) -> list[Image]:
    from featup_app.images import load_image

    images, reason = [], ""
    for path in paths:
        progress("looking at the images", 0, 0)
        try:
            images.append(load_image(path))
        except ImageError as error:
            reason = reason or str(error)
    if not images:
        raise UpsamplerError(f"There is no image to train with. {reason}")
    return images


def _sizes(backbone: Backbone, images: list[Image], size: int) -> tuple[list[Image], list[Size]]:
    """The images that the backbone can see, and what they are resized to."""
    usable, sizes, reason = [], [], ""
    for image in images:
        try:
            sizes.append(backbone.input_size(image.size_hw, size))
            usable.append(image)
        except SizeError as error:
            reason = reason or str(error)
    if not usable:
        raise UpsamplerError(f"There is no image to train with. {reason}")
    return usable, sizes


def _seconds_per_view(backbone: Backbone, layer: str, image: Image, size_hw: Size, progress: Progress) -> float:
    """Measured on a small batch, after a first one that only warms up."""
    pixels = backbone.resized(image, size_hw)[None]
    progress("trying the backbone", 0, 0)
    backbone.features(pixels, layer)
    progress("trying the backbone", 0, 0)
    batch = pixels.expand(4, -1, -1, -1)
    begun = time.perf_counter()
    backbone.features(batch, layer).cpu()
    return (time.perf_counter() - begun) / 4


def _save(result: TrainingResult, request: TrainingRequest, images: int, progress: Progress) -> TrainingOutcome:
    """Write the files, unless the training was given up or has nothing to keep."""
    from featup_app.training import save_training

    progress("saving", 0, 0)
    if not result.curve:
        raise Cancelled
    names = {place.name if place.is_dir() else place.parent.name for place in request.places}
    where = f" from {names.pop()}" if len(names) == 1 else ""
    written = save_training(result, request.output, data=f"{images} images{where}")
    try:
        progress("saving", 1, 1)
    except Cancelled:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    figures = result.figures
    return TrainingOutcome(
        request=request,
        files=written,
        error=figures["stack"],
        bilinear=figures["bilinear"],
        classical=figures["classical"],
        steps=result.steps,
        best_step=result.best_step,
        restored=result.restores_detail,
        stopped=result.stopped,
        notes=result.notes,
    )
