"""``featup-app fit``: an implicit network for one image, as a file that ``export``, ``evaluate`` and the window open."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featup_app.base.errors import Cancelled, FeatUpError, UpsamplerError
from featup_app.base.progress import Progress, Stage
from featup_app.base.words import human_bytes
from featup_app.cli.stopping import stopped_by_signals
from featup_app.cli.terminal import CANCELLED, complain, progress_bar, say
from featup_app.engine.settings import ViewSettings
from featup_app.fields.implicit.recipe import FIT_RECIPES, FitRecipe, find_fit_recipe

if TYPE_CHECKING:
    from featup_app.features import FeatureMap
    from featup_app.fields.implicit import FitState, ImplicitFit

_SUFFIX = ".safetensors"


def fit(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Fit to write, .safetensors.")],
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="NAME", help="Pretrained model; `featup-app backbones` lists them.")
    ] = ViewSettings().backbone,
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="LAYER", help='Layer of the backbone: a number, or a name such as "block 10".'),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="SIZE", help="Size that the image is resized to for the backbone: 448, 364x476 or image."
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help=f"Settings of the fit, one of: {', '.join(FIT_RECIPES)}. The published one takes hours without a "
            "graphics card.",
        ),
    ] = "default",
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", metavar="N", min=1, help="Steps to take; those of the recipe if not given. More see more views."
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", metavar="S", help="At most so many seconds, without preparation.")
    ] = None,
    views: Annotated[
        int | None,
        typer.Option("--views", metavar="N", min=1, help="Jittered views to fit to; those of the recipe if not given."),
    ] = None,
    smaller: Annotated[
        bool, typer.Option("--smaller", help="Where memory is short, take a smaller setting instead of refusing.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of everything that is drawn at random.")] = 0,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="DEVICE", help="Where to compute: cpu, cuda or cuda:1; CUDA if there is one."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print a line of JSON for each measured step, and a last one with the result."),
    ] = False,
) -> None:
    """Fit an implicit network to the features of one image.

    FILE gets the state with the lowest error on held-out views. It serves `featup-app export --method implicit --upsampler
    FILE`, `featup-app evaluate --methods implicit=FILE` and the window, for this image, backbone, layer and size. Ctrl-C ends
    the fit early and keeps the best state.
    """
    _check(output, seconds)
    chosen = find_fit_recipe(recipe)
    if views is not None:
        chosen = dataclasses.replace(chosen, views=views)
    with stopped_by_signals() as check:
        try:
            with progress_bar() as bar:
                bar("starting", 0, 0)
                features = _features(image, backbone, layer, size, device, bar, check)
                fitting = _that_fits(features, chosen, seed, smaller=smaller)
                stopped = _run(fitting, steps, seconds, bar, check, as_json=as_json)
                field = fitting.field()
                if field is None:
                    raise Cancelled if stopped else UpsamplerError(_nothing(image, fitting.state))
                error = fitting.measure(bar).mean
                from featup_app.fields.implicit import save_fit

                save_fit(field, output)
        except Cancelled:
            complain("Stopped before the first step was done; nothing was written.")
            raise typer.Exit(CANCELLED) from None
    _tell(fitting, error, output, stopped=stopped, as_json=as_json)


def _check(output: Path, seconds: float | None) -> None:
    """What can be refused before a model is loaded: the fit would be lost if it could not be written."""
    if output.suffix.lower() != _SUFFIX:
        raise FeatUpError(f'A fit is written as safetensors; give "{output.name}" the ending {_SUFFIX}.')
    if seconds is not None and not seconds > 0:
        raise FeatUpError(f"The fit was given {seconds:g} seconds; give more than 0.")
    folder = output.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise FeatUpError(f'Cannot write "{output}"; choose another name, or a folder that may be written to.')


def _features(
    image: Path,
    backbone: str,
    layer: str | None,
    size: str | None,
    device: str | None,
    bar: Progress,
    check: Callable[[], None],
) -> FeatureMap:
    from featup_app.backbones import load_backbone
    from featup_app.images import load_image

    def progress(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
        check()
        bar(words, done, total, stage)

    picture = load_image(image)
    loaded = load_backbone(backbone, device=device, progress=progress)
    return loaded.extract(picture, size=size, layer=layer, progress=progress)


def _that_fits(features: FeatureMap, recipe: FitRecipe, seed: int, *, smaller: bool) -> ImplicitFit:
    """The fit, or with ``smaller`` the first smaller one, that the free memory allows.

    Raises:
        UpsamplerError: if it needs more; the sentence says what would work.
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
    """Fit until it ends or is stopped; whether it was stopped."""
    latest: list[FitState] = []

    def progress(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
        check()
        if latest:
            bar(_words(latest[-1]), latest[-1].step, latest[-1].steps)
        else:
            bar(words, done, total, stage)

    def on_state(state: FitState) -> None:
        latest[:] = [state]
        if as_json and state.points and state.points[-1].held_out is not None:
            _say_line(_curve_facts(state))

    if steps is not None and steps > fitting.state.steps:
        fitting.extend(steps - fitting.state.steps)
    try:
        fitting.run(steps=steps, seconds=seconds, on_state=on_state, progress=progress)
    except Cancelled:
        return True
    return False


def _words(state: FitState) -> str:
    """One line about a fit under way."""
    return (
        f"step {state.step} of {state.steps}, held-out {state.held_out:.4f} (best {state.best:.4f}, bilinear "
        f"{state.bilinear:.4f}, JBU {state.jbu:.4f}), {state.steps_per_second:.1f} steps/s"
    )


def _curve_facts(state: FitState) -> dict[str, Any]:
    point = state.points[-1]
    return {"step": point.step, "seconds": point.seconds, "loss": point.loss, "heldout_error": point.held_out}


def _nothing(image: Path, state: FitState) -> str:
    return f'No features could be fitted to "{image.name}": {state.reason or "no step was done; allow more time."}'


def _tell(fitting: ImplicitFit, error: float, output: Path, *, stopped: bool, as_json: bool) -> None:
    """Say what became of the fit; the error is that of the best state by the measure that all methods share."""
    state, features = fitting.state, fitting.features
    if stopped:
        complain(f"Stopped after step {state.step}; the best state, of step {state.best_step or state.step}, was kept.")
    elif state.diverged:
        complain(state.reason)
    if as_json:
        _say_line(
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
    say(
        f"held-out reprojection error: implicit {error:.4f} (step {state.best_step or state.step} of {state.step}, "
        f"{state.seconds:.1f} seconds), bilinear {state.bilinear:.4f}, JBU {state.jbu:.4f}"
    )
    say(str(output))


def _say_line(facts: dict[str, Any]) -> None:
    """One JSON document on one line, so that the last line is the result."""
    say(json.dumps(facts, sort_keys=True))
