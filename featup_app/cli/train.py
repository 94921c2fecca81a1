"""``featup-app train``: weights of an upsampler for a backbone, learned from unlabelled images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from featup_app.backbones.catalogue import DEFAULT_BACKBONE
from featup_app.base.errors import Cancelled, FeatUpError, UpsamplerError
from featup_app.base.files import keep_inputs
from featup_app.base.progress import Progress, Stage, silent
from featup_app.cli import train_options as options
from featup_app.cli.options import (
    Channels,
    Checkpoint,
    Device,
    LayerName,
    Page,
    Range,
    ReportAsJSON,
    Seed,
    selection_of,
)
from featup_app.cli.stopping import checked, stopped_by_signals
from featup_app.cli.terminal import CANCELLED, print_json, print_line, print_message, print_notes, progress_bar
from featup_app.images.selection import AUTO, Selection, named, split_name
from featup_app.training.distributed import Processes, is_first, join_processes

if TYPE_CHECKING:
    from featup_app.training import Recipe, TrainingResult, TrainingState

_MEGABYTE = 10**6


def train(
    images: options.Images,
    output: options.Output,
    backbone: options.Backbones = None,
    checkpoint: Checkpoint = None,
    method: options.Method = "jbu",
    layer: LayerName = None,
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    size: options.Size = 224,
    crops: options.Crops = 0,
    views: options.Views = 10,
    seed: Seed = 0,
    recipe: options.Recipe = "default",
    restoration: options.Restoration = None,
    validation: options.Validation = None,
    resume: options.Resume = None,
    cache_budget: options.CacheBudget = 4000,
    cache: options.Cache = None,
    data: options.Data = None,
    page: Page = "",
    channels: Channels = "",
    range: Range = AUTO,
    device: Device = None,
    as_json: ReportAsJSON = False,
) -> None:
    """Train an upsampler for a backbone from images without labels.

    FILE holds the weights with the lowest error on held-out views; a report (.json) and the curve (.png) are written beside it.
    Ctrl-C ends the training early and keeps the best state. While the training runs, a .training.pt file is kept beside FILE;
    --resume continues an interrupted training from it.

    In several processes: torchrun --nproc-per-node 2 -m featup_app train ... Only the first process writes files and messages.
    """
    if steps is None and minutes is None:
        steps = 2000
    selection = selection_of(page, channels, range)
    arguments: dict[str, Any] = {
        "steps": steps,
        "minutes": minutes,
        "layer": layer,
        "size": size,
        "crops": crops,
        "views": views,
        "seed": seed,
        "resume": resume,
        "cache": cache,
        "budget": cache_budget * _MEGABYTE,
        "checkpoint": output.with_suffix(".training.pt"),
    }
    with _training_processes() as processes, stopped_by_signals(alone=processes.count == 1) as check:
        _check(output, backbone or [], checkpoint)
        try:
            with progress_bar() if processes.first else nullcontext(silent) as bar:
                result = _run(
                    images,
                    validation,
                    output,
                    selection,
                    backbone or [DEFAULT_BACKBONE],
                    checkpoint,
                    _recipe(recipe, method, restoration),
                    device,
                    arguments,
                    bar,
                    check,
                    processes,
                )
        except Cancelled:
            if processes.first:
                print_message("Stopped before the training began; nothing was written but cached features.")
            raise typer.Exit(CANCELLED) from None
        with processes.together():
            if processes.first:
                _report(result, output, data, as_json)
                if not result.stopped:
                    arguments["checkpoint"].unlink(missing_ok=True)
        processes.leave()


def _check(output: Path, backbones: list[str], checkpoint: Path | None) -> None:
    """Refuse bad options before anything is read. Raises FeatUpError."""
    if output.suffix.lower() != ".safetensors":
        raise FeatUpError(f'Weights are written as safetensors; give "{output.name}" the ending .safetensors.')
    if checkpoint is not None and len(backbones) > 1:
        raise FeatUpError("--checkpoint has the weights of one model; give --backbone once, or leave it out.")


def _recipe(name: str, method: str, restoration: float | None) -> Recipe:
    from featup_app.training.recipes import find_recipe

    chosen = dataclasses.replace(find_recipe(name), method=method)
    return chosen if restoration is None else dataclasses.replace(chosen, restoration=restoration)


def _run(
    images: list[Path],
    validation: Path | None,
    output: Path,
    selection: Selection,
    backbones: list[str],
    checkpoint: Path | None,
    recipe: Recipe,
    device: str | None,
    arguments: dict[str, Any],
    bar: Progress,
    check: Callable[[], None],
    processes: Processes,
) -> TrainingResult:
    bar("starting", 0, 0)
    from featup_app.backbones import load_backbone
    from featup_app.training.train import Limits, find_images, train_upsampler

    Limits(arguments["steps"], arguments["minutes"]).check()
    latest: list[TrainingState] = []

    def show(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
        if stage is not Stage.TRAINING:
            bar(words, done, total, stage)
        elif latest:
            bar(_status(latest[-1]), round(1000 * latest[-1].fraction), 1000)

    progress = checked(show, check)
    loaded = []
    for turn in (True, False):  # the first process downloads weights, and the others then find them
        with processes.together():
            if processes.first == turn:
                found = [named(path, selection) for path in find_images(images)]
                held_out = (
                    None if validation is None else [named(path, selection) for path in find_images([validation])]
                )
                loaded = [
                    load_backbone(name, device=processes.device(device), path=checkpoint, progress=progress)
                    for name in backbones
                ]
    read = [split_name(path)[0] for path in (*found, *(held_out or ()))]
    for target in (output, *map(output.with_suffix, (".json", ".png", ".training.pt"))):
        keep_inputs(target, read if checkpoint is None else [*read, checkpoint], UpsamplerError)
    if processes.first:
        for entry in loaded:
            print_notes(entry)
    return train_upsampler(
        found,
        loaded,
        recipe,
        held_out=held_out,
        on_state=latest.append,
        progress=progress,
        processes=processes,
        **arguments,
    )


def _status(state: TrainingState) -> str:
    """One line about a running training."""
    loss = "" if state.loss is None else f", loss {state.loss:.3f}"
    return (
        f"step {state.step}{loss}, held-out {state.held_out:.4f} (best {state.best:.4f}, bilinear {state.bilinear:.4f}), "
        f"{state.steps_per_second:.1f} steps/s"
    )


def _report(result: TrainingResult, output: Path, data: str | None, as_json: bool) -> None:
    """Write the files and print the result of the training."""
    from featup_app.engine.training import DETAIL_RESTORED
    from featup_app.training.report import save_training, training_report

    for note in result.notes:
        print_message(note)
    if result.stopped:
        print_message(result.stopped)
    written = save_training(result, output, data=data)
    if as_json:
        print_json({**training_report(result, data=data), "files": [str(path) for path in written]})
        return
    figures = result.figures
    print_line(
        f"held-out reprojection error: trained {figures['stack']:.4f} (step {result.best_step} of {result.steps}), "
        f"bilinear {figures['bilinear']:.4f}, classical {figures['classical']:.4f}"
    )
    if result.restores_detail:
        print_line(DETAIL_RESTORED)
    for path in written:
        print_line(str(path))


@contextmanager
def _training_processes() -> Iterator[Processes]:
    """The processes that train. Only the first reports an error and returns its exit code.

    The others end silently with exit code 0, because torchrun kills all processes as soon as one has failed.
    """
    try:
        yield join_processes()
    except (FeatUpError, typer.Exit):
        if is_first():
            raise
        raise typer.Exit from None
