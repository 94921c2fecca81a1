"""How maps lie in memory, and the precision that they are computed in, as the compiled operators expect it.

Many channels lie next to each other (channels last), few as planes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FEW_CHANNELS = 8
"""Up to so many channels are summed in planes. As kFewChannels in native/cpu/kernels.hpp."""

_HALVES = (torch.float16, torch.bfloat16)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself, or in float32 if it has 16 bits."""
    return tensor.float() if tensor.dtype in _HALVES else tensor


def empty_map(source: Tensor, height: int, width: int) -> Tensor:
    """Memory for (B, C, height, width) in the dtype and on the device of ``source``: channels last if there are many."""
    layout = torch.channels_last if source.shape[1] > FEW_CHANNELS else torch.contiguous_format
    shape = (source.shape[0], source.shape[1], height, width)
    return torch.empty(shape, dtype=source.dtype, device=source.device, memory_format=layout)


def empty_in_layout_of(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Memory for a result of this shape: in the layout of an input, but contiguous on CUDA and for few channels."""
    last = like.device.type != "cuda" and like.shape[1] > FEW_CHANNELS and like.stride(1) == 1
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=layout)


def has_layout(tensor: Tensor) -> bool:
    """Whether a (B, C, H, W) map has the layout of :func:`empty_map`; gaps between its rows are allowed."""
    return tensor.stride(1 if tensor.shape[1] > FEW_CHANNELS else 3) == 1


def in_layout(tensor: Tensor) -> Tensor:
    """The map itself if it has the layout of :func:`empty_map`, or a copy that does."""
    return tensor if has_layout(tensor) else empty_map(tensor, *tensor.shape[2:]).copy_(tensor)


def with_adjacent_columns(tensor: Tensor) -> Tensor:
    """The map itself if the columns of a row lie next to each other, or a contiguous copy."""
    return tensor if tensor.stride(3) == 1 else tensor.contiguous()
