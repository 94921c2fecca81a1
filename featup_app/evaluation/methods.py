"""The methods that a table compares, as a person names them.

``lowres,bilinear,jbu,jbu=classical,jbu=street.safetensors,implicit:steps=6``: a method, numbers for its options after colons, and
its weights after ``=``. ``all`` stands for the rows of the paper's table.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.base.errors import EvaluationError, UpsamplerError
from featup_app.base.progress import Progress, silent
from featup_app.fields import CLASSICAL, METHODS, find_method, upsample

if TYPE_CHECKING:
    from featup_app.features import FeatureMap
    from featup_app.fields import FeatureField, Upsampler

BASELINE = "bilinear"
"""Differences are told to this method."""

PAPER_ROWS = (
    "lowres", "bilinear", "resize_conv", "dip", "strided", "large_image", "carafe", "sapa", "jbu", "implicit",
)  # fmt: skip
"""What FeatUp (ICLR 2024) compares, in the order of its table; :data:`ALL_ROWS` stands for them."""

ALL_ROWS = "all"

RAW = "raw"

_NUMBERS = ("steps", "seed", "seconds", "factor", "radius", "epsilon", "sigma_spatial", "sigma_range")
"""Options of methods that are numbers, and can be set in a list of methods."""


@dataclass(frozen=True)
class MethodChoice:
    """One method of a table.

    Attributes:
        label: as the person wrote it; names its row.
        method: a name in ``METHODS``.
        upsampler: ``classical``, a file with weights or with what was fitted to an image, or None for what the method takes by
            itself.
        options: names and values of other options of the method.
    """

    label: str
    method: str
    upsampler: str | None = None
    options: tuple[tuple[str, int | float], ...] = ()

    def prepare(self, backbone: str, layer: str, channels: int, *, for_head: bool = False) -> PreparedMethod:
        """Load what the method needs for the features of a layer.

        Args:
            backbone, layer, channels: of the features.
            for_head: whether the field has to hold the features that the backbone's own head reads. Of weights that expect
                normalised features, or those of another layer, only the stages are used then, as in the window.

        Raises:
            UpsamplerError: if the weights cannot be read or do not fit.
        """
        entry = find_method(self.method)
        from featup_app.fields.weights import choose

        names = backbone, layer, channels
        if entry.takes_fit:
            return self._fitted(choose("jbu", names))
        if not entry.takes_weights:
            return self._plain({})
        # Weights of other methods, of which a head cannot use the stages, are refused instead of left out.
        weights = choose(self.method, names, upsampler=self.upsampler, for_head=for_head and entry.has_classical)
        if weights is None and entry.has_classical:
            return self._plain({"kernel": CLASSICAL})
        if weights is None:
            plain = self._plain({})
            return dataclasses.replace(plain, identity={**plain.identity, "weights": "untrained"})
        prepared = PreparedMethod(
            self.label,
            self.method,
            {"upsampler": weights, **dict(self.options)},
            {"method": self.method, "upsampler": weights.facts(), **dict(self.options)},
        )
        if weights.norm is None:
            return prepared
        if for_head:
            raise UpsamplerError(
                f'The upsampler "{weights.title}" normalises features, which the head of {backbone} has not been trained '
                "for; leave out its method, or choose other weights."
            )
        return dataclasses.replace(prepared, space=f"channel norm of {weights.sha256}", normalise=weights.normalised)

    def _fitted(self, start: Upsampler | None) -> PreparedMethod:
        """What is fitted to each picture from these weights, or was fitted to one and is refused for all others."""
        from featup_app.fields.implicit.files import read_fit_facts
        from featup_app.fields.implicit.recipe import DEFAULT

        if self.upsampler is None:
            plain = self._plain({})
            begun = {"recipe": DEFAULT.facts(), "start": start and start.sha256}
            return dataclasses.replace(plain, identity={**plain.identity, **begun})
        path = Path(self.upsampler)
        read_fit_facts(path)
        identity = {"method": self.method, "fit": hashlib.sha256(path.read_bytes()).hexdigest()}
        return dataclasses.replace(self._plain({"fit": str(path)}), identity=identity)

    def _plain(self, options: dict[str, Any]) -> PreparedMethod:
        options = {**options, **dict(self.options)}
        return PreparedMethod(self.label, self.method, options, {"method": self.method, **options})


@dataclass(frozen=True)
class PreparedMethod:
    """A method with its weights at hand.

    Attributes:
        label: of its row.
        method, options: as :func:`~featup_app.fields.upsample` takes them.
        identity: JSON-able; equal for what gives equal numbers.
        space: of the features that the field returns: :data:`RAW`, or that of a channel norm in front of the upsampler.
            Probes and views for its fields have to be of the same space.
        normalise: from the backbone's features into that space; None for the raw ones.
    """

    label: str
    method: str
    options: dict[str, Any]
    identity: dict[str, Any]
    space: str = RAW
    normalise: Callable[[FeatureMap], FeatureMap] | None = None

    def field(self, features: FeatureMap, progress: Progress = silent) -> FeatureField:
        """The method's field of the backbone's features."""
        return upsample(features, method=self.method, progress=progress, **self.options)

    def source(self, features: FeatureMap) -> FeatureMap:
        """The low-resolution features in the space of the field."""
        return features if self.normalise is None else self.normalise(features)

    @property
    def fitted(self) -> bool:
        """Whether something is fitted to each picture, so that fields are costly."""
        return find_method(self.method).fitted

    def key(self) -> str:
        """The identity as text."""
        return json.dumps(self.identity, sort_keys=True)


def parse_methods(text: str, *, upsampler: str | None = None) -> tuple[MethodChoice, ...]:
    """The methods of a list separated by commas.

    ``name=classical`` and ``name=FILE`` choose the weights of a guided one, ``implicit=FILE`` what was fitted to an image,
    ``name:option=NUMBER`` sets an option. ``all`` stands for :data:`PAPER_ROWS`; of these, methods that are written out as well
    are there as they are written.

    Args:
        text: as a person writes it.
        upsampler: weights for the method jbu where it names none: ``classical``, a file, or None for the built-in ones.

    Raises:
        EvaluationError: if a method is there twice, a file is missing, weights are given to a method without any, or an option
            is none of the method's or no number.
        UpsamplerError: for an unknown method.
    """
    parts = [part for part in (part.strip() for part in text.split(",")) if part]
    choices = [_choice(part, upsampler) for part in parts if part != ALL_ROWS]
    if ALL_ROWS in parts:
        rows: list[MethodChoice] = []
        for name in PAPER_ROWS:
            rows += [choice for choice in choices if choice.method == name] or [_choice(name, upsampler)]
        choices = rows + [choice for choice in choices if choice.method not in PAPER_ROWS]
    labels = [choice.label for choice in choices]
    for label in labels:
        if labels.count(label) > 1:
            raise EvaluationError(f'The method "{label}" is asked for twice; once is enough.')
    if not choices:
        names = ", ".join(method.name for method in METHODS)
        raise EvaluationError(f"There is no method to evaluate; name at least one of: {names}, {ALL_ROWS}.")
    return tuple(choices)


def _choice(part: str, upsampler: str | None) -> MethodChoice:
    """One method of a list; arguments and errors as in :func:`parse_methods`."""
    name, settings, given, weights = _pieces(part)
    entry = find_method(name)
    options = tuple(_option(piece, name, entry.options) for piece in settings)
    if given and not (entry.takes_weights or entry.takes_fit):
        with_weights = ", ".join(method.name for method in METHODS if method.takes_weights)
        raise EvaluationError(
            f'The method "{name}" has no weights to choose; leave out "={weights}". Methods with weights: {with_weights}.'
        )
    if given and not weights:
        raise EvaluationError(f'"{part}" names no weights; write {name}=FILE, or jbu=classical.')
    if weights == CLASSICAL and not entry.has_classical:
        raise EvaluationError(f'The method "{name}" has no classical form; leave out "={weights}".')
    chosen = weights or (upsampler if entry.has_classical else None)
    if chosen is not None and chosen != CLASSICAL and not Path(chosen).is_file():
        raise EvaluationError(f'There is no file "{chosen}" with weights for {name}; check the name and the folder.')
    return MethodChoice(part, name, chosen, options)


def _pieces(part: str) -> tuple[str, list[str], bool, str]:
    """Name, settings, whether weights are named, and these: of ``name:option=1:other=2`` or ``name:option=1=FILE``."""
    end = min((place for place in (part.find(":"), part.find("=")) if place >= 0), default=len(part))
    name, rest, settings = part[:end].strip(), part[end:], []
    while rest.startswith(":"):
        option, _, value = rest[1:].partition("=")
        stop = min((place for place in (value.find(":"), value.find("=")) if place >= 0), default=len(value))
        settings.append(f"{option.strip()}={value[:stop].strip()}")
        rest = value[stop:]
    return name, settings, rest.startswith("="), rest[1:].strip()


def _option(piece: str, method: str, allowed: tuple[str, ...]) -> tuple[str, int | float]:
    """An option and its number. Raises EvaluationError."""
    name, _, text = piece.partition("=")
    usable = [option for option in allowed if option in _NUMBERS]
    if name not in usable:
        told = f"it takes: {', '.join(usable)}" if usable else "it takes none"
        raise EvaluationError(f'The method "{method}" has no option "{name}" to set in a list of methods; {told}.')
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise EvaluationError(f'"{piece}" is no number for {method}; write for instance {method}:{name}=8.')
    return name, int(value) if value == int(value) else value
