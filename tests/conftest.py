"""For all tests: OpenMP spins briefly, set before torch is loaded by any of them (decision 0006), and memory is freed.

The whole suite runs in one process, which is meant to stay below 3 GB.
"""

import gc
import os
import sys
from collections.abc import Iterator

import pytest

import featup_app  # noqa: F401
from featup_app.base.peak_memory import release_free_memory

if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


def pytest_collection_finish() -> None:
    """Imported modules and collected tests, half a million objects, live to the end: the collector can skip them from now on."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _free_memory() -> Iterator[None]:
    """Free what the tests of a module left: windows and sessions hold each other in cycles, and the C library keeps gaps."""
    yield
    gc.collect()
    release_free_memory()


@pytest.fixture(scope="module")
def one_thread():
    """A second thread brings nothing for small maps, and beside other programs it costs much."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
