"""Whether the computer has power and time for work that nobody waits for. Imports no torch."""

from __future__ import annotations

import psutil

MOST_LOAD = 50.0
"""Percent of the processor that other work may use."""


def on_battery() -> bool:
    """Whether the computer runs on its battery; False where that is not known, or where there is none."""
    read = getattr(psutil, "sensors_battery", None)  # missing on some systems
    battery = None if read is None else read()
    return bool(battery is not None and battery.power_plugged is False)


def processor_free() -> bool:
    """Whether the processor had little to do since the last call; at the first call it is not known, and False."""
    load: float = psutil.cpu_percent(interval=None)
    return 0.0 < load <= MOST_LOAD
