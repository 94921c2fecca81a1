"""The peak rate of arithmetic counts its operations correctly, in every instruction set."""

from __future__ import annotations

import time

import pytest
import torch

from featup_app.ops import loading
from featup_app.ops.peak import multiply_add

LANES = {"baseline": 4, "AVX2": 8, "AVX-512": 16}


@pytest.mark.parametrize("name", LANES)
def test_operations_are_counted_and_done(name):
    library = loading.library()
    if library is None:
        pytest.skip("needs the compiled operators, which this installation lacks")
    if library.featup_use_instruction_set(name.encode()) is not None:
        pytest.skip(f"this processor has no {name}")
    try:
        one = multiply_add(1)
        assert one >= 2 * LANES[name] * torch.get_num_threads()
        assert multiply_add(0) == 0
        assert multiply_add(1000) == 1000 * one
        rounds = 2_000_000
        begun = time.perf_counter()
        operations = multiply_add(rounds) / torch.get_num_threads()
        # No processor does this in less: 1000 operations in a nanosecond would be a loop that the compiler left out.
        assert operations / (time.perf_counter() - begun) < 1e12
    finally:
        library.featup_use_instruction_set(b"best")


def test_bad_arguments_are_refused_in_words():
    if loading.library() is None:
        pytest.skip("needs the compiled operators, which this installation lacks")
    with pytest.raises(RuntimeError, match="rounds is -1"):
        multiply_add(-1)
