"""Upsamplers: from a feature map to a field of features at any point and any size. Importing this room imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.fields.registry import METHODS, Method, find_method, upsample
from featup_app.lazily import lazy_names

if TYPE_CHECKING:
    from featup_app.fields.field import FeatureField
    from featup_app.fields.jbu import JBUField
    from featup_app.fields.jbu_stack import JBUStack
    from featup_app.fields.plain import BilinearField, LowResField

__all__ = [
    "METHODS",
    "BilinearField",
    "FeatureField",
    "JBUField",
    "JBUStack",
    "LowResField",
    "Method",
    "find_method",
    "upsample",
]

__getattr__ = lazy_names(
    __name__,
    {
        "FeatureField": "field",
        "JBUField": "jbu",
        "JBUStack": "jbu_stack",
        "BilinearField": "plain",
        "LowResField": "plain",
    },
)
