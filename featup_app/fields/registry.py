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
        "Joint bilateral upsampling: repeated guided doublings that follow the edges of the image. Uses the weights that "
        "you load; else bundled ones trained for the backbone or for all backbones; else classical ones, untrained.",
        options=("upsampler", "kernel", "stack", "sigma_spatial", "sigma_range"),
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
        options: of the method. ``jbu``: ``upsampler`` (a loaded :class:`Upsampler` or the path of its file), or ``stack`` (a
            bare :class:`JBUStack`), or ``kernel="classical"`` for the untrained form, perhaps with ``sigma_spatial`` and
            ``sigma_range``. With none of them, :func:`default_upsampler` decides.

    Raises:
        UpsamplerError: for an unknown method or option, options that exclude each other, an image of another size, or weights
            for other channels or another backbone.
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
    from featup_app.fields.upsampler import Upsampler
    from featup_app.fields.upsampler_files import default_upsampler, load_upsampler

    given = {name: value for name, value in options.items() if value is not None}
    widths = {name: given[name] for name in ("sigma_spatial", "sigma_range") if name in given}
    forms = [name for name in ("upsampler", "stack", "kernel") if name in given] or list(widths)[:1]
    if len(forms) > 1:
        raise UpsamplerError(f'The options "{forms[0]}" and "{forms[1]}" of jbu exclude each other; give one of them.')
    if given.get("kernel", "classical") != "classical":
        raise UpsamplerError(
            f'The option "kernel" of jbu is "{given["kernel"]}"; the only one to choose is "classical".'
        )
    if widths and forms[0] in ("upsampler", "stack"):
        raise UpsamplerError(f'Learned weights have widths of their own; leave out the option "{next(iter(widths))}".')
    for name, value in widths.items():
        if not float(value) > 0:
            raise UpsamplerError(f'The option "{name}" of jbu is {value}; it must be greater than zero.')
    if "stack" in given:
        try:
            return JBUField.learned(features, image, given["stack"])
        except ValueError as error:
            raise UpsamplerError(
                f"The upsampler does not fit: {error}. Train or load one for this backbone."
            ) from error
    names = features.provenance.get("backbone"), features.layer, features.channels
    upsampler = given.get("upsampler") if forms else default_upsampler(*names)
    if upsampler is None:
        return JBUField.classical(features, image, **widths)
    if not isinstance(upsampler, Upsampler):
        upsampler = load_upsampler(upsampler)
    upsampler.check_fits(*names)
    return JBUField.learned(
        upsampler.normalised(features),
        image,
        upsampler.on(features.data.device),
        universal=upsampler.universal,
        settings={"upsampler": upsampler.facts()},
    )
