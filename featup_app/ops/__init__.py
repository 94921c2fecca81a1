"""The operators that take most of the time of upsampling: public names, and the choice of implementation.

Every operator has a reference in plain torch (``ops.reference``), which the tests also compare with, and compiled code
(``ops.native_operators``) where the library can be used. Importing this room imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.base.lazily import lazy_names
from featup_app.ops.status import NativeStatus, native_status

if TYPE_CHECKING:
    from featup_app.ops.attention import cell_attention, cell_attention_weights
    from featup_app.ops.operators import (
        adaptive_conv,
        bilateral_weights,
        jbu_weights,
        range_softmax,
        window_dot,
        window_sum,
    )

__all__ = [
    "NativeStatus",
    "adaptive_conv",
    "bilateral_weights",
    "cell_attention",
    "cell_attention_weights",
    "jbu_weights",
    "native_status",
    "range_softmax",
    "window_dot",
    "window_sum",
]

_OPERATORS = ("adaptive_conv", "bilateral_weights", "jbu_weights", "range_softmax", "window_dot", "window_sum")
_ATTENTION = ("cell_attention", "cell_attention_weights")
__getattr__ = lazy_names(__name__, {**dict.fromkeys(_OPERATORS, "operators"), **dict.fromkeys(_ATTENTION, "attention")})
