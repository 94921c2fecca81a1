"""``featup-app train``: weights of an upsampler for a backbone, learned from unlabelled images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featup_app.base.errors import Cancelled, FeatUpError
from featup_app.base.progress import Progress, Stage, silent
from featup_app.cli.stopping import CANCELLED, stopped_by_signals
from featup_app.cli.terminal import complain, progress_bar, say, say_json
from featup_app.training.distributed import Processes, is_first, join_processes

if TYPE_CHECKING:
    from featup_app.training import Recipe, TrainingResult, TrainingState

_MEGABYTE = 10**6


def train(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Images, or folders of images.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Weights to write, .safetensors.")],
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            metavar="NAME",
            help="Pretrained model to train for; given several times, one universal upsampler learns from all of them.",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method", metavar="NAME", help="Upsampling method: jbu, carafe, sapa or resize_conv (one backbone only)."
        ),
    ] = "jbu",
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="LAYER", help='Layer of the backbone: a number, or a name such as "block 10".'),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Steps to train; 2000 if nothing is said.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", metavar="M", help="Minutes to train, without preparation.")
    ] = None,
    size: Annotated[
        int, typer.Option("--size", metavar="PIXELS", help="Shorter side of what the backbone sees.")
    ] = 224,
    crops: Annotated[
        int, typer.Option("--crops", metavar="N", min=0, help="Random crops of each image beside the whole.")
    ] = 0,
    views: Annotated[
        int, typer.Option("--views", metavar="N", min=1, help="Jittered views kept of each picture.")
    ] = 10,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of everything that is drawn at random.")] = 0,
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME", help="Settings of the training: default or paper.")
    ] = "default",
    restoration: Annotated[
        float | None,
        typer.Option(
            "--restoration",
            metavar="WEIGHT",
            help="How much keeping the coarse features counts when their detail is restored (jbu, one backbone): larger is "
            "sharper, 0 for no restoration; if nothing is said, as much as leaves held-out views explained better than by "
            "bilinear interpolation.",
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option("--val", metavar="FOLDER", help="Images to measure on; a tenth of the others if not given."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="FILE", help="Go on from the .training.pt file of an interrupted training."),
    ] = None,
    cache_budget: Annotated[
        int, typer.Option("--cache-budget", metavar="MB", min=1, help="Megabytes of disk for cached features.")
    ] = 4000,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="FOLDER", help="Where features are cached; a folder of the system if not given."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="TEXT", help="What the images are, for people who use the weights.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="Where the backbone computes: cpu, cuda or cuda:1.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train an upsampler for a backbone from images without labels.

    FILE gets the weights with the lowest error on held-out views; beside it a report (.json) and the curve (.png).
    Ctrl-C ends the training early and keeps the best state. While it runs, FILE's .training.pt lets an interrupted
    training go on with --resume.

    In several processes: torchrun --nproc-per-node 2 -m featup_app train ... The first writes the files and speaks for all.
    """
    if steps is None and minutes is None:
        steps = 2000
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
    with _one_voice() as processes, stopped_by_signals(alone=processes.count == 1) as check:
        if output.suffix.lower() != ".safetensors":
            raise FeatUpError(f'Weights are written as safetensors; give "{output.name}" the ending .safetensors.')
        try:
            with progress_bar() if processes.first else nullcontext(silent) as bar:
                chosen = _recipe(recipe, method, restoration)
                result = _run(images, validation, backbone or [], chosen, device, arguments, bar, check, processes)
        except Cancelled:
            if processes.first:
                complain("Stopped before the training began; nothing was written but cached features.")
            raise typer.Exit(CANCELLED) from None
        with processes.together():
            if processes.first:
                _tell(result, output, data, as_json)
                if not result.stopped:
                    arguments["checkpoint"].unlink(missing_ok=True)
        processes.leave()


def _recipe(name: str, method: str, restoration: float | None) -> Recipe:
    from featup_app.training.recipes import find_recipe

    chosen = dataclasses.replace(find_recipe(name), method=method)
    return chosen if restoration is None else dataclasses.replace(chosen, restoration=restoration)


def _run(
    images: list[Path],
    validation: Path | None,
    backbones: list[str],
    recipe: Recipe,
    device: str | None,
    arguments: dict[str, Any],
    bar: Progress,
    check: Callable[[], None],
    processes: Processes,
) -> TrainingResult:
    bar("starting", 0, 0)
    from featup_app.backbones import load_backbone
    from featup_app.engine.views import ViewSettings
    from featup_app.training.train import Limits, find_images, train_upsampler

    Limits(arguments["steps"], arguments["minutes"]).check()
    latest: list[TrainingState] = []

    def progress(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
        check()
        if stage is not Stage.TRAINING:
            bar(words, done, total, stage)
        elif latest:
            bar(_words(latest[-1]), round(1000 * latest[-1].fraction), 1000)

    loaded = []
    for turn in (True, False):  # what the first process downloads, the others find
        with processes.together():
            if processes.first == turn:
                found = find_images(images)
                held_out = None if validation is None else find_images([validation])
                loaded = [
                    load_backbone(name, device=processes.device(device), progress=progress)
                    for name in backbones or [ViewSettings().backbone]
                ]
    return train_upsampler(
        found,
        loaded,
        recipe,
        held_out=held_out,
        watch=latest.append,
        progress=progress,
        processes=processes,
        **arguments,
    )


def _words(state: TrainingState) -> str:
    """One line about a training under way."""
    loss = "" if state.loss is None else f", loss {state.loss:.3f}"
    return (
        f"step {state.step}{loss}, held-out {state.held_out:.4f} (best {state.best:.4f}, bilinear {state.bilinear:.4f}), "
        f"{state.steps_per_second:.1f} steps/s"
    )


def _tell(result: TrainingResult, output: Path, data: str | None, as_json: bool) -> None:
    """Write the files and say what became of the training."""
    from featup_app.engine.training import DETAIL_RESTORED
    from featup_app.training.report import save_training, training_report

    for note in result.notes:
        complain(note)
    if result.stopped:
        complain(result.stopped)
    written = save_training(result, output, data=data)
    if as_json:
        say_json({**training_report(result, data=data), "files": [str(path) for path in written]})
        return
    figures = result.figures
    say(
        f"held-out reprojection error: trained {figures['stack']:.4f} (step {result.best_step} of {result.steps}), "
        f"bilinear {figures['bilinear']:.4f}, classical {figures['classical']:.4f}"
    )
    if result.restores_detail:
        say(DETAIL_RESTORED)
    for path in written:
        say(str(path))


@contextmanager
def _one_voice() -> Iterator[Processes]:
    """The processes that train; what is wrong is said by the first alone, and its exit code is that of all.

    The others then end quietly and as if nothing were wrong, because torchrun kills all as soon as one has failed.
    """
    try:
        yield join_processes()
    except (FeatUpError, typer.Exit):
        if is_first():
            raise
        raise typer.Exit from None
