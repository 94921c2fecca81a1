"""The peak memory of a call: on Linux by resetting the peak, on Windows by exceeding it, elsewhere not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from featup_app.base import peak_memory


def zeros() -> np.ndarray:
    return np.zeros(250_000)


@pytest.mark.parametrize(("peaks", "expected"), [((10, 90), pytest.approx(48)), ((90, 90), None)])
def test_on_windows_a_call_counts_that_exceeds_every_earlier_one(monkeypatch, peaks, expected):
    found = iter(peaks)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(peak_memory, "_peak_bytes", lambda: next(found) * 10**6)
    monkeypatch.setattr(peak_memory, "process_bytes", lambda: 40 * 10**6)
    assert peak_memory.extra_megabytes(zeros) == expected


def test_a_system_without_a_peak_that_can_be_reset_reports_none(monkeypatch):
    monkeypatch.setattr(peak_memory, "_PROC", Path("/nowhere"))
    assert peak_memory.extra_megabytes(zeros) is None
