"""Training an upsampler by multi-view consistency (FeatUp, ICLR 2024, sections 3.1 and 3.2)."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featup_app.base.errors import Cancelled, UpsamplerError
from featup_app.base.progress import Progress, Stage, silent
from featup_app.fields.restoration import Restoration
from featup_app.training.cache import Picture
from featup_app.training.chain import pyramid
from featup_app.training.distributed import ALONE, Processes
from featup_app.training.examples import Sampler, TrainingSet
from featup_app.training.held_out import HeldOut
from featup_app.training.objective import Objective
from featup_app.training.positions import solve_positional
from featup_app.training.recipes import Recipe
from featup_app.training.restoration import FEW_PICTURES, PICTURES, solve_detail
from featup_app.training.resume_files import read_training, write_training
from featup_app.training.state import Measurement, OnState, TrainingResult, TrainingState

MEASURE_EVERY = 200
_RECENT = 20
"""Steps that the shown loss and speed are averaged over."""


class Trainer:
    """Trains one upsampler for one backbone, or a universal one for several.

    Args:
        sets: pictures of each backbone.
        recipe: all switches.
        seed: of initial weights, examples, directions and dropout.
        processes: that train together, each with a trainer of the same sets, recipe and seed.
    """

    def __init__(
        self, sets: Sequence[TrainingSet], recipe: Recipe, *, seed: int = 0, processes: Processes = ALONE
    ) -> None:
        self.sets, self.recipe, self.seed, self.processes = tuple(sets), recipe, seed, processes
        self.generator = torch.Generator().manual_seed(seed)
        self.sampler = Sampler(sets, recipe)
        self.objective = Objective([each.pictures.channels for each in sets], recipe, self.generator)
        self.optimizer = torch.optim.NAdam(self.objective.parameter_groups())
        self.step = 0
        self.seconds = 0.0
        self.curve: list[Measurement] = []
        self._held_out = [self.sampler.held_out(member, seed, processes) for member in range(len(sets))]
        self._directions = [each.directions() for each in self._held_out]
        self._best: dict[str, Tensor] = copy.deepcopy(self.objective.stack.state_dict())
        self._best_error, self._best_step = math.inf, 0
        self._baselines: dict[str, float] = {}
        self._recent: list[tuple[float, float, float]] = []
        self._since: list[tuple[float, float]] = []

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(
        self,
        *,
        steps: int | None = None,
        minutes: float | None = None,
        on_state: OnState | None = None,
        progress: Progress = silent,
        checkpoint: Path | None = None,
        measure_every: int = MEASURE_EVERY,
    ) -> TrainingResult:
        """Train until the limit, and return the best stack by held-out error.

        Args:
            steps: in all, those before a resumption included.
            minutes: of training in all, those before a resumption included; whichever limit comes first ends it.
            on_state: called with the state after every measurement and about twice a second.
            progress: called before every step. If it raises ``Cancelled``, training ends and the best stack is returned.
            checkpoint: file from which :meth:`resume` goes on, written after every measurement.
            measure_every: steps between measurements on held-out views.

        Raises:
            UpsamplerError: if there is no limit, or the checkpoint cannot be written.
        """
        if steps is None and minutes is None:
            raise UpsamplerError("A training needs a number of steps or of minutes.")
        limit = math.inf if minutes is None else 60 * minutes
        stopped, diverged, reported = "", False, 0.0
        try:
            if not self.curve:
                self._start_restoration(progress)
                self._measure(progress)
            self._report(on_state, steps, limit)
            while not self._done(steps, limit):
                with self.processes.together():
                    progress("training", self.step, steps or 0, Stage.TRAINING)
                self._advance(self._fraction(steps, limit))
                if self.step % measure_every == 0 or self._done(steps, limit):
                    self._measure(progress)
                    if checkpoint is not None:
                        self._save_once(checkpoint)
                elif time.perf_counter() - reported < 0.5:
                    continue
                self._report(on_state, steps, limit)
                reported = time.perf_counter()
        except Cancelled:
            stopped = "Stopped by request; the best state so far is kept."
        except _NotFinite:
            diverged = True
            stopped = (
                f"The loss of step {self.step + 1} was not finite, so training ended; the best state so far, of step "
                f"{self._best_step}, is kept. Lower learning rates would help."
            )
        if checkpoint is not None and not diverged:
            self._save_once(checkpoint)
        return self._result(stopped)

    def _fraction(self, steps: int | None, limit: float) -> float:
        return min(1.0, max(self.step / steps if steps else 0.0, self.seconds / limit))

    def _done(self, steps: int | None, limit: float) -> bool:
        return (steps is not None and self.step >= steps) or self.seconds >= limit

    def _advance(self, fraction: float) -> None:
        """One step."""
        begun = time.perf_counter()
        recipe = self.recipe
        self.objective.train()
        self.objective.stack.train(recipe.dropout)
        generator = self.processes.source(self.seed, self.step) or self.generator
        example = self.sampler.draw(self.step, generator)
        factor = recipe.rate_factor(fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        with self._dropout_seeded(generator):
            loss, error = self.objective(example, generator)
        value, plain = self.processes.mean([float(loss.detach()), float(error)])
        if not math.isfinite(value):
            raise _NotFinite
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.processes.average_gradients(self.objective.parameters())
        if recipe.clip and (not recipe.clip_steps or self.step < recipe.clip_steps):
            nn.utils.clip_grad_norm_(self.objective.parameters(), recipe.clip)
        self.optimizer.step()
        self.step += 1
        (taken,) = self.processes.mean([time.perf_counter() - begun])
        self.seconds += taken
        self._recent = [*self._recent[1 - _RECENT :], (value, plain, taken)]
        self._since.append((value, plain))

    @contextlib.contextmanager
    def _dropout_seeded(self, generator: torch.Generator) -> Iterator[None]:
        """Torch's dropout draws from the global random generator only; it is seeded here, and restored afterwards."""
        if not self.recipe.dropout:
            yield
            return
        seed = int(torch.randint(2**62, (1,), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield

    # -- the coarse map -----------------------------------------------------------------------------------------------

    def _start_restoration(self, progress: Progress) -> None:
        """Remove the positional component from the coarse map, before the network learns from it."""
        learner = self.objective.learner
        if not learner.restores:
            return
        pictures, prepare = self.sets[0].pictures, self.sampler.features[0]
        learner.restoration = Restoration.nothing(pictures.channels)
        if self.recipe.positional:
            # Every process finds the same.
            with self.processes.together():
                positional = solve_positional(pictures, prepare, progress=progress)
            learner.restoration = replace(learner.restoration, positional=positional)

    def _end_restoration(self, at_most: int) -> None:
        """Solve for the change of detail that suits the network as it is now."""
        learner, pictures = self.objective.learner, self.sets[0].pictures
        start = learner.restoration or Restoration.nothing(pictures.channels)
        learner.restoration = None
        learner.restoration = solve_detail(
            learner.upsample,
            pictures,
            self.sets[0].held_out,
            self.sampler.features[0],
            start,
            self.recipe.restoration,
            at_most=at_most,
        )

    # -- measuring ------------------------------------------------------------------------------------------------

    def held_out_error(self, *, all_channels: bool = False, progress: Progress = silent) -> float:
        """The reprojection error of the stack as it is now, the mean over backbones."""
        self.objective.eval()

        def upsampled(directions: Tensor, features: Tensor, picture: Picture) -> Tensor:
            levels = pyramid(picture.guidance()[None])
            return self.objective.learner.upsample(directions, features[None], levels)[0]

        def error(held_out: HeldOut, directions: Tensor) -> float:
            return held_out.error(upsampled, directions, progress=progress)

        return self._mean_error(error, all_channels=all_channels)

    def _baseline_errors(self, *, all_channels: bool) -> dict[str, float]:
        return {
            "bilinear": self._mean_error(HeldOut.bilinear, all_channels=all_channels),
            "classical": self._mean_error(HeldOut.classical, all_channels=all_channels),
        }

    def _mean_error(self, measure: Callable[[HeldOut, Tensor], float], *, all_channels: bool) -> float:
        """The mean over backbones of an error; each process measures its share of the pictures."""
        errors = []
        with self.processes.together():
            for held_out, some, each in zip(self._held_out, self._directions, self.sets, strict=True):
                directions = torch.eye(held_out.pictures.channels) if all_channels else some
                share = len(held_out.pictures.pictures) / len(each.held_out.pictures)
                errors.append(share * measure(held_out, directions) if share else 0.0)
        return sum(self.processes.total(errors)) / len(errors)

    def _measure(self, progress: Progress) -> None:
        self.processes.equalise(self.objective.state_dict().values())
        if not self._baselines:
            with self.processes.together():
                progress("measuring on held-out views", 0, 0, Stage.MEASURING)
            self._baselines = self._baseline_errors(all_channels=False)
        error = self.held_out_error(progress=progress)
        if not math.isfinite(error):
            raise _NotFinite
        if error < self._best_error:
            self._best = copy.deepcopy(self.objective.stack.state_dict())
            self._best_error, self._best_step = error, self.step
        count = len(self._since)
        self.curve.append(
            Measurement(
                step=self.step,
                seconds=self.seconds,
                loss=sum(loss for loss, _ in self._since) / count if count else None,
                error=sum(plain for _, plain in self._since) / count if count else None,
                held_out=error,
            )
        )
        self._since.clear()

    def _report(self, on_state: OnState | None, steps: int | None, limit: float) -> None:
        if on_state is None:
            return
        taken = sum(seconds for _, _, seconds in self._recent)
        speed = len(self._recent) / taken if taken else 0.0
        left = [limit - self.seconds] if math.isfinite(limit) else []
        if steps is not None and speed:
            left.append((steps - self.step) / speed)
        on_state(
            TrainingState(
                step=self.step,
                steps=steps,
                fraction=self._fraction(steps, limit),
                loss=sum(loss for loss, _, _ in self._recent) / len(self._recent) if self._recent else None,
                held_out=self.curve[-1].held_out,
                best=self._best_error,
                bilinear=self._baselines["bilinear"],
                classical=self._baselines["classical"],
                steps_per_second=speed,
                seconds_left=max(0.0, min(left, default=0.0)),
            )
        )

    # -- the end --------------------------------------------------------------------------------------------------

    def _result(self, stopped: str) -> TrainingResult:
        """The best stack, for features as the backbone gives them."""
        learner = self.objective.learner
        learner.stack.load_state_dict(self._best)
        if learner.restores:
            self.objective.eval()
            # Every process finds the same. A training that was stopped keeps what it has, so this cannot be cancelled.
            self._end_restoration(FEW_PICTURES if stopped else PICTURES)
        figures = {"start": self.curve[0].held_out} if self.curve else {}
        if stopped:
            error = self.held_out_error() if learner.restores and self.curve else self._best_error
            figures |= {**self._baselines, "stack": error, "directions": float(len(self._directions[0]))}
        else:
            figures |= self._baseline_errors(all_channels=True)
            figures |= {"stack": self.held_out_error(all_channels=True), "directions": 0.0}
        universal = learner.universal
        norm = None
        if self.recipe.normalise and not universal:
            channels = self.sets[0].pictures.channels
            norm = torch.ones(channels), torch.zeros(channels)
        return TrainingResult(
            method=self.recipe.method,
            stack=learner.finished(self._best, self.sampler.features[0].scale),
            norm=norm,
            restoration=learner.restoration
            and learner.restoration.scaled(self.sampler.features[0].scale).to(torch.float16),
            universal=universal,
            curve=tuple(self.curve),
            best_step=self._best_step,
            figures={name: value for name, value in figures.items() if math.isfinite(value)},
            baselines=dict(self._baselines),
            steps=self.step,
            seconds=self.seconds,
            stopped=stopped,
            notes=tuple(
                dict.fromkeys(
                    note for each in self.sets for part in (each.pictures, each.held_out) for note in part.notes
                )
            ),
            facts=self.facts() | {"processes": self.processes.count},
        )

    def facts(self) -> dict[str, Any]:
        """What is trained on what, JSON-able."""
        return {
            "recipe": self.recipe.facts(),
            "seed": self.seed,
            "sets": [
                {
                    "backbone": each.pictures.backbone,
                    "layer": each.pictures.layer,
                    "channels": each.pictures.channels,
                    "pictures": len(each.pictures.pictures),
                    "views": len(each.pictures.pictures[0].jitters),
                    "sha256": each.pictures.digest,
                    "held_out_pictures": len(each.held_out.pictures),
                    "held_out_views": len(each.held_out.pictures[0].jitters),
                    "held_out_sha256": each.held_out.digest,
                }
                for each in self.sets
            ],
        }

    # -- going on later -------------------------------------------------------------------------------------------

    def _save_once(self, path: Path) -> None:
        with self.processes.together():
            if self.processes.first:
                self.save(path)

    def save(self, path: Path) -> None:
        """Write everything that :meth:`resume` needs, in one step.

        Raises:
            UpsamplerError: if the file cannot be written.
        """
        restoration = self.objective.learner.restoration
        write_training(
            path,
            {
                "facts": self.facts(),
                "step": self.step,
                "seconds": self.seconds,
                "objective": self.objective.state_dict(),
                "restoration": None if restoration is None else vars(restoration),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "best": self._best,
                "best_error": self._best_error,
                "best_step": self._best_step,
                "baselines": self._baselines,
                "curve": [vars(point) for point in self.curve],
            },
        )

    def resume(self, path: Path) -> None:
        """Go on where :meth:`save` was called; the steps that follow are those of a training that was never interrupted.

        Raises:
            UpsamplerError: if the file is not of a training with this recipe, seed, backbones and data.
        """
        state = read_training(path, self.facts())
        self.objective.load_state_dict(state["objective"])
        restoration = state["restoration"]
        self.objective.learner.restoration = None if restoration is None else Restoration(**restoration)
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]
        self._best, self._best_error, self._best_step = state["best"], state["best_error"], state["best_step"]
        self._baselines = state["baselines"]
        self.curve = [Measurement(**point) for point in state["curve"]]


class _NotFinite(Exception):
    """A loss or an error that is not a finite number."""
