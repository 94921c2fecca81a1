"""The upsampling methods by name. Imports no torch, so that menus can be filled before it is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featup_app.errors import UpsamplerError

if TYPE_CHECKING:
    from featup_app.features import FeatureMap
    from featup_app.fields.field import FeatureField
    from featup_app.images import Image


@dataclass(frozen=True)
class Method:
    """An upsampling method as a menu shows it: name for commands and files, title, one sentence, names of its options."""

    name: str
    title: str
    description: str
    options: tuple[str, ...] = ()


METHODS: tuple[Method, ...] = (
    Method("lowres", "Low-res", "The features as the backbone gives them, one square per cell."),
    Method("bilinear", "Bilinear", "Linear interpolation between the cells: smooth, blind to the edges in the image."),
    Method(
        "jbu",
        "FeatUp JBU",
        "Joint bilateral upsampling: repeated guided doublings that follow the edges of the image. "
        "Classical weights, nothing trained.",
        options=("stack", "sigma_spatial", "sigma_range"),
    ),
)


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


def upsample(features: FeatureMap, image: Image | None = None, method: str = "jbu", **options: Any) -> FeatureField:
    """A field of the features at any size.

    Args:
        features: the low-resolution map.
        image: the picture that guides; the one that the features were made of, if not given.
        method: a name in :data:`METHODS`.
        options: of the method. ``jbu``: ``stack`` (a :class:`JBUStack` for the learned form), or ``sigma_spatial`` and
            ``sigma_range`` for the classical form.

    Raises:
        UpsamplerError: for an unknown method or option, an image of another size, or a stack for other channels.
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
    if method == "lowres":
        from featup_app.fields.plain import LowResField

        return LowResField(features)
    if method == "bilinear":
        from featup_app.fields.plain import BilinearField

        return BilinearField(features)
    return _jbu(features, image, options)


def _jbu(features: FeatureMap, image: Image, options: dict[str, Any]) -> FeatureField:
    from featup_app.fields.jbu import JBUField

    stack = options.pop("stack", None)
    if stack is None:
        for name, value in options.items():
            if not float(value) > 0:
                raise UpsamplerError(f'The option "{name}" of jbu is {value}; it must be greater than zero.')
        return JBUField.classical(features, image, **options)
    if options:
        raise UpsamplerError(f'A learned stack has its own weights; leave out the option "{next(iter(options))}".')
    try:
        return JBUField.learned(features, image, stack)
    except ValueError as error:
        raise UpsamplerError(f"The upsampler does not fit: {error}. Train or load one for this backbone.") from error
