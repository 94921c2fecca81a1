"""The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, against plain loops in C++."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "native" / "tests" / "run_sanitizers.sh"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the script is for Linux")
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="needs a C++ compiler")
def test_kernels_stay_inside_their_memory_and_are_defined(tmp_path):
    result = subprocess.run([SCRIPT, tmp_path], capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 failures" in result.stdout
