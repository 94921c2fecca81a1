"""``featup-app fit``: an implicit network for one image, in a file that ``export``, ``evaluate`` and the window open."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from featup_app.backbones.catalogue import DEFAULT_BACKBONE
from featup_app.base.errors import Cancelled, FeatUpError, UpsamplerError
from featup_app.base.files import keep_inputs
from featup_app.base.progress import Progress, Stage
from featup_app.base.words import human_bytes
from featup_app.cli import fit_options as options
from featup_app.cli.options import (
    BackboneName,
    Channels,
    Checkpoint,
    Device,
    InputSize,
    LayerName,
    Page,
    Range,
    Seed,
    selection_of,
)
from featup_app.cli.stopping import checked, stopped_by_signals
from featup_app.cli.terminal import CANCELLED, print_line, print_message, print_notes, progress_bar
from featup_app.fields.implicit.recipe import FitRecipe, find_fit_recipe
from featup_app.images.selection import AUTO, named, split_name

if TYPE_CHECKING:
    from featup_app.features import FeatureMap
    from featup_app.fields.implicit import FitState, ImplicitFit

_SUFFIX = ".safetensors"


def fit(
    image: options.Image,
    output: options.Output,
    backbone: BackboneName = DEFAULT_BACKBONE,
    checkpoint: Checkpoint = None,
    layer: LayerName = None,
    size: InputSize = None,
    recipe: options.Recipe = "default",
    steps: options.Steps = None,
    seconds: options.Seconds = None,
    views: options.Views = None,
    smaller: options.Smaller = False,
    page: Page = "",
    channels: Channels = "",
    range: Range = AUTO,
    seed: Seed = 0,
    device: Device = None,
    as_json: options.AsJSONLines = False,
) -> None:
    """Fit an implicit network to the features of one image.

    FILE holds the state with the lowest error on held-out views. Use it with `featup-app export --method implicit --upsampler
    FILE`, `featup-app evaluate --methods implicit=FILE` and the window, for this image, backbone, layer and size. Ctrl-C ends
    the fit early and keeps the best state.
    """
    _check(output, seconds)
    for path in (split_name(image)[0], checkpoint):
        keep_inputs(output, [] if path is None else [path], UpsamplerError)
    chosen, picture = find_fit_recipe(recipe), named(image, selection_of(page, channels, range))
    if views is not None:
        chosen = dataclasses.replace(chosen, views=views)
    with stopped_by_signals() as check:
        try:
            with progress_bar() as bar:
                bar("starting", 0, 0)
                features = _features(picture, backbone, checkpoint, layer, size, device, checked(bar, check))
                fitting = _within_memory(features, chosen, seed, smaller=smaller)
                stopped = _run(fitting, steps, seconds, bar, check, as_json=as_json)
                field = fitting.field()
                if field is None:
                    raise Cancelled if stopped else UpsamplerError(_no_field(image, fitting.state))
                error = fitting.measure(bar).mean
                from featup_app.fields.implicit import save_fit

                save_fit(field, output)
        except Cancelled:
            print_message("Stopped before the first step was done; nothing was written.")
            raise typer.Exit(CANCELLED) from None
    _report(fitting, error, output, stopped=stopped, as_json=as_json)


def _check(output: Path, seconds: float | None) -> None:
    """Refuse bad options before a model is loaded: a fit that cannot be written would be lost. Raises FeatUpError."""
    if output.suffix.lower() != _SUFFIX:
        raise FeatUpError(f'A fit is written as safetensors; give "{output.name}" the ending {_SUFFIX}.')
    if seconds is not None and not seconds > 0:
        raise FeatUpError(f"The fit was given {seconds:g} seconds; give more than 0.")
    folder = output.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise FeatUpError(f'Cannot write "{output}"; choose another name, or a folder with write permission.')


def _features(
    image: Path,
    backbone: str,
    checkpoint: Path | None,
    layer: str | None,
    size: str | None,
    device: str | None,
    progress: Progress,
) -> FeatureMap:
    from featup_app.backbones import load_backbone
    from featup_app.images import load_image

    picture = load_image(image)
    loaded = load_backbone(backbone, device=device, path=checkpoint, progress=progress)
    print_notes(loaded)
    return loaded.extract(picture, size=size, layer=layer, progress=progress)


def _within_memory(features: FeatureMap, recipe: FitRecipe, seed: int, *, smaller: bool) -> ImplicitFit:
    """The fit if the free memory allows it; with ``smaller``, the first smaller fit that the memory allows.

    Raises:
        UpsamplerError: if it needs more memory; the message names settings that would work.
    """
    from featup_app.engine import memory
    from featup_app.fields.implicit import ImplicitFit

    wanted = fitting = ImplicitFit(features, recipe=recipe, seed=seed)
    free = memory.available_bytes() * memory.SHARE
    while fitting.memory_bytes() > free and (less := fitting.smaller()) is not None:
        fitting = ImplicitFit(features, recipe=less, seed=seed)
    enough = fitting.memory_bytes() <= free
    if enough and (fitting is wanted or smaller):
        return fitting
    height, width = features.geometry.input_hw
    advice = (
        f"add --smaller for a smaller setting that needs {human_bytes(fitting.memory_bytes())}"
        if enough
        else f"give a --size below {height}x{width}, or close other programs"
    )
    raise UpsamplerError(
        f'Fitting "{features.image.name}" at {height}x{width} needs about {human_bytes(wanted.memory_bytes())} of memory, and '
        f"{human_bytes(free)} may be used; {advice}."
    )


def _run(
    fitting: ImplicitFit,
    steps: int | None,
    seconds: float | None,
    bar: Progress,
    check: Callable[[], None],
    *,
    as_json: bool,
) -> bool:
    """Run the fit until it ends or is stopped.

    Returns:
        Whether it was stopped.
    """
    latest: list[FitState] = []

    def show(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
        if latest:
            bar(_status(latest[-1]), latest[-1].step, latest[-1].steps)
        else:
            bar(words, done, total, stage)

    def on_state(state: FitState) -> None:
        latest[:] = [state]
        if as_json and state.points and state.points[-1].held_out is not None:
            _print_json_line(_curve_facts(state))

    if steps is not None and steps > fitting.state.steps:
        fitting.extend(steps - fitting.state.steps)
    try:
        fitting.run(steps=steps, seconds=seconds, on_state=on_state, progress=checked(show, check))
    except Cancelled:
        return True
    return False


def _status(state: FitState) -> str:
    """One line about a running fit."""
    return (
        f"step {state.step} of {state.steps}, held-out {state.held_out:.4f} (best {state.best:.4f}, bilinear "
        f"{state.bilinear:.4f}, JBU {state.jbu:.4f}), {state.steps_per_second:.1f} steps/s"
    )


def _curve_facts(state: FitState) -> dict[str, Any]:
    point = state.points[-1]
    return {"step": point.step, "seconds": point.seconds, "loss": point.loss, "heldout_error": point.held_out}


def _no_field(image: Path, state: FitState) -> str:
    return f'No features could be fitted to "{image.name}": {state.reason or "no step was finished; allow more time."}'


def _report(fitting: ImplicitFit, error: float, output: Path, *, stopped: bool, as_json: bool) -> None:
    """Print the result of the fit.

    Args:
        fitting: ended or stopped.
        error: held-out reprojection error of its best state.
        output: the file that was written.
        stopped: whether the person stopped it.
        as_json: one line of JSON instead of text.
    """
    state, features = fitting.state, fitting.features
    if stopped:
        print_message(
            f"Stopped after step {state.step}; the best state, of step {state.best_step or state.step}, was kept."
        )
    elif state.diverged:
        print_message(state.reason)
    if as_json:
        _print_json_line(
            {
                "heldout_error": error,
                "bilinear_heldout_error": state.bilinear,
                "jbu_heldout_error": state.jbu,
                "seconds": state.seconds,
                "steps": state.step,
                "best_step": state.best_step or state.step,
                "reason": "stopped" if stopped else state.reason,
                "image": features.image.name,
                "backbone": features.backbone_name,
                "layer": features.layer,
                "input_hw": features.geometry.input_hw,
                "recipe": fitting.recipe.facts(),
                "seed": fitting.seed,
                "file": str(output),
            }
        )
        return
    print_line(
        f"held-out reprojection error: implicit {error:.4f} (step {state.best_step or state.step} of {state.step}, "
        f"{state.seconds:.1f} seconds), bilinear {state.bilinear:.4f}, JBU {state.jbu:.4f}"
    )
    print_line(str(output))


def _print_json_line(facts: dict[str, Any]) -> None:
    """One JSON document on one line, so that the last line is the result."""
    print_line(json.dumps(facts, sort_keys=True))
