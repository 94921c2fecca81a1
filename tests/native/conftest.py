"""CUDA operators without a device: the library compiled under the emulation, with CPU tensors in place of CUDA tensors."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from featup_app.ops import cuda

SCRIPT = Path(__file__).resolve().parents[2] / "native" / "tests" / "emulation" / "run.sh"


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory) -> ctypes.CDLL:
    if sys.platform != "linux" or shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("the emulation needs GCC on Linux")
    environment = os.environ | {"EMULATION_BUILD": str(tmp_path_factory.mktemp("emulation"))}
    done = subprocess.run(
        [str(SCRIPT), "library"], capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return cuda._library.open(Path(done.stdout.strip()))


@pytest.fixture
def unloaded(monkeypatch) -> None:
    """As if nobody had asked for the CUDA library yet."""
    monkeypatch.setenv("FEATUP_NATIVE", "auto")
    monkeypatch.setattr(cuda._library, "loaded", None)
    monkeypatch.setattr(cuda._library, "failure", None)
    monkeypatch.setattr(cuda, "_device_problems", {})
    monkeypatch.setattr(cuda, "_sentence", None)


@pytest.fixture
def emulated(emulated_library, unloaded, monkeypatch) -> ctypes.CDLL:
    """The emulated library is loaded, and the wrappers take CPU tensors."""
    monkeypatch.setattr(cuda._library, "loaded", emulated_library)
    monkeypatch.setattr(cuda, "_DEVICE_TYPE", "cpu")
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    return emulated_library
