"""The operators that upsampling spends its time in: public names and the choice of implementation.

Every operator has a reference in plain torch (``ops.reference``), which is also the oracle of the tests. Importing this room
imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featup_app.ops.status import NativeStatus, native_status

if TYPE_CHECKING:
    from featup_app.ops.reference import adaptive_conv, range_softmax, window_sum

__all__ = ["NativeStatus", "adaptive_conv", "native_status", "range_softmax", "window_sum"]


def __getattr__(name: str) -> Any:
    if name in ("adaptive_conv", "range_softmax", "window_sum"):
        from featup_app.ops import reference

        return getattr(reference, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
