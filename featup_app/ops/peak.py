"""The yardstick of arithmetic: multiplications and additions in registers, by the instructions that the operators use."""

from __future__ import annotations

import ctypes

import torch

from featup_app.ops.calls import call


def multiply_add(rounds: int) -> float:
    """Let every thread of torch multiply and add float32 numbers that never leave its registers.

    Args:
        rounds: how often each thread goes over its vectors; a million take some milliseconds.

    Returns:
        The number of multiplications and additions that were done, a fused one counting as two.

    Raises:
        RuntimeError: if the compiled operators are switched off or cannot be had, or ``rounds`` is below 0.
    """
    operations = ctypes.c_double()
    call("featup_multiply_add", rounds, torch.get_num_threads(), ctypes.byref(operations))
    return operations.value
