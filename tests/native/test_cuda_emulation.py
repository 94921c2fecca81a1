"""The CUDA sources, compiled as C++ under an emulation of blocks and threads, against plain loops and under the sanitizers.

One build serves the clean run and the planted faults, which must be found: else a clean run would say nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "native" / "tests" / "emulation" / "run.sh"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the emulation is built with GCC's sanitizers on Linux"),
    pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler"),
]


@pytest.fixture(scope="module")
def emulation(tmp_path_factory):
    """Runs the script in a build folder that the tests of this module share; a build left by hand is not trusted."""
    environment = os.environ | {"EMULATION_BUILD": str(tmp_path_factory.mktemp("emulation"))}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, timeout=600, check=False
        )

    return run


def passes(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert " checks, 0 failures" in done.stdout
    assert "WARNING" not in done.stderr
    assert "ERROR" not in done.stderr


@pytest.mark.slow
def test_kernels_agree_with_plain_loops(emulation):
    passes(emulation("plain"))


def test_kernels_agree_with_plain_loops_inside_their_memory(emulation):
    passes(emulation("address,undefined"))


@pytest.mark.parametrize("mode", [pytest.param("plain", marks=pytest.mark.slow), "address,undefined"])
def test_a_barrier_that_not_all_threads_reach_is_found(emulation, mode):
    done = emulation(mode, "divergent")
    assert done.returncode == 70, done.stdout + done.stderr
    assert "cuda_emulation: divergent __syncthreads" in done.stderr
    assert "device.cuh" in done.stderr


@pytest.mark.parametrize(("fault", "access"), [("shared", "WRITE of size 4"), ("global", "READ of size 4")])
def test_an_access_beyond_an_array_is_found(emulation, fault, access):
    done = emulation("address,undefined", fault)
    assert done.returncode not in (0, 2), done.stdout
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert access in done.stderr
    assert "load_tile" in done.stderr


def test_a_missing_barrier_is_found(emulation):
    done = emulation("thread", "race")
    assert done.returncode not in (0, 2), done.stdout
    assert "ThreadSanitizer: data race" in done.stderr
    assert "device.cuh" in done.stderr


def test_kernels_do_not_race(emulation):
    passes(emulation("thread", "few"))


@pytest.mark.slow
def test_kernels_do_not_race_in_any_case(emulation):
    passes(emulation("thread"))


def test_an_unknown_mode_is_refused(emulation):
    done = emulation("memory")
    assert done.returncode == 2
    assert "unknown mode memory" in done.stderr
