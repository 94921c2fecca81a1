"""What a lens is: one object that answers requests about the features of an image. Imports no torch.

A lens is one module of this room with three classes: the request (what a person asks for, as plain values), the view (the
answer: numbers, their picture and what to say about it), and the :class:`Lens` itself, which stands in
``featup_app.lenses.LENSES``. The window, exports, the command line and records of provenance go through that list.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from featup_app.base.errors import LensError
from featup_app.base.progress import Progress, silent
from featup_app.features import Point
from featup_app.lenses.masks import ThresholdMask

if TYPE_CHECKING:
    from torch import Tensor

    from featup_app.fields.field import FeatureField
    from featup_app.images import Image
    from featup_app.lenses.look import FieldFacts, Look
    from featup_app.lenses.masking import MaskedProbability
    from featup_app.lenses.queries import Query
    from featup_app.marks import Mark

Values = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Limits = tuple[float, float]
_Value = TypeVar("_Value")


# -- what is asked ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What a person asks of a lens. Subclasses are frozen dataclasses of numbers, texts, None and tuples of these."""

    lens: ClassVar[str]
    """Name of the lens that answers it."""

    def computation(self) -> Hashable:
        """What decides about the numbers of the answer. Requests with equal ones differ at most in colours."""
        return self

    def check_image(self, image: Image) -> None:
        """Raises LensError if this cannot be asked of an image, such as a point outside of it."""

    def stem(self) -> str | None:
        """:meth:`LensView.stem` of the answer, so that a name can be checked first; None if only the answer knows it."""
        return None

    def inputs(self) -> tuple[Path, ...]:
        """Files that were read for it, which no output may replace."""
        return ()

    def gives_mask(self) -> bool:
        """Whether the answer has a :meth:`LensView.mask`, which is exported beside its picture."""
        return False

    def as_json(self) -> dict[str, Any]:
        """The request in the types that JSON knows; :func:`request_from_json` is the reverse."""
        return {
            "lens": self.lens,
            **{field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)},
        }


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


# -- what a lens may ask for -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes that a classifier knows, and what it says about the image.

    Attributes:
        names: of all classes.
        logits: (classes) float32.
    """

    names: Sequence[str]
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Evidence:
    """Where the evidence for K classes, or for the embedding of the picture, is read from.

    Attributes:
        look: at the features that are explained.
        weights: (K, C), those of each class for these features; None if gradients were asked for.
        gradients: of each class's score, or of the embedding's length, on the cells: K times (C, h, w); empty if not asked for.
        kind: "CAM" or "Grad-CAM", what the weights are.
        note: a sentence, if the features are not those of the chosen settings.
    """

    look: Look
    weights: Tensor | None
    gradients: Sequence[Tensor]
    kind: str
    note: str | None


class Looks(Protocol):
    """What a lens may ask for about one image under one choice of settings; the session answers."""

    @property
    def image(self) -> Image: ...

    def look(self, progress: Progress = silent, *, channels: int = 3, in_tiles: int = 0) -> Look:
        """The features that the settings choose.

        Args:
            progress: may cancel.
            channels: how many are computed at once at the output size; they have to fit into memory.
            in_tiles: how many are computed beside them, in tiles of the usual size.

        Raises:
            FeatUpError: if the features cannot be computed, or the output does not fit into memory.
        """

    def alternatives(self, progress: Progress = silent) -> Sequence[FeatureField]:
        """The fields of all methods that are made in no time, and of the chosen one, in the space of the chosen one."""

    def alternatives_key(self, progress: Progress = silent) -> Hashable:
        """Equal for equal :meth:`alternatives`; computes none of them."""

    def classes(self, progress: Progress = silent) -> Classes:
        """The classes of the chosen backbone, or of the bundled classifier if that has none."""

    def evidence(
        self, classes: Sequence[int] | None, progress: Progress = silent, *, gradients: bool = False
    ) -> Evidence:
        """The features and weights that classes are explained with.

        Args:
            classes: their indices; None for the embedding of the picture, which the chosen backbone explains, and by gradients.
            progress: may cancel.
            gradients: whether gradients on the cells are needed instead of weights.

        Raises:
            BackboneError: if the backbone cannot explain them.
            FeatUpError: what :meth:`look` raises.
        """

    def masked_probability(self, index: int, values: Tensor, progress: Progress = silent) -> MaskedProbability:
        """How probable the classifier finds a class on the picture, and on the picture multiplied by an (H, W) map of it."""

    def remember(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The value made for a key before, or made now."""


# -- what it answers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColorRange:
    """A legend: the colours of a map from the first limit to the second, with a few words and a tooltip."""

    colormap: str
    limits: Limits
    words: str = ""
    tooltip: str = ""


@dataclass(frozen=True)
class Components:
    """A legend: which components are red, green and blue, counted from 1, and the share of variance of every component."""

    numbers: tuple[int, ...]
    explained: tuple[float, ...]


Legend = ColorRange | Components


class LensView(ABC):
    """The answer of a lens: settled numbers of one image in numpy alone, so that readers need no torch.

    Subclasses are dataclasses (``frozen=True, eq=False``) with at least these attributes:

    Attributes:
        request: what was asked.
        facts: about the features.
        values: (H, W) or (K, H, W) float32.
    """

    request: Request
    facts: FieldFacts
    values: Values

    @abstractmethod
    def picture(self) -> Pixels:
        """(H, W, 3) uint8 RGB."""

    @abstractmethod
    def stem(self) -> str:
        """The part of an exported file's name that says what the picture shows."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Everything that turns features into this picture, JSON-able but for arrays."""

    def legend(self) -> Legend | None:
        """What the colours mean; None if there is nothing to say."""
        return None

    def mask(self) -> ThresholdMask | None:
        """The region that a threshold of the request cuts out of the values; None without one."""
        return None

    def outlined(self) -> Mask | None:
        """(H, W): the region whose outline a window draws over the picture; None for no outline. Files show none."""
        return None

    def subtitle(self) -> str:
        """A few words beside the lens's title."""
        return ""

    def reading(self, row: int, column: int) -> str:
        """The values at a pixel of the output, for a status bar."""
        return ""

    def with_request(self, request: Request) -> LensView:
        """The same numbers as the answer to a request of equal ``computation()``, such as one for other colours."""
        return dataclasses.replace(self, request=request)  # type: ignore[type-var]  # subclasses are dataclasses

    def settled_request(self) -> Request:
        """The request with what the answer decided filled in, such as which class was the most probable."""
        return self.request


RequestT = TypeVar("RequestT", bound=Request)
ViewT = TypeVar("ViewT", bound=LensView)


class Lens(ABC, Generic[RequestT, ViewT]):
    """One way to look at features."""

    name: ClassVar[str]
    """For commands, files and settings: lower case, no spaces."""

    title: ClassVar[str]
    """For menus and headings."""

    tooltip: ClassVar[str]
    """A sentence about what the picture shows."""

    request_type: type[RequestT]
    """Class of its requests; can be made without arguments, unless :meth:`initial` is overridden."""

    usage: ClassVar[str]
    """How a request is written on the command line, for help texts."""

    argument: ClassVar[str] = ""
    """Verbose regular expression of what may follow the name on the command line."""

    reads_all_channels: ClassVar[bool] = False
    """Whether all channels are computed at the output size, which takes seconds; quicker lenses are computed first."""

    reads_other_features: ClassVar[bool] = False
    """Whether it may read features of another backbone or layer than the chosen ones."""

    @abstractmethod
    def view(self, request: RequestT, looks: Looks, progress: Progress = silent) -> tuple[ViewT, Look]:
        """The answer, and the look that it was read from.

        Raises:
            LensError: for something that cannot be shown.
            FeatUpError: what keeps the features from being computed.
        """

    def initial(self, image: Image, before: RequestT | None = None) -> RequestT:
        """What is asked of an image when it is opened.

        Args:
            image: the picture.
            before: what was asked last of another image; colours and the like may be kept.
        """
        return before or self.request_type()

    def at_point(self, request: RequestT, point: Point) -> RequestT | None:
        """What a click on an image point (x, y) asks; None if the lens does not react to clicks."""
        return None

    def marks(self, request: RequestT) -> Sequence[Query]:
        """What of a request is marked on the picture; nothing for a lens that does not ask about marks."""
        return ()

    def with_mark(self, request: RequestT, mark: Mark, *, negative: bool, added: bool) -> RequestT | None:
        """What drawing a mark asks; None if the lens does not react to marks.

        Args:
            request: what was asked before.
            mark: on the picture.
            negative: whether likeness to it counts against a pixel.
            added: whether it is added to the marks of the request, and does not replace them.

        Raises:
            LensError: if that is too many.
        """
        return None

    def label(self, request: RequestT, view: ViewT | None = None) -> str:
        """A request in words, for a list of pictures to export; ``view`` is its answer if there is one."""
        return self.title

    def parse(self, found: re.Match[str]) -> RequestT:
        """The request that a match of :attr:`argument` stands for. Raises LensError."""
        return self.request_type()

    def request_from(self, values: Mapping[str, Any]) -> RequestT:
        """A request from its fields by name, as JSON gives them.

        Raises:
            LensError: for a field that does not exist, or is missing.
        """
        known = {field.name for field in dataclasses.fields(self.request_type)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise LensError(
                f'A request of the lens "{self.name}" has no "{unknown[0]}"; it has: {", ".join(sorted(known))}.'
            )
        try:
            return self.request_type(**{name: _frozen(value) for name, value in values.items()})
        except TypeError as error:
            raise LensError(f'This request of the lens "{self.name}" is not complete: {error}.') from error
