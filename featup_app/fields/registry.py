"""The upsampling methods by name. Imports no torch, so that menus can be filled before torch is loaded.

A method is one module of this room, named like the method, with a function
``make_field(features, image, options, progress) -> FeatureField`` that checks its options, and one entry in :data:`METHODS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from featup_app.base.errors import UpsamplerError
from featup_app.base.progress import Progress, silent

if TYPE_CHECKING:
    from featup_app.features import FeatureMap
    from featup_app.fields.field import FeatureField
    from featup_app.images import Image


STAGES = 4
"""Doublings that trained upsamplers learn: sixteen times the grid, as in FeatUp."""

DEFAULT_METHOD = "attention"
"""What the window opens with, and what all rooms use where nobody chose: it leads in what people do (decision 0086)."""

CLASSICAL = "classical"
"""Chosen instead of a file with weights: the untrained form of joint bilateral upsampling."""


@dataclass(frozen=True)
class Method:
    """An entry of the list of upsampling methods.

    Attributes:
        name: for commands and files.
        title: for menus.
        description: a sentence or two.
        options: names of the options that it takes.
        runs_backbone: whether it runs the backbone again, so that it cannot upsample a map that comes without its backbone.
        fitted: whether it fits a network to each image, which takes seconds to minutes.
        module: full name of the module that makes its fields; the one in this room with the method's name if not given.
    """

    name: str
    title: str
    description: str
    options: tuple[str, ...] = ()
    runs_backbone: bool = False
    fitted: bool = False
    module: str = ""

    def __post_init__(self) -> None:
        if not self.module:
            object.__setattr__(self, "module", f"featup_app.fields.{self.name}")

    @property
    def takes_weights(self) -> bool:
        """Whether it uses trained weights, which a person may choose: then one of its options is ``upsampler``."""
        return "upsampler" in self.options

    @property
    def has_classical(self) -> bool:
        """Whether its untrained form is a method of its own, called :data:`CLASSICAL`: then one of its options is ``kernel``."""
        return "kernel" in self.options

    @property
    def restores(self) -> bool:
        """Whether it applies the restoration of bundled weights: then one of its options is ``restoration``."""
        return "restoration" in self.options

    @property
    def takes_fit(self) -> bool:
        """Whether a file with an earlier fit to the image can be given: then one of its options is ``fit``."""
        return "fit" in self.options

    @property
    def quick(self) -> bool:
        """Whether a field costs almost nothing to make, so that the program may make one unasked."""
        return not (self.runs_backbone or self.fitted)


METHODS: list[Method] = [
    Method("lowres", "Low-res", "The features of the backbone without upsampling, one square per cell."),
    Method("bilinear", "Bilinear", "Linear interpolation between the cells: smooth, blind to the edges in the image."),
    Method(
        "resize_conv",
        "Resize-conv",
        "Bilinear doublings, each followed by a convolution of features and image. Nothing ties it to the given features, so "
        "that it also shrinks them towards their mean. Uses the weights that you load, else bundled ones for the backbone; "
        "without any it is untrained, which is bilinear.",
        options=("upsampler", "trained"),
    ),
    Method(
        "dip",
        "Deep image prior",
        "A small network, fitted to the features of this image alone, computes the fine map from noise: smooth, blind to edges "
        "in the image. Takes seconds.",
        options=("steps", "seed"),
        fitted=True,
    ),
    Method(
        "strided",
        "Strided",
        "The backbone itself with a smaller stride: overlapping patches, or later strides left out. Slower by more than the "
        "square of the factor.",
        options=("factor",),
        runs_backbone=True,
    ),
    Method(
        "large_image",
        "Large image",
        "The backbone on an enlarged image, so that each cell covers less of it; sees finer things and less of their "
        "surroundings.",
        options=("factor", "memory_budget"),
        runs_backbone=True,
    ),
    Method(
        "carafe",
        "CARAFE",
        "Repeated doublings in which each cell is a mean of the 5x5 coarse cells around it, with weights that the features "
        "themselves predict; the image is not used. Uses the weights that you load, else bundled ones for the backbone; "
        "without any it is untrained and as good as bilinear.",
        options=("upsampler", "trained"),
    ),
    Method(
        "sapa",
        "SAPA",
        "Repeated doublings in which each cell is a mean of the 5x5 coarse cells around it, weighted by how well their features "
        "match the colour of the image there. Uses the weights that you load, else bundled ones for the backbone; without any "
        "it is untrained and as good as bilinear.",
        options=("upsampler", "trained"),
    ),
    Method(
        "jbu",
        "FeatUp JBU",
        "Joint bilateral upsampling: repeated guided doublings that follow the edges of the image. Uses the weights that "
        "you load; else bundled ones trained for the backbone or for all backbones; else classical ones, untrained.",
        options=("upsampler", "kernel", "stack", "sigma_spatial", "sigma_range"),
    ),
    Method(
        "attention",
        "Attention",
        "Each pixel averages the coarse cells around it that have its colour, in repeated doublings and a last step to any size. "
        "Serves every backbone, and is the quickest that follows edges. The maps of bundled models are first corrected as for "
        "FeatUp JBU.",
        options=("colour", "width", "window", "consistency", "restoration", "positional"),
    ),
    Method(
        "implicit",
        "FeatUp implicit",
        "A small network from position and colour to features, fitted to this image so that it explains what the backbone sees "
        "in many views of it. Takes seconds; any resolution.",
        options=("recipe", "seed", "steps", "seconds", "fit"),
        runs_backbone=True,
        fitted=True,
    ),
    Method(
        "guided_filter",
        "Guided filter",
        "In every window a straight line from the colours of the image to the features: follows its edges, and also its "
        "texture. Nothing is trained.",
        options=("radius", "epsilon"),
    ),
]
"""All methods, in the order of menus."""


def find_method(name: str) -> Method:
    """The method of this name.

    Raises:
        UpsamplerError: naming the methods that there are.
    """
    for method in METHODS:
        if method.name == name:
            return method
    names = ", ".join(method.name for method in METHODS)
    raise UpsamplerError(f'There is no upsampling method "{name}". Choose one of: {names}.')


def upsample(
    features: FeatureMap,
    image: Image | None = None,
    method: str = DEFAULT_METHOD,
    *,
    progress: Progress = silent,
    **options: Any,
) -> FeatureField:
    """A field of the features at any size.

    Args:
        features: the low-resolution map.
        image: the picture that guides; the one that the features were made of, if not given.
        method: a name in :data:`METHODS`.
        progress: called while the method runs the backbone again or fits a network; may cancel.
        options: of the method, named in its entry and explained by ``make_field`` in its module; None means the default.

    Raises:
        UpsamplerError: for an unknown method or option, options that exclude each other, an image of another size, or weights
            for other channels or another backbone.
        BackboneError: if the method runs the backbone again, and that cannot be done.
    """
    entry = find_method(method)
    unknown = sorted(set(options) - set(entry.options))
    if unknown:
        allowed = f"It takes: {', '.join(entry.options)}." if entry.options else "It takes none."
        raise UpsamplerError(f'The method "{method}" has no option "{unknown[0]}". {allowed}')
    image = image or features.image
    if image.size_hw != features.geometry.image_hw:
        height, width = features.geometry.image_hw
        raise UpsamplerError(
            f"The guiding image is {image.size_hw[0]}x{image.size_hw[1]} pixels, but the features were made of one of "
            f"{height}x{width}; give the same image to both."
        )
    if entry.runs_backbone and features.backbone is None:
        raise UpsamplerError(
            f'The features of "{features.image.name}" come without the backbone that made them, and {entry.title} has to run '
            "it again; extract them from the image, or choose another method."
        )
    module = import_module(entry.module)
    given = {name: value for name, value in options.items() if value is not None}
    return cast("FeatureField", module.make_field(features, image, given, progress))
