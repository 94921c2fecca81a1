"""Checks of types and devices that the public operators share. Every message begins with the name of the argument."""

from __future__ import annotations

import torch
from torch import Tensor


def check_real(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is not of a floating point type.

    Raises:
        RuntimeError: naming the argument.
    """
    if not tensor.is_floating_point():
        raise RuntimeError(f"{name} has dtype {tensor.dtype}; expected a floating point type")


def check_alike(name: str, tensor: Tensor, leader_name: str, leader: Tensor) -> None:
    """Refuse a tensor on another device than the leader, and float64 beside any other type.

    Raises:
        RuntimeError: naming the argument.
    """
    if tensor.device != leader.device:
        raise RuntimeError(f"{name} is on {tensor.device}; {leader_name} is on {leader.device}")
    if tensor.dtype != leader.dtype and torch.float64 in (tensor.dtype, leader.dtype):
        raise RuntimeError(f"{name} has dtype {tensor.dtype}; {leader_name} has {leader.dtype}")
