"""Fitting an implicit network to one image, step by step, measured and stopped by held-out views.

Source: FeatUp (Fu, Hamilton et al., ICLR 2024), sections 3.1 and 3.3, with the exact least-squares answer for the last layer in
place of most gradient steps: what views see of a field is linear in the field, and a field is linear in its last layer.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featup_app.base.errors import UpsamplerError
from featup_app.base.progress import Progress, Stage, silent
from featup_app.base.words import counted
from featup_app.features import FeatureMap, Size
from featup_app.fields.field import FeatureField
from featup_app.fields.implicit import planning
from featup_app.fields.implicit.held_out import HeldOutComponents
from featup_app.fields.implicit.implicit_field import ImplicitField, LearnedUncertainty
from featup_app.fields.implicit.learner import Learner
from featup_app.fields.implicit.network import ImplicitNetwork
from featup_app.fields.implicit.recipe import DEFAULT, FitRecipe
from featup_app.fields.implicit.solving import compressed
from featup_app.fields.implicit.start import Start
from featup_app.fields.implicit.state import FitPoint, FitState, OnState, ignore_state
from featup_app.fields.implicit.views import ASKED_VIEWS, AskedViews, Components, Views, ViewSource
from featup_app.images import Image
from featup_app.multiview import HeldOutViews, Reprojection, held_out_views, reprojection_error

_RECENT = 5
_DIVERGED = 10.0
"""A fit has diverged when its held-out error is this many times that of bilinear interpolation, or of no features at all."""


class ImplicitFit:
    """A network that is being fitted to one image.

    Call :meth:`prepare`, then :meth:`run` as often as wanted; :meth:`field` returns the features at any time in between. Whatever
    is cancelled leaves the last good state.

    Args:
        features: the low-resolution map, with the backbone that made it.
        image: the picture; the one that the features were made of, if not given.
        recipe: all switches.
        seed: of views, network and dropout.

    Raises:
        UpsamplerError: if the features come without their backbone.
    """

    def __init__(
        self, features: FeatureMap, image: Image | None = None, *, recipe: FitRecipe = DEFAULT, seed: int = 0
    ) -> None:
        self.features, self.image = features, image or features.image
        self.recipe, self.seed = planning.with_views(recipe, features.geometry.grid_hw), seed
        self._generator = torch.Generator().manual_seed(seed)
        self._source = ViewSource(features, self.image, recipe, seed)
        self._start = Start.of(recipe, features, self.image)
        self._steps, self._step, self._seconds, self._reason = self.recipe.steps, 0, 0.0, ""
        self._extended_at = 0
        self._asked = AskedViews((), features.data.new_zeros(0, *features.data.shape, dtype=torch.float16))
        self._diverged = False
        self._points: list[FitPoint] = []
        self._durations: list[float] = []
        self._held_out_maps: list[Tensor] = []
        self._yardstick: _Yardstick | None = None
        self._learner: Learner | None = None
        self._network: ImplicitNetwork | None = None
        self._error = math.nan
        self._best: _Best | None = None

    # -- what it takes -------------------------------------------------------------------------------------------------

    def fit_hw(self) -> Size:
        """(H, W) points at which the network is evaluated while it is fitted."""
        return planning.fitted_size(self.recipe, self.features.geometry)

    def memory_bytes(self) -> int:
        """Peak memory of the fit beyond backbone and features, in bytes; an upper estimate."""
        return planning.memory_bytes(self.recipe, self.features)

    def smaller(self) -> FitRecipe | None:
        """A recipe of the same kind that needs less memory; None if no sensible one exists."""
        return planning.smaller(self.recipe, self.features.geometry)

    # -- fitting -------------------------------------------------------------------------------------------------------

    def prepare(self, progress: Progress = silent) -> FitState:
        """Compute the held-out views and the errors of bilinear interpolation and JBU on them.

        A call after one that was cancelled goes on with the views that are missing; after that nothing is done.
        """
        if self._yardstick is None:
            # Methods are asked for by name: the registry stands above this package.
            from featup_app.fields.registry import upsample

            count, size = self.recipe.held_out, self.fit_hw()
            views = held_out_views(self.features, count=count, found=self._held_out_maps, progress=progress)
            bilinear, jbu = (
                reprojection_error(upsample(self.features, self.image, name), views, size=size, progress=progress).mean
                for name in ("bilinear", "jbu")
            )
            self._yardstick = _Yardstick(views, bilinear, jbu)
        return self.state

    @property
    def prepared(self) -> bool:
        """Whether :meth:`prepare` has nothing left to do."""
        return self._yardstick is not None

    @property
    def base_field(self) -> FeatureField | None:
        """What the network adds to, the features before the first step; None if that is the mean feature."""
        return self._start.field

    def run(
        self,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        on_state: OnState = ignore_state,
        progress: Progress = silent,
    ) -> FitState:
        """Go on from where it is.

        Args:
            steps, seconds: at most so many further steps and seconds; None for the whole plan.
            on_state: called with the state after each step.
            progress: may cancel at any time; the last good state stays, and another call goes on.

        Returns:
            The state in the end.
        """
        self.prepare(progress)
        started, first = time.monotonic(), self._step
        while self._step < self._steps and not self._reason:
            if steps is not None and self._step - first >= steps:
                break
            if seconds is not None and time.monotonic() - started >= seconds:
                break
            progress("fitting", self._step, self._steps, Stage.FITTING)
            self._one_step(progress)
            on_state(self.state)
        if self._points and self._best is None and not self._reason:
            self._measure_last()
        if self._step >= self._steps and not self._reason:
            self._reason = "The only step is done." if self._steps == 1 else f"All {self._steps} steps are done."
        return self.state

    def extend(self, steps: int) -> None:
        """Plan more steps: of the last kind in the recipe, so more views, or more gradient steps."""
        recipe = self.recipe
        if recipe.gradient_steps:
            self.recipe = replace(recipe, gradient_steps=recipe.gradient_steps + steps)
        else:
            self.recipe = replace(recipe, views=(recipe.solving_steps + steps) * recipe.views_per_step)
        self._steps = self.recipe.steps
        self._reason, self._diverged, self._extended_at = "", False, self._step

    @property
    def state(self) -> FitState:
        """How it stands."""
        recent = self._durations[-_RECENT:]
        pace = len(recent) / sum(recent) if recent and sum(recent) > 0 else 0.0
        left = (self._steps - self._step) / pace if pace and not self._reason else 0.0
        last = self._points[-1] if self._points else None
        best, yardstick = self._best, self._yardstick
        return FitState(
            step=self._step,
            steps=self._steps,
            stage=self._stage(),
            seconds=self._seconds,
            loss=last.loss if last else None,
            held_out=self._error,
            best=math.nan if best is None else best.error,
            best_step=0 if best is None else best.step,
            bilinear=math.nan if yardstick is None else yardstick.bilinear,
            jbu=math.nan if yardstick is None else yardstick.jbu,
            steps_per_second=pace,
            seconds_left=left,
            points=tuple(self._points),
            finished=bool(self._reason),
            reason=self._reason,
            diverged=self._diverged,
        )

    def field(self, *, best: bool = True) -> ImplicitField | None:
        """The features of the best state that was measured, or of the latest; None before the first step.

        Before the first measurement only the latest state exists. The fit may go on meanwhile. Views in which a click is asked
        belong to the best state alone: a running fit is looked at again and again.
        """
        learner, shown = self._learner, self._best if best else None
        network = self._network if shown is None else shown.network
        if network is None or learner is None or self._yardstick is None or not self._step:
            return None
        settings = {
            "recipe": self.recipe.facts(),
            "start": self._start.facts(),
            "seed": self.seed,
            "steps": self._step if shown is None else shown.step,
            "views": self._source.drawn,
            "heldout_error": self._error if shown is None else shown.error,
            "bilinear_heldout_error": self._yardstick.bilinear,
            "jbu_heldout_error": self._yardstick.jbu,
            "seconds": self._seconds,
        }
        kept, components = copy.deepcopy(network).eval().requires_grad_(False), learner.components
        if learner.normal is not None and not self.recipe.gradient_steps:
            kept.last, components = compressed(kept.last, components, learner.normal.hidden, self.recipe.components)
        expected = learner.expected_errors()
        uncertainty = None if expected is None else LearnedUncertainty(expected)
        asked = self._asked if best else None
        return ImplicitField(
            self.features, self.image, kept, components, settings, uncertainty, start=self._start, asked=asked
        )

    def measure(self, progress: Progress = silent) -> Reprojection:
        """The held-out reprojection error of the best state at all pixels of the input, as decision 0032 defines it.

        The errors of the curve, and those of bilinear interpolation and JBU beside it, are taken at the fitted points.

        Raises:
            UpsamplerError: before the first step.
        """
        self.prepare(progress)
        field = self.field()
        if field is None or self._yardstick is None:
            raise UpsamplerError(
                f'Nothing is fitted to "{self.image.name}" yet, so there is nothing to measure; run the fit.'
            )
        return reprojection_error(field, self._yardstick.views, progress=progress)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _stage(self) -> str:
        if self._yardstick is None:
            return "held-out views"
        return "adding views" if self._step < self.recipe.solving_steps else "descending"

    def _one_step(self, progress: Progress) -> None:
        started = time.monotonic()
        with torch.no_grad():
            solving = self._step < self.recipe.solving_steps
            loss = self._solving_step(progress) if solving else self._descent_step(progress)
            done = self._step + 1
            descended = done - self.recipe.solving_steps
            measured = solving or descended % self.recipe.measure_every == 0 or done == self._steps
            error = self._held_out_error() if measured else None
        self._step = done
        elapsed = time.monotonic() - started
        self._seconds += elapsed
        self._durations.append(elapsed)
        self._points.append(FitPoint(done, self._seconds, loss, error))
        self._judge(loss, error)

    def _measure_last(self) -> None:
        """Measure what a run ends with, if it ends before the first measurement on the held-out views."""
        with torch.no_grad():
            error = self._held_out_error()
        self._points[-1] = replace(self._points[-1], held_out=error)
        self._judge(self._points[-1].loss, error)

    def _judge(self, loss: float | None, error: float | None) -> None:
        """Keep the best state; end a fit that diverges or stands still."""
        broken = loss is not None and not math.isfinite(loss)
        if error is not None and not broken:
            broken = not math.isfinite(error) or error > _DIVERGED * self._worst_sensible_error()
        best = self._best
        if broken:
            self._points.pop()
            self._network = None if best is None else copy.deepcopy(best.network)
            self._error = math.nan if best is None else best.error
            kept = "nothing is kept" if best is None else f"the best state, of step {best.step}, is kept"
            self._diverged = True
            self._reason = (
                f"The fit diverged at step {self._step}; {kept}. Start again with a lower rate or another seed."
            )
            return
        if error is None:
            return
        self._error = error
        if best is None or error < best.error:
            self._best = _Best(copy.deepcopy(self._latest()), error, self._step)
        elif self.recipe.patience and self._step - max(best.step, self._extended_at) >= self.recipe.patience:
            self._reason = f"The held-out error has not fallen for {counted(self._step - best.step, 'step')}."

    def _solving_step(self, progress: Progress) -> float | None:
        """Add some views, and solve for the last layer."""
        count = min(self.recipe.views_per_step, self.recipe.views - self._source.drawn)
        views = self._more_views(max(count, 1), progress)
        return self._learner_of(views).solve(self.recipe, views, first=not self._step)

    def _descent_step(self, progress: Progress) -> float:
        """A gradient step on some of the views, which are gathered first."""
        recipe = self.recipe
        while self._source.drawn < recipe.views:
            views = self._more_views(min(recipe.views_per_step, recipe.views - self._source.drawn), progress)
            self._learner_of(views).gather(recipe, views)
        assert self._learner is not None
        return self._learner.descend(recipe)

    def _more_views(self, count: int, progress: Progress) -> Views:
        views = self._source.more(count, progress)
        if len(self._asked.jitters) < ASKED_VIEWS:
            self._asked = self._asked.with_more(views, ASKED_VIEWS)
        return views

    def _learner_of(self, views: Views) -> Learner:
        """The learner, which is built from the first views."""
        if self._learner is None:
            learner = Learner(self.recipe, self.features, self.image, self._start, views.features, self._generator)
            self._learner, self._network = learner, learner.network
        return self._learner

    # -- held-out views ------------------------------------------------------------------------------------------------

    def _latest(self) -> ImplicitNetwork:
        assert self._network is not None, "no step was taken"
        return self._network

    def _held_out_error(self) -> float:
        return self._in_components().error(self._predicted(self._latest()))

    def _worst_sensible_error(self) -> float:
        """The larger one of the errors of bilinear interpolation and of zeros."""
        assert self._yardstick is not None
        return max(self._yardstick.bilinear, self._in_components().nothing)

    def _in_components(self) -> HeldOutComponents:
        assert self._yardstick is not None
        assert self._learner is not None
        return self._yardstick.in_components(self._learner.components)

    def _predicted(self, network: ImplicitNetwork) -> Tensor:
        """(V, K, h, w): the components that a state of the network predicts for the held-out views."""
        assert self._yardstick is not None
        assert self._learner is not None
        return self._learner.predicted(network, self._yardstick.views.jitters)

    # -- what was learned ----------------------------------------------------------------------------------------------

    def uncertainty(self) -> Tensor | None:
        """(h, w), the root mean square error of a component that is expected at each cell of the image; None without."""
        return None if self._learner is None else self._learner.expected_errors()

    def residuals(self) -> Tensor:
        """(V, h, w), root mean square error of the components at each cell of the held-out views."""
        assert self._best is not None
        with torch.no_grad():
            error = self._predicted(self._best.network) - self._in_components().targets
            return error.square().mean(1).sqrt()

    def view_pictures(self) -> Tensor:
        """(V, H, W, 3) uint8, the held-out views as the backbone sees them."""
        assert self._yardstick is not None
        pixels = self.features.backbone.resized(self.image, self.features.geometry.input_hw)
        views = torch.stack([jitter.pixels(pixels) for jitter in self._yardstick.views.jitters])
        return (views.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8)

    def downsampler_kernel(self) -> Tensor:
        """(k, k), the weights with which a patch of the field is averaged; they sum to one."""
        learned = None if self._learner is None else self._learner.downsampler_kernel()
        if learned is not None:
            return learned
        side = self.fit_hw()[0] // self.features.geometry.grid_hw[0]
        return torch.full((side, side), 1 / side**2)

    def saliency(self, size: Size) -> Tensor | None:
        """(H, W), how much each pixel counts in its patch, as the attention downsampler learned; None without one."""
        functional = None if self._learner is None else self._learner.saliency()
        field = self.field()
        if functional is None or field is None:
            return None
        return field.project(*functional, size=size)[0]


@dataclass
class _Yardstick:
    """The held-out views, and the errors of bilinear interpolation and JBU on them."""

    views: HeldOutViews
    bilinear: float
    jbu: float
    _known: HeldOutComponents | None = None

    def in_components(self, components: Components) -> HeldOutComponents:
        """The views in the components of the fit, which do not change."""
        if self._known is None:
            self._known = HeldOutComponents.of(self.views, components)
        return self._known


@dataclass(frozen=True)
class _Best:
    """The state with the lowest held-out error."""

    network: ImplicitNetwork
    error: float
    step: int
