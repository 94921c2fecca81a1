"""How OpenMP's threads wait is set before torch loads the library, unless a person has set it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os
import featup_app, torch
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "2000 None"),
        ({"OMP_WAIT_POLICY": "active"}, "None active"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
    ],
)
def test_the_package_sets_how_openmp_waits_and_a_persons_choice_wins(chosen, expected):
    inherited = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=inherited | chosen,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected
