"""Upsamplers: from a feature map to a field of features at any point and any size. Importing this room imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.base.lazily import lazy_names
from featup_app.fields.registry import CLASSICAL, DEFAULT_METHOD, METHODS, Method, find_method, upsample

if TYPE_CHECKING:
    from featup_app.fields.bilinear import BilinearField
    from featup_app.fields.carafe import CarafeNetwork
    from featup_app.fields.field import FeatureField
    from featup_app.fields.jbu import JBUField
    from featup_app.fields.jbu_stack import JBUStack
    from featup_app.fields.lowres import LowResField
    from featup_app.fields.resize_conv import ResizeConvNetwork
    from featup_app.fields.sapa import SapaNetwork
    from featup_app.fields.upsampler import Upsampler
    from featup_app.fields.upsampler_files import load_upsampler, save_upsampler
    from featup_app.fields.weights import default_upsampler

__all__ = [
    "CLASSICAL",
    "DEFAULT_METHOD",
    "METHODS",
    "BilinearField",
    "CarafeNetwork",
    "FeatureField",
    "JBUField",
    "JBUStack",
    "LowResField",
    "Method",
    "ResizeConvNetwork",
    "SapaNetwork",
    "Upsampler",
    "default_upsampler",
    "find_method",
    "load_upsampler",
    "save_upsampler",
    "upsample",
]

__getattr__ = lazy_names(
    __name__,
    {
        "FeatureField": "field",
        "JBUField": "jbu",
        "JBUStack": "jbu_stack",
        "BilinearField": "bilinear",
        "CarafeNetwork": "carafe",
        "LowResField": "lowres",
        "ResizeConvNetwork": "resize_conv",
        "SapaNetwork": "sapa",
        "Upsampler": "upsampler",
        "default_upsampler": "weights",
        "load_upsampler": "upsampler_files",
        "save_upsampler": "upsampler_files",
    },
)
