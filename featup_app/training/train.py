"""Training from images to weights in one call."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.base.errors import UpsamplerError
from featup_app.base.progress import Progress, silent
from featup_app.images import IMAGE_SUFFIXES, Image, split_name
from featup_app.multiview.held_out import HELD_OUT_PADDING, HELD_OUT_VIEWS, HELD_OUT_ZOOM
from featup_app.training.cache import DEFAULT_BUDGET, PictureSet, Preparation, prepare_pictures
from featup_app.training.distributed import ALONE, Processes
from featup_app.training.examples import TrainingSet
from featup_app.training.held_out import split_held_out
from featup_app.training.learners import check_backbones
from featup_app.training.recipes import DEFAULT, Recipe
from featup_app.training.state import OnState, TrainingResult
from featup_app.training.trainer import MEASURE_EVERY, Trainer

if TYPE_CHECKING:
    from featup_app.backbones import Backbone

_HELD_OUT_SEED = 2**20
"""Added to the seed, so that held-out views of an image are never those that are trained on."""


@dataclass(frozen=True)
class Limits:
    """How far a training goes; whichever limit comes first.

    Attributes:
        steps: None for no limit.
        minutes: of training, without the preparation; None for no limit.
    """

    steps: int | None = None
    minutes: float | None = None

    def check(self) -> None:
        """Raises UpsamplerError if there is no limit, or none that leaves time for a step."""
        if self.steps is None and self.minutes is None:
            raise UpsamplerError("A training needs a number of steps or of minutes.")
        if self.steps is not None and self.steps < 1:
            raise UpsamplerError(f"{self.steps} steps are no training; at least 1 is needed.")
        if self.minutes is not None and not self.minutes > 0:
            raise UpsamplerError(f"{self.minutes} minutes are no training; give more than 0.")


def find_images(places: Sequence[Path], progress: Progress = silent) -> list[Path]:
    """The image files that files and folders mean, those of folders sorted and with what lies in folders inside.

    Args:
        places: files, also with a page (``photo.tif#page=3``), and folders.
        progress: called for every file, since a folder may hold very many; may cancel.

    Raises:
        UpsamplerError: if a place is neither, or a folder holds no images.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = []
            for path in place.rglob("*"):
                progress("looking for images", 0, 0)
                if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                    inside.append(path)
            if not inside:
                raise UpsamplerError(f'The folder "{place}" holds no images; give one with PNG or JPEG files.')
            found += sorted(inside)
        elif split_name(place)[0].exists():
            found.append(place)
        else:
            raise UpsamplerError(f'There is no image and no folder "{place}"; check the name.')
    return list(dict.fromkeys(found))


def train_upsampler(
    images: Sequence[Path | Image],
    backbones: Backbone | Sequence[Backbone],
    recipe: Recipe = DEFAULT,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    layer: str | None = None,
    held_out: Sequence[Path | Image] | None = None,
    size: int = 224,
    crops: int = 0,
    views: int = 10,
    seed: int = 0,
    cache: Path | None = None,
    budget: int = DEFAULT_BUDGET,
    checkpoint: Path | None = None,
    resume: Path | None = None,
    measure_every: int = MEASURE_EVERY,
    on_state: OnState | None = None,
    progress: Progress = silent,
    processes: Processes = ALONE,
) -> TrainingResult:
    """Train an upsampler for a backbone, or a universal joint bilateral one for several.

    Args:
        images: files (no folders) or pictures to train on.
        backbones: frozen. Several give one stack without the last correction, trained on them in turns.
        recipe: the method and all switches.
        steps, minutes: limits; whichever comes first.
        layer: of the backbone, None for its default; with several backbones each has its default.
        held_out: images to measure on; if not given, a seeded tenth of the images is kept back.
        size, crops, views: as in :class:`Preparation`.
        seed: of everything that is drawn.
        cache: folder of the cached features.
        budget: bytes of disk that they may take.
        checkpoint: file to go on from later.
        resume: such a file; training goes on there.
        measure_every: steps between measurements.
        on_state: called with the state of the training.
        progress: may cancel. During the preparation that raises ``Cancelled``; later the best stack is returned.
        processes: of ``torchrun``, from :func:`~featup_app.training.distributed.join_processes`, all of which call this with
            the same arguments and get the same result; the first writes the checkpoint.

    Raises:
        UpsamplerError: if an argument does not fit, no image is usable, or a file cannot be read or written.
    """
    Limits(steps, minutes).check()
    members = list(backbones) if isinstance(backbones, Sequence) else [backbones]
    check_backbones(recipe, len(members))
    if layer is not None and len(members) > 1:
        raise UpsamplerError("A layer can be named for a single backbone only; several train on their default layers.")
    if held_out is None:
        kept_for_training, kept_back = split_held_out(len(images), seed) if images else ([], [])
        held_out = [images[index] for index in kept_back]
        images = [images[index] for index in kept_for_training]
    preparation = Preparation(size, crops, views, recipe.max_padding, recipe.max_zoom, seed)
    options = {"layer": layer, "folder": cache, "keep": budget, "progress": progress}
    sets = [
        _prepare_set(images, held_out, backbone, preparation, processes, budget=budget // len(members), **options)
        for backbone in members
    ]
    trainer = Trainer(sets, recipe, seed=seed, processes=processes)
    if resume is not None:
        with processes.together():
            trainer.resume(resume)
    return trainer.run(
        steps=steps,
        minutes=minutes,
        on_state=on_state,
        progress=progress,
        checkpoint=checkpoint,
        measure_every=measure_every,
    )


def _prepare_set(
    images: Sequence[Path | Image],
    held_out: Sequence[Path | Image],
    backbone: Backbone,
    preparation: Preparation,
    processes: Processes,
    *,
    budget: int,
    **options: Any,
) -> TrainingSet:
    """Pictures to train on and to measure on, for one backbone; the latter on the views of the yardstick (decision 0032)."""
    measuring = replace(
        preparation,
        crops=0,
        views=HELD_OUT_VIEWS,
        max_padding=HELD_OUT_PADDING,
        max_zoom=HELD_OUT_ZOOM,
        seed=preparation.seed + _HELD_OUT_SEED,
    )
    # The yardstick gets what it needs, up to half of the budget.
    kept = _prepare(held_out, backbone, processes, preparation=measuring, budget=budget // 2, **options)
    trained = _prepare(images, backbone, processes, preparation=preparation, budget=budget - kept.bytes, **options)
    return TrainingSet(trained, kept)


def _prepare(
    images: Sequence[Path | Image], backbone: Backbone, processes: Processes, *, budget: int, **options: Any
) -> PictureSet:
    """:func:`prepare_pictures`; of several processes each first computes a share of the features into the common cache."""
    if processes.count > 1:
        part = processes.share(images)
        # Errors are raised below, where they concern the whole set. A share of the budget may hold a view less.
        with processes.together(), contextlib.suppress(UpsamplerError):
            if part:
                prepare_pictures(part, backbone, budget=budget * len(part) // len(images), **options)
    with processes.together():
        return prepare_pictures(images, backbone, budget=budget, **options)
