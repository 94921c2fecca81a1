"""The peak rate of arithmetic: multiplications and additions in registers, with the instructions that the operators use."""

from __future__ import annotations

import ctypes

import torch

from featup_app.ops.calls import call


def multiply_add(rounds: int) -> float:
    """Multiply and add float32 numbers in registers, on every thread of torch.

    Args:
        rounds: number of passes of each thread over its vectors; a million take some milliseconds.

    Returns:
        The number of multiplications and additions; a fused one counts as two.

    Raises:
        RuntimeError: if the compiled operators are switched off or cannot be used, or ``rounds`` is below 0.
    """
    operations = ctypes.c_double()
    call("featup_multiply_add", rounds, torch.get_num_threads(), ctypes.byref(operations))
    return operations.value
