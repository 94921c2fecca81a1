"""For all tests: OpenMP spins briefly, set before torch is loaded by any of them (decision 0006)."""

import os
import sys

import pytest

import featup_app  # noqa: F401

if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


@pytest.fixture(scope="module")
def one_thread():
    """A second thread brings nothing for small maps, and beside other programs it costs much."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
