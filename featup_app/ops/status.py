"""Which implementation of the operators runs, in words; written into exports and shown in About. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NativeStatus:
    """``backend`` is a short name for status bars, ``detail`` a sentence."""

    backend: str
    detail: str


def native_status() -> NativeStatus:
    """What computes the window sums of the joint bilateral upsampler in this process."""
    return NativeStatus(
        "torch", "The upsampling operators run as plain torch code; no compiled library is part of this version."
    )
