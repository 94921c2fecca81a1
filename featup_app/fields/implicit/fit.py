"""Fitting an implicit network to one image, step by step, watched and stopped by views that it never sees.

Source: FeatUp (Fu, Hamilton et al., ICLR 2024), sections 3.1 and 3.3, with the exact least-squares answer for the last layer in
place of most gradient steps: what views see of a field is linear in the field, and a field is linear in its last layer.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import replace

import torch
from torch import Tensor

from featup_app.base.errors import UpsamplerError
from featup_app.base.progress import Progress, Stage, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.guidance import Guidance
from featup_app.fields.implicit import planning
from featup_app.fields.implicit.descent import Descent
from featup_app.fields.implicit.held_out import HeldOutComponents
from featup_app.fields.implicit.implicit_field import ImplicitField, LearnedUncertainty
from featup_app.fields.implicit.network import FourierNetwork, ImplicitNetwork, PerceptronNetwork, pixel_places
from featup_app.fields.implicit.recipe import DEFAULT, FitRecipe
from featup_app.fields.implicit.solving import NormalEquations, compressed, weights_of
from featup_app.fields.implicit.start import Start, placeless
from featup_app.fields.implicit.state import FitPoint, FitState, Watch, unwatched
from featup_app.fields.implicit.uncertainty import CellUncertainty
from featup_app.fields.implicit.views import Components, ViewSource, find_components
from featup_app.images import Image
from featup_app.multiview import (
    HeldOutViews,
    Jitter,
    Reprojection,
    box_average,
    box_view_cells,
    held_out_views,
    reprojection_error,
)

_RECENT = 5
_DIVERGED = 10.0
"""A held-out error this many times that of bilinear interpolation, or of no features at all, is no field any more."""


class ImplicitFit:
    """A network that is being fitted to one image.

    Call :meth:`prepare`, then :meth:`run` as often as wanted; :meth:`field` gives the features at any time in between. Whatever
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
        self.recipe, self.seed = recipe, seed
        self._generator = torch.Generator().manual_seed(seed)
        self._source = ViewSource(features, self.image, recipe, seed)
        self._steps = recipe.steps
        self._step, self._seconds, self._reason = 0, 0.0, ""
        self._points: list[FitPoint] = []
        self._durations: list[float] = []
        self._bilinear = self._jbu = math.nan
        self._held_out: HeldOutViews | None = None
        self._watched: HeldOutComponents | None = None
        self._components: Components | None = None
        self._start = Start.of(recipe, features, self.image)
        self._placeless = placeless(recipe, features).without_position
        self._base: Tensor | None = None
        self._network: ImplicitNetwork | None = None
        self._best: ImplicitNetwork | None = None
        self._best_error, self._best_step, self._error = math.inf, 0, math.nan
        self._normal: NormalEquations | None = None
        self._uncertainty: CellUncertainty | None = None
        self._descent: Descent | None = None
        self._jitters: list[Jitter] = []
        self._targets: list[Tensor] = []

    # -- what it takes -------------------------------------------------------------------------------------------------

    def fit_hw(self) -> Size:
        """(H, W) points at which the network is evaluated while it is fitted."""
        return planning.fitted_size(self.recipe, self.features.geometry)

    def memory_bytes(self) -> int:
        """What the fit will take at its peak, beyond backbone and features; an estimate from above."""
        return planning.memory_bytes(self.recipe, self.features)

    def smaller(self) -> FitRecipe | None:
        """A recipe of the same kind that takes less memory; None if there is no sensible one."""
        return planning.smaller(self.recipe, self.features.geometry)

    # -- fitting -------------------------------------------------------------------------------------------------------

    def prepare(self, progress: Progress = silent) -> FitState:
        """Compute the held-out views and the errors of bilinear interpolation and JBU on them. Does nothing the second time."""
        if self._held_out is None:
            # Methods are asked for by name: the registry stands above this package.
            from featup_app.fields.registry import upsample

            views = held_out_views(self.features, progress=progress)
            errors = [
                reprojection_error(upsample(self.features, self.image, name), views, progress=progress).mean
                for name in ("bilinear", "jbu")
            ]
            self._held_out, (self._bilinear, self._jbu) = views, errors
        return self.state

    def run(
        self,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        watch: Watch = unwatched,
        progress: Progress = silent,
    ) -> FitState:
        """Go on from where it is.

        Args:
            steps, seconds: at most so many further steps and seconds; None for the whole plan.
            watch: called with the state after each step.
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
            watch(self.state)
        if self._points and self._best is None and not self._reason:
            self._look()
        if self._step >= self._steps and not self._reason:
            self._reason = f"All {self._steps} steps are done."
        return self.state

    def extend(self, steps: int) -> None:
        """Plan more steps: of the last kind in the recipe, so more views, or more gradient steps."""
        recipe = self.recipe
        if recipe.gradient_steps:
            self.recipe = replace(recipe, gradient_steps=recipe.gradient_steps + steps)
        else:
            self.recipe = replace(recipe, views=(recipe.solving_steps + steps) * recipe.views_per_step)
        self._steps = self.recipe.steps
        self._reason = ""

    @property
    def state(self) -> FitState:
        """How it stands."""
        recent = self._durations[-_RECENT:]
        pace = len(recent) / sum(recent) if recent and sum(recent) > 0 else 0.0
        left = (self._steps - self._step) / pace if pace and not self._reason else 0.0
        last = self._points[-1] if self._points else None
        return FitState(
            step=self._step,
            steps=self._steps,
            stage=self._stage(),
            seconds=self._seconds,
            loss=last.loss if last else None,
            held_out=self._error,
            best=self._best_error if self._best is not None else math.nan,
            best_step=self._best_step,
            bilinear=self._bilinear,
            jbu=self._jbu,
            steps_per_second=pace,
            seconds_left=left,
            points=tuple(self._points),
            finished=bool(self._reason),
            reason=self._reason,
        )

    def field(self, *, best: bool = True) -> ImplicitField | None:
        """The features of the best state that was measured, or of the latest; None before the first step.

        Before the first measurement the latest is all that there is. The fit may go on meanwhile.
        """
        best = best and self._best is not None
        network = self._best if best else self._network
        if network is None or self._components is None or not self._step:
            return None
        error = self._best_error if best else self._error
        settings = {
            "recipe": self.recipe.facts(),
            "start": self._start.facts(),
            "seed": self.seed,
            "steps": self._best_step if best else self._step,
            "views": self._source.drawn,
            "heldout_error": error,
            "bilinear_heldout_error": self._bilinear,
            "jbu_heldout_error": self._jbu,
            "seconds": self._seconds,
        }
        kept, components = copy.deepcopy(network).eval().requires_grad_(False), self._components
        if self._normal is not None and not self.recipe.gradient_steps:
            kept.last, components = compressed(kept.last, components, self._normal.hidden, self.recipe.components)
        return ImplicitField(
            self.features, self.image, kept, components, settings, self._learned_uncertainty(), start=self._start
        )

    def measure(self, progress: Progress = silent) -> Reprojection:
        """The held-out reprojection error of the best state as decision 0032 defines it, for every method alike.

        The errors of the curve are taken at the fitted points instead of at all pixels of the input.

        Raises:
            UpsamplerError: before the first step.
        """
        self.prepare(progress)
        field = self.field()
        if field is None:
            raise UpsamplerError(
                f'Nothing is fitted to "{self.image.name}" yet, so there is nothing to measure; run the fit.'
            )
        assert self._held_out is not None
        return reprojection_error(field, self._held_out, progress=progress)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _stage(self) -> str:
        if self._held_out is None:
            return "held-out views"
        return "adding views" if self._step < self.recipe.solving_steps else "descending"

    def _one_step(self, progress: Progress) -> None:
        started = time.monotonic()
        with torch.no_grad():
            solving = self._step < self.recipe.solving_steps
            loss = self._solving_step(progress) if solving else self._descent_step(progress)
            network = self._network
            assert network is not None
            done = self._step + 1
            descended = done - self.recipe.solving_steps
            measured = solving or descended % self.recipe.measure_every == 0 or done == self._steps
            error = self._held_out_error(network) if measured else None
        self._step = done
        elapsed = time.monotonic() - started
        self._seconds += elapsed
        self._durations.append(elapsed)
        self._points.append(FitPoint(done, self._seconds, loss, error))
        self._judge(loss, error)

    def _look(self) -> None:
        """Measure what a run ends with, if it ends before the first look at the held-out views."""
        assert self._network is not None
        with torch.no_grad():
            error = self._held_out_error(self._network)
        self._points[-1] = replace(self._points[-1], held_out=error)
        self._judge(self._points[-1].loss, error)

    def _judge(self, loss: float | None, error: float | None) -> None:
        """Keep the best state; end a fit that diverges or stands still."""
        broken = loss is not None and not math.isfinite(loss)
        if error is not None:
            broken = (
                broken
                or not math.isfinite(error)
                or error > _DIVERGED * max(self._bilinear, self._in_components().nothing)
            )
        if broken:
            self._points.pop()
            self._network = copy.deepcopy(self._best)
            self._error = self._best_error if self._best is not None else math.nan
            kept = (
                f"the best state, of step {self._best_step}, is kept" if self._best is not None else "nothing is kept"
            )
            self._reason = (
                f"The fit diverged at step {self._step}; {kept}. Start again with a lower rate or another seed."
            )
            return
        if error is None:
            return
        self._error = error
        if error < self._best_error:
            self._best, self._best_error, self._best_step = copy.deepcopy(self._network), error, self._step
        elif self.recipe.patience and self._step - self._best_step >= self.recipe.patience:
            self._reason = f"The held-out error has not fallen for {self._step - self._best_step} steps."

    def _solving_step(self, progress: Progress) -> float | None:
        """Add some views, and solve for the last layer."""
        count = min(self.recipe.views_per_step, self.recipe.views - self._source.drawn)
        views = self._source.more(max(count, 1), progress)
        if self._network is None:
            self._begin(views.features)
        network, components, normal = self._network, self._components, self._normal
        assert network is not None
        assert components is not None
        assert normal is not None
        targets = components.of(self._placeless(views.features))
        rows, wanted = normal.rows(views.jitters), _as_rows(targets)
        if self._base is not None:
            wanted = wanted - box_view_cells(self._base, views.jitters, self.features.geometry.grid_hw).flatten(0, 2)
        loss = None
        if self._step:
            # The views are new to the network: their error is an honest one, and says where errors are to be expected.
            squared = (rows @ network.last.weight.T - wanted).square().mean(1)
            loss = float(squared.mean()) / components.scale**2
            if self._uncertainty is not None and math.isfinite(loss):
                shape = targets.shape
                self._uncertainty.learn(targets, squared.view(shape[0], *shape[2:]))
        normal.add(rows, wanted, weights_of(self._uncertainty if self.recipe.weigh and self._step else None, targets))
        self._remember(views.jitters, targets)
        solved = normal.solution()
        if bool(solved.isfinite().all()):
            network.last.weight.copy_(solved)
        else:
            loss = math.nan
        return loss

    def _descent_step(self, progress: Progress) -> float:
        """A gradient step on some of the views."""
        recipe = self.recipe
        while self._source.drawn < recipe.views:
            views = self._source.more(min(recipe.views_per_step, recipe.views - self._source.drawn), progress)
            if self._network is None:
                self._begin(views.features)
            assert self._components is not None
            self._remember(views.jitters, self._components.of(self._placeless(views.features)))
        network, components = self._network, self._components
        assert network is not None
        assert components is not None
        if self._descent is None:
            places, colours = self._fitted_points()
            self._descent = Descent(
                network,
                self._uncertainty,
                recipe,
                places,
                colours,
                None if self._base is None else self._base.permute(2, 0, 1),
                fit_hw=self.fit_hw(),
                input_hw=self.features.geometry.input_hw,
                unit=components.scale,
                generator=self._generator,
            )
        order = torch.randperm(len(self._jitters), generator=self._generator).tolist()
        chosen = order[: recipe.views_per_step]
        targets = torch.stack([self._targets[index] for index in chosen]).to(components.basis)
        return self._descent.step([self._jitters[index] for index in chosen], targets)

    def _begin(self, first_views: Tensor) -> None:
        """Choose the components and build the network, when the first views are there."""
        recipe, geometry = self.recipe, self.features.geometry
        data = self.features.data
        # A solution costs next to nothing for further channels; what it then does not use is left out of the field.
        wanted = recipe.components if recipe.gradient_steps else 0
        components = find_components(torch.cat([data[None], first_views]), wanted)
        outputs = components.basis.shape[1]
        places, colours = self._fitted_points()
        network: ImplicitNetwork
        if recipe.network == "fourier":
            network = FourierNetwork(recipe, outputs, geometry.grid_hw, self._generator)
        else:
            network = PerceptronNetwork(recipe, outputs, self.fit_hw(), colours.cpu(), self._generator)
        if recipe.solve and network.last.bias is not None:  # the hidden numbers alone are solved for
            network.last.bias.zero_()
        network = network.to(data.device).eval()
        self._components, self._network = components, network
        if self._start.field is not None:
            begun = self._start.field.project(
                components.basis.T, -(components.mean @ components.basis), size=self.fit_hw()
            )
            self._base = begun.permute(1, 2, 0).contiguous()
        if recipe.uncertainty:
            self._uncertainty = CellUncertainty(outputs, components.scale, self._generator, data.device)
        if recipe.solve:
            hidden = torch.cat(
                [
                    network.hidden(*part)
                    for part in zip(torch.split(places, 4096), torch.split(colours, 4096), strict=True)
                ]
            )
            self._normal = NormalEquations(hidden.view(*self.fit_hw(), -1), geometry.grid_hw, outputs, recipe.ridge)
            own = components.of(self._placeless(data[None]))
            if self._base is not None:
                own = own - box_average(self._base.permute(2, 0, 1), geometry.grid_hw)
            self._normal.add(self._normal.image_rows(), _as_rows(own), recipe.image_weight)

    def _fitted_points(self) -> tuple[Tensor, Tensor]:
        """(N, 2) places and (N, 3) colours of the points that the network is fitted at."""
        size, device = self.fit_hw(), self.features.data.device
        geometry = replace(self.features.geometry, offset_xy=(0.0, 0.0))
        colours = Guidance(self.image, geometry, device, normalise=True).at(size)
        return pixel_places(size, Region.whole(size), device), colours.flatten(1).T.contiguous()

    def _remember(self, jitters: tuple[Jitter, ...], targets: Tensor) -> None:
        """Keep views for the descent, in half precision."""
        if self.recipe.gradient_steps:
            self._jitters += jitters
            self._targets += list(targets.half())

    # -- held-out views ------------------------------------------------------------------------------------------------

    def _held_out_error(self, network: ImplicitNetwork) -> float:
        return self._in_components().error(self._predicted(network))

    def _in_components(self) -> HeldOutComponents:
        if self._watched is None:
            assert self._held_out is not None
            assert self._components is not None
            self._watched = HeldOutComponents.of(self._held_out, self._components)
        return self._watched

    def _predicted(self, network: ImplicitNetwork) -> Tensor:
        """(V, K, h, w): what the held-out views see of a network."""
        assert self._held_out is not None
        if self._normal is not None and self._descent is None:  # a solution leaves the hidden numbers as they were
            drawn = network.last(self._normal.hidden)
        else:
            places, colours = self._fitted_points()
            parts = zip(torch.split(places, 16384), torch.split(colours, 16384), strict=True)
            drawn = torch.cat([network(*part) for part in parts]).view(*self.fit_hw(), -1)
        if self._base is not None:
            drawn = drawn + self._base
        seen = box_view_cells(drawn, self._held_out.jitters, self.features.geometry.grid_hw)
        return seen.permute(0, 3, 1, 2)

    # -- what was learned ----------------------------------------------------------------------------------------------

    def _learned_uncertainty(self) -> LearnedUncertainty | None:
        if self._uncertainty is None or self._components is None:
            return None
        own = self._components.of(self._placeless(self.features.data[None]))
        return LearnedUncertainty(self._uncertainty.scale(own)[0])

    def uncertainty(self) -> Tensor | None:
        """(h, w), the root mean square error of a component that is expected at each cell of the image; None without."""
        learned = self._learned_uncertainty()
        return None if learned is None else learned.scale

    def residuals(self) -> Tensor:
        """(V, h, w), root mean square error of the components at each cell of the held-out views."""
        network = self._best
        assert network is not None
        with torch.no_grad():
            error = self._predicted(network) - self._in_components().targets
            return error.square().mean(1).sqrt()

    def view_pictures(self) -> Tensor:
        """(V, H, W, 3) uint8, the held-out views as the backbone sees them."""
        assert self._held_out is not None
        pixels = self.features.backbone.resized(self.image, self.features.geometry.input_hw)
        views = torch.stack([jitter.pixels(pixels) for jitter in self._held_out.jitters])
        return (views.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8)

    def downsampler_kernel(self) -> Tensor:
        """(k, k), the weights with which a patch of the field is averaged; they sum to one."""
        learned = None if self._descent is None else self._descent.kernel()
        if learned is not None:
            return learned
        side = self.fit_hw()[0] // self.features.geometry.grid_hw[0]
        return torch.full((side, side), 1 / side**2)

    def saliency(self, size: Size) -> Tensor | None:
        """(H, W), how much each pixel counts in its patch, as the attention downsampler learned; None without one."""
        direction = None if self._descent is None else self._descent.saliency_direction()
        field = self.field()
        if direction is None or field is None or self._components is None:
            return None
        functional = direction[None] @ self._components.basis.T
        return field.project(functional, -(functional @ self._components.mean), size=size)[0]


def _as_rows(maps: Tensor) -> Tensor:
    """(V, K, h, w) -> (V * h * w, K)."""
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)
