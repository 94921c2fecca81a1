"""FeatUp: the deep features of an image at the resolution of the image, as an application, commands and a library.

    image = featup_app.load_image("cat.jpg")
    features = featup_app.load_backbone("dinov2-s14-imgfocus").extract(image)
    field = featup_app.upsample(features)
    picture = featup_app.lenses.pca(field, size=image.size_hw)

Importing this package imports no torch; the first use of a name that needs it does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from featup_app.base import openmp  # noqa: F401 - sets how OpenMP waits, before torch is loaded

if TYPE_CHECKING:
    from featup_app import lenses, marks, ops
    from featup_app.backbones import Backbone, list_backbones, load_backbone
    from featup_app.base.errors import FeatUpError
    from featup_app.export import export_features, load_export
    from featup_app.features import FeatureMap, Geometry, Region
    from featup_app.fields import FeatureField, JBUStack, Upsampler, load_upsampler, upsample
    from featup_app.images import Image, load_image

    __version__: str

__all__ = [
    "Backbone",
    "FeatUpError",
    "FeatureField",
    "FeatureMap",
    "Geometry",
    "Image",
    "JBUStack",
    "Region",
    "Upsampler",
    "__version__",
    "export_features",
    "lenses",
    "list_backbones",
    "load_backbone",
    "load_export",
    "load_image",
    "load_upsampler",
    "marks",
    "ops",
    "upsample",
]

_HOMES = {
    "Backbone": "backbones",
    "FeatUpError": "base.errors",
    "FeatureField": "fields",
    "FeatureMap": "features",
    "Geometry": "features",
    "Image": "images",
    "JBUStack": "fields",
    "Region": "features",
    "Upsampler": "fields",
    "export_features": "export",
    "list_backbones": "backbones",
    "load_backbone": "backbones",
    "load_export": "export",
    "load_image": "images",
    "load_upsampler": "fields",
    "upsample": "fields",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in ("lenses", "marks", "ops"):
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    try:
        return importlib.metadata.version("featup-app")
    except importlib.metadata.PackageNotFoundError:
        return "0 (not installed)"
