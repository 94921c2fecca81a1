"""Upsamplers: from a feature map to a field of features at any point and any size. Importing this room imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from featup_app.fields.registry import METHODS, Method, find_method, upsample

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

_HOMES = {
    "FeatureField": "field",
    "JBUField": "jbu",
    "JBUStack": "jbu_stack",
    "BilinearField": "plain",
    "LowResField": "plain",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
