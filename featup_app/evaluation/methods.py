"""The methods that a table compares, and the list in which a person names them.

``lowres,bilinear,jbu,jbu=classical,jbu=street.safetensors,implicit:steps=6``: each entry is a method, numbers for its options
after colons, and its weights after ``=``. ``all`` means the rows of the paper's table.
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
"""The method to which differences are computed."""

PAPER_ROWS = (
    "lowres", "bilinear", "resize_conv", "dip", "strided", "large_image", "carafe", "sapa", "jbu", "implicit",
)  # fmt: skip
"""The methods that FeatUp (ICLR 2024) compares, in the order of its table."""

ALL_ROWS = "all"
"""Name for all of :data:`PAPER_ROWS`."""

RAW = "raw"
"""The space of the backbone's own features."""

_NUMBERS = (
    "steps",
    "seed",
    "seconds",
    "factor",
    "radius",
    "epsilon",
    "sigma_spatial",
    "sigma_range",
    "consistency",
    "restoration",
    "positional",
)
"""Options of methods that are numbers and can be set in a list of methods."""


@dataclass(frozen=True)
class MethodChoice:
    """One method of a table.

    Attributes:
        label: the entry as the person wrote it; the name of its row.
        method: a name in ``METHODS``.
        upsampler: ``classical``, a file with weights or with a fit, or None for the default of the method.
        options: names and values of other options of the method.
    """

    label: str
    method: str
    upsampler: str | None = None
    options: tuple[tuple[str, int | float], ...] = ()

    def prepare(self, backbone: str, layer: str, channels: int, *, for_head: bool = False) -> PreparedMethod:
        """Load the weights of the method for the features of a layer.

        Args:
            backbone, layer, channels: name of the backbone, name of its layer, and number of channels.
            for_head: whether the backbone's own head is applied to the field. Of weights for normalised features or for another
                layer, only the stages are used then, as in the window.

        Raises:
            UpsamplerError: if the weights cannot be read or do not fit.
        """
        entry = find_method(self.method)
        from featup_app.fields.weights import choose, restoring

        names = backbone, layer, channels
        if entry.takes_fit:
            return self._fitted(choose("jbu", names))
        if entry.restores:
            plain, base = self._plain({}), restoring(names)
            return dataclasses.replace(plain, identity={**plain.identity, "weights": base and base.sha256})
        if not entry.takes_weights:
            return self._plain({})
        # Weights of methods without stages for every backbone are refused, not replaced.
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

    def _fitted(self, base: Upsampler | None) -> PreparedMethod:
        """The method ``implicit``: fitted to each picture from a base field with these weights, or read from a file with a fit.

        The field of a file is refused for other pictures than its own.
        """
        from featup_app.fields.implicit.files import read_fit_facts
        from featup_app.fields.implicit.recipe import DEFAULT

        if self.upsampler is None:
            plain = self._plain({})
            fit = {"recipe": DEFAULT.facts(), "start": base and base.sha256}
            return dataclasses.replace(plain, identity={**plain.identity, **fit})
        path = Path(self.upsampler)
        read_fit_facts(path)
        identity = {"method": self.method, "fit": hashlib.sha256(path.read_bytes()).hexdigest()}
        return dataclasses.replace(self._plain({"fit": str(path)}), identity=identity)

    def _plain(self, options: dict[str, Any]) -> PreparedMethod:
        options = {**options, **dict(self.options)}
        return PreparedMethod(self.label, self.method, options, {"method": self.method, **options})


@dataclass(frozen=True)
class PreparedMethod:
    """A method with its weights loaded.

    Attributes:
        label: label of its row.
        method, options: arguments of :func:`~featup_app.fields.upsample`.
        identity: everything that its numbers depend on, JSON-able.
        space: space of the features of its fields: :data:`RAW`, or that of a channel norm in front of the upsampler. Probes and
            views for its fields must be of the same space.
        normalise: function from the backbone's features into that space; None for raw features.
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
        """Whether the field is fitted to each picture, which is expensive."""
        return find_method(self.method).fitted

    def key(self) -> str:
        """The identity as text."""
        return json.dumps(self.identity, sort_keys=True)


def parse_methods(text: str, *, upsampler: str | None = None) -> tuple[MethodChoice, ...]:
    """The methods of a list separated by commas.

    ``name=classical`` and ``name=FILE`` choose the weights of a guided method, ``implicit=FILE`` a fit, ``name:option=NUMBER``
    sets an option. ``all`` means :data:`PAPER_ROWS`; a method that the list also names is used as written there.

    Args:
        text: the list of a person.
        upsampler: weights for the method jbu where the list names none: ``classical``, a file, or None for the bundled ones.

    Raises:
        EvaluationError: if a method is listed twice, a file is missing, a method without weights is given some, or a value is not
            a number or not of an option of the method.
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
            raise EvaluationError(f'The method "{label}" is listed twice; list it once.')
    if not choices:
        names = ", ".join(method.name for method in METHODS)
        raise EvaluationError(f"There is no method to evaluate; name at least one of: {names}, {ALL_ROWS}.")
    return tuple(choices)


def _choice(part: str, upsampler: str | None) -> MethodChoice:
    """One entry of a list; arguments and errors as in :func:`parse_methods`."""
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
    """Split ``name:option=1:other=2`` or ``name:option=1=FILE``.

    Returns:
        Name, settings, whether the entry has weights, and the weights.
    """
    end = _first_mark(part)
    name, rest, settings = part[:end].strip(), part[end:], []
    while rest.startswith(":"):
        option, _, value = rest[1:].partition("=")
        stop = _first_mark(value)
        settings.append(f"{option.strip()}={value[:stop].strip()}")
        rest = value[stop:]
    return name, settings, rest.startswith("="), rest[1:].strip()


def _first_mark(text: str) -> int:
    """Index of the first colon or equals sign; the length of the text if there is none."""
    return min((index for index in (text.find(":"), text.find("=")) if index >= 0), default=len(text))


def _option(piece: str, method: str, allowed: tuple[str, ...]) -> tuple[str, int | float]:
    """Name and number of ``option=NUMBER``. Raises EvaluationError."""
    name, _, text = piece.partition("=")
    usable = [option for option in allowed if option in _NUMBERS]
    if name not in usable:
        options = f"it takes: {', '.join(usable)}" if usable else "it takes none"
        raise EvaluationError(f'The method "{method}" has no option "{name}" to set in a list of methods; {options}.')
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise EvaluationError(f'"{piece}" is no number for {method}; write a number, such as {method}:{name}=8.')
    return name, int(value) if value == int(value) else value
