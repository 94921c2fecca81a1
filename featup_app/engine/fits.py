"""The implicit fits of a session: begun, continued in short pieces, kept, compared, saved and opened. Imports no torch; no Qt.

A fit runs in pieces of about half a second, so that the engine's thread answers clicks between them; pausing is asking for no
further piece. Fits are known by numbers, which the asker chooses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featup_app.base.errors import Cancelled, UpsamplerError
from featup_app.base.peak_memory import release_free_memory
from featup_app.base.progress import Progress, Stage, silent
from featup_app.base.words import counted, human_bytes
from featup_app.features import Geometry
from featup_app.fields.implicit.recipe import FIT_RECIPES, FitRecipe
from featup_app.lenses.pictures import heat_picture, numbers_of

if TYPE_CHECKING:
    from featup_app.features import FeatureMap
    from featup_app.fields import FeatureField
    from featup_app.fields.implicit.fit import ImplicitFit
    from featup_app.fields.implicit.state import FitState
from featup_app.lenses.lens import Pixels

PIECE_SECONDS = 0.5
"""How long a fit computes before other requests are answered; a step that has begun is finished."""

_SMALLER_TRIES = 12
_numbers = count(1)


def next_number() -> int:
    """A number for a fit, unique in the process."""
    return next(_numbers)


@dataclass(frozen=True)
class FitRequest:
    """Everything that is chosen before a fit: the recipe, with the person's changes, and the seed of all that is drawn."""

    recipe: FitRecipe
    seed: int = 0

    @property
    def title(self) -> str:
        """What the fit is called in a list: its recipe, what was changed of it, and its seed."""
        recipe, known = self.recipe, FIT_RECIPES.get(self.recipe.name, self.recipe)
        parts = [recipe.name]
        parts += [counted(recipe.views, "view")] if recipe.views != known.views else []
        parts += (
            [counted(recipe.gradient_steps, "further step")] if recipe.gradient_steps != known.gradient_steps else []
        )
        parts += ["without colour"] if known.colour and not recipe.colour else []
        return ", ".join([*parts, f"seed {self.seed}"])


@dataclass(frozen=True)
class FitReport:
    """How a fit stands, without tensors.

    Attributes:
        number: of the fit.
        geometry: of the features that it is fitted to.
        state: numbers and curve; None for a fit that was read from a file.
        held_out: lowest held-out error, if it is known; before the first step it is not.
        based: whether a base field can be shown before the first step.
        title: what it is called.
        details: (name, value) pairs for its tooltip.
    """

    number: int
    geometry: Geometry
    state: FitState | None
    held_out: float | None
    title: str
    details: tuple[tuple[str, str], ...] = ()
    based: bool = False


@dataclass(frozen=True)
class FitRefusal:
    """Why a fit was not begun, and the request that would fit into the memory, if there is one."""

    number: int
    sentence: str
    smaller: FitRequest | None


@dataclass(frozen=True, eq=False)
class HeatPicture:
    """Values as colours, (H, W, 3) uint8 RGB, with the values of the first and the last colour."""

    pixels: Pixels
    limits: tuple[float, float]


@dataclass(frozen=True, eq=False)
class LearnedPictures:
    """What a fit learned beside the features; None for what its recipe does not learn.

    Attributes:
        number: of the fit.
        uncertainty: expected error of each cell of the features (paper, section 3.1).
        saliency: where the learned downsampler looks most.
        kernel: the weights with which the downsampler gathers fine features into a cell.
        views: pictures (H, W, 3) uint8 of the held-out views, and the error that is left at each of their cells.
    """

    number: int
    uncertainty: HeatPicture | None
    saliency: HeatPicture | None
    kernel: HeatPicture | None
    views: tuple[tuple[Pixels, HeatPicture], ...]


@dataclass
class _Kept:
    """A fit that can go on, or only the field of one that was read from a file."""

    key: Hashable
    request: FitRequest | None
    title: str
    features: FeatureMap
    fit: ImplicitFit | None
    field: FeatureField | None = None
    field_step: tuple[int, bool] | None = None


class Fits:
    """Keeps fits by number. Not thread-safe: the thread of the session owns it."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}

    # -- fitting ---------------------------------------------------------------------------------------------------

    def begin(
        self,
        number: int,
        features: FeatureMap,
        request: FitRequest,
        *,
        memory_budget: float,
        progress: Progress = silent,
    ) -> FitReport | FitRefusal:
        """Begin a fit: its base field can be shown at once. Held-out views are the work of its first pieces.

        Args:
            number: of the new fit.
            features: the map that it is fitted to.
            request: recipe and seed.
            memory_budget: bytes that the fit may use; if it would use more, a refusal is returned.
            progress: may cancel; then nothing is kept.

        Raises:
            UpsamplerError: if these features cannot be fitted.
        """
        progress("preparing the fit", 0, 0)
        fit = _make(features, request)
        needed = fit.memory_bytes()
        if needed > memory_budget:
            return _refusal(number, features, request, fit, memory_budget)
        self._kept[number] = _Kept(_features_key(features), request, request.title, features, fit)
        return self.report(number)

    def go_on(self, number: int, *, seconds: float = PIECE_SECONDS, progress: Progress = silent) -> FitReport:
        """Fit for so many seconds more; a cancelled or failed piece leaves the last good state.

        Raises:
            UpsamplerError: if there is no such fit, or it was read from a file.
            BackboneError: if views cannot be seen by the backbone.
        """
        fit = self._going(number)
        before = fit.state.step
        try:
            fit.run(seconds=seconds, progress=_piece_progress(fit, seconds, progress))
        except _PieceOver:
            pass
        except Cancelled:
            raise
        except Exception:
            # The steps before the one that failed are reported first; the next piece fails at once, and says why.
            if fit.state.step == before:
                raise
        return self.report(number)

    def extend(self, number: int, steps: int) -> FitReport:
        """Plan more steps for a fit. Raises UpsamplerError as :meth:`go_on`."""
        self._going(number).extend(steps)
        return self.report(number)

    def forget(self, number: int) -> None:
        """Give a fit up; nothing of it is left."""
        if self._kept.pop(number, None) is not None:
            release_free_memory()

    def __contains__(self, number: int) -> bool:
        return number in self._kept

    def report(self, number: int) -> FitReport:
        """How a fit stands. Raises UpsamplerError if there is no such fit."""
        kept = self._find(number)
        state = kept.fit.state if kept.fit is not None else None
        held_out = state.best if state is not None else _recorded_error(kept.field)
        known = held_out if held_out is not None and math.isfinite(held_out) else None
        based = kept.fit is not None and kept.fit.base_field is not None
        return FitReport(number, kept.features.geometry, state, known, kept.title, _details(kept), based)

    def _going(self, number: int) -> ImplicitFit:
        kept = self._find(number)
        if kept.fit is None:
            raise UpsamplerError(f"“{kept.title}” was read from a file and cannot go on; begin a new fit.")
        return kept.fit

    def _find(self, number: int) -> _Kept:
        if number not in self._kept:
            raise UpsamplerError("This fit is no longer in memory; begin a new one.")
        return self._kept[number]

    # -- fields ----------------------------------------------------------------------------------------------------

    def field(self, number: int, features: FeatureMap, *, latest: bool = False) -> FeatureField:
        """The field of a fit: of its best state, or of its latest; before the first step its base field.

        Args:
            number: of the fit.
            features: the map that is upsampled; the fit must have been made for it.
            latest: the state after the last step, instead of the best one.

        Raises:
            UpsamplerError: if there is no such fit, it was made for other features, or it has neither a base field nor features.
        """
        kept = self._find(number)
        if kept.key != _features_key(features):
            raise UpsamplerError(f"The fit “{kept.title}” was made for other features; begin a new fit for these.")
        if kept.fit is None:
            assert kept.field is not None
            return kept.field
        state = kept.fit.state
        step = (state.step, True) if latest else (state.best_step, False)
        if kept.field is None or kept.field_step != step:
            field = kept.fit.field(best=not latest) or kept.fit.base_field
            if field is None:
                raise UpsamplerError(f"The fit “{kept.title}” has no features yet; let it take its first step.")
            kept.field, kept.field_step = field, step
        return kept.field

    def serves(self, number: int, features: FeatureMap) -> bool:
        """Whether a fit is in memory and was made for these features."""
        return number in self and self._kept[number].key == _features_key(features)

    def version(self, number: int, *, latest: bool = False) -> Hashable:
        """Changes whenever the field of a fit does."""
        kept = self._find(number)
        state = kept.fit.state if kept.fit is not None else None
        return number, None if state is None else state.step if latest else state.best_step

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, number: int, path: Path, progress: Progress = silent) -> Path:
        """Write the best state of a fit to a safetensors file. Raises UpsamplerError or OSError if it cannot be written."""
        from featup_app.fields.implicit.files import save_fit

        progress("saving the fit", 0, 0)
        kept = self._find(number)
        field: Any = self.field(number, kept.features)
        save_fit(field, path)
        return path

    def open(self, number: int, path: Path, features: FeatureMap, progress: Progress = silent) -> FitReport:
        """Read a fit from a file.

        Raises:
            UpsamplerError: if it cannot be read, or was made for another image or other features.
        """
        from featup_app.fields.implicit.files import load_fit

        progress("reading the fit", 0, 0)
        field = load_fit(path, features)
        self._kept[number] = _Kept(_features_key(features), None, path.stem, features, None, field)
        return self.report(number)

    # -- pictures --------------------------------------------------------------------------------------------------

    def learned(self, number: int, progress: Progress = silent) -> LearnedPictures:
        """Pictures of what the fit learned beside the features; of one from a file, those that the file holds.

        Raises:
            UpsamplerError: if there is no such fit, or it has not taken its first step.
        """
        kept = self._find(number)
        field: Any = self.field(number, kept.features)
        progress("drawing what was learned", 0, 4)
        if kept.fit is None:
            held = None if field.uncertainty is None else field.uncertainty.scale
            return LearnedPictures(number, _heat(held, "inferno"), None, None, ())
        fit = kept.fit
        uncertainty = fit.uncertainty()
        saliency = fit.saliency(kept.features.geometry.input_hw)
        progress("drawing what was learned", 1, 4)
        kernel = fit.downsampler_kernel()
        progress("drawing what was learned", 2, 4)
        residuals, pictures = numbers_of(fit.residuals()), np.asarray(fit.view_pictures(), dtype=np.uint8)
        # One scale for all views, so that they can be compared with each other.
        limits = 0.0, max(float(np.percentile(residuals, 99)), 1e-9)
        views = tuple(
            (
                np.ascontiguousarray(picture),
                HeatPicture(heat_picture(residual, colormap="magma", limits=limits), limits),
            )
            for picture, residual in zip(pictures, residuals, strict=True)
        )
        progress("drawing what was learned", 4, 4)
        return LearnedPictures(
            number,
            _heat(uncertainty, "inferno"),
            _heat(saliency, "viridis"),
            _heat(kernel, "viridis", lowest=0.0),
            views,
        )


def _make(features: FeatureMap, request: FitRequest) -> ImplicitFit:
    from featup_app.fields.implicit.fit import ImplicitFit
    from featup_app.fields.implicit.planning import in_short_steps

    return ImplicitFit(features, recipe=in_short_steps(request.recipe, features.geometry.input_hw), seed=request.seed)


class _PieceOver(Cancelled):
    """A piece has lasted long enough, in the middle of a step that goes on where it was."""


def _piece_progress(fit: ImplicitFit, seconds: float, progress: Progress) -> Progress:
    """The progress of a piece: it reports the whole fit, and ends the piece while views are gathered.

    A descent gathers all its views in its first step, which takes minutes, and the eight views of a solving step take seconds
    where pictures are large; those that are there stay when it is interrupted.
    """
    recipe, started, first = fit.recipe, time.monotonic(), -1
    shown = "fitting", fit.state.step, fit.state.steps

    def check(words: str, done: int, total: int, stage: Stage = Stage.WORKING) -> None:
        nonlocal shown, first
        if stage is Stage.FITTING:
            shown = words, done, total
        elif stage is Stage.EXTRACTING and total:
            first = done if first < 0 else first
            if not fit.prepared:
                shown = words, done, total
            elif not recipe.solve:
                shown = words, done, recipe.views
            if done > first and time.monotonic() - started >= seconds:
                raise _PieceOver
        progress(*shown)

    return check


def _refusal(
    number: int, features: FeatureMap, request: FitRequest, fit: ImplicitFit, memory_budget: float
) -> FitRefusal:
    """The sentence for a fit that does not fit into memory, and the first smaller setting that does."""
    problem = f"This fit needs about {human_bytes(fit.memory_bytes())} of memory, and {human_bytes(memory_budget)} may be used"
    for _ in range(_SMALLER_TRIES):
        recipe = fit.smaller()
        if recipe is None:
            break
        request = replace(request, recipe=recipe)
        fit = _make(features, request)
        if fit.memory_bytes() <= memory_budget:
            return FitRefusal(
                number, f"{problem}; a smaller fit would need {human_bytes(fit.memory_bytes())}.", request
            )
    return FitRefusal(number, f"{problem}; choose a smaller input size, or close other programs.", None)


def _features_key(features: FeatureMap) -> Hashable:
    """The same for the same features, however they were asked for."""
    weights = features.backbone_name, features.provenance.get("weights_sha256")
    return features.image.sha256, weights, features.layer, features.geometry.input_hw, features.channels


def _recorded_error(field: FeatureField | None) -> float | None:
    """The held-out error that the file of a fit records."""
    error = field.settings().get("heldout_error") if field is not None else None
    return float(error) if isinstance(error, int | float) else None


def _details(kept: _Kept) -> tuple[tuple[str, str], ...]:
    height, width = kept.features.geometry.input_hw
    entries = [("Layer", kept.features.layer), ("Input", f"{width} × {height}")]
    if kept.fit is not None:
        entries.append(("Views", str(kept.fit.recipe.views)))
    return tuple(entries)


def _heat(values: Any, colormap: str, *, lowest: float | None = None) -> HeatPicture | None:
    """Values from the lowest, or a smaller one, to the highest as colours."""
    if values is None:
        return None
    array = numbers_of(values)
    least = float(array.min())
    limits = least if lowest is None else min(lowest, least), float(array.max())
    return HeatPicture(heat_picture(array, colormap=colormap, limits=limits), limits)
