"""Where the cells of a convolutional network look: how far their receptive fields' centres lie from the cells' centres.

A convolution or pooling with kernel k and stride s that pads p on the left reads, for output cell j, the inputs from
``j s - p`` on; the middle of what it reads lies ``(k - s) / 2 - p`` input cells right of the middle of the s inputs
that the cell covers. Through a chain these shifts add up, each in units of the resolution it happens at. A 3x3 kernel
with stride 2 shifts by +0.5 with TensorFlow's "SAME" padding (which pads the right side first) and by -0.5 with one
cell on each side: at stride 32 that is about half a cell, 15.5 pixels, to one side or the other. Patches side by side
do not shift.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

_SIDE_BRANCHES = ("downsample", "shortcut", "skip", "se")


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) else (int(value), int(value))


def _shift(module: torch.nn.Module, input_hw: tuple[int, int]) -> tuple[float, float] | None:
    """(x, y) shift in input cells by one module, or None if it does not stride."""
    if isinstance(module, torch.nn.Conv2d | torch.nn.MaxPool2d | torch.nn.AvgPool2d):
        stride, kernel = _pair(module.stride), _pair(module.kernel_size)
        dilation = _pair(getattr(module, "dilation", 1))
        padding: Any = module.padding
        if isinstance(padding, str):
            return None  # torch allows words only without stride
        pads = _pair(padding)
    elif hasattr(module, "filt_size") and hasattr(module, "stride"):  # timm's BlurPool2d
        stride, kernel, dilation = _pair(module.stride), _pair(module.filt_size), (1, 1)
        pads = ((kernel[0] + stride[0] - 2) // 2, (kernel[1] + stride[1] - 2) // 2)
    else:
        return None
    if max(stride) == 1:
        return None
    same = type(module).__name__.endswith("Same")  # timm's Conv2dSame, MaxPool2dSame ...: padded at run time
    shifts = []
    for size, s, k, d, pad in zip(input_hw, stride, kernel, dilation, pads, strict=True):
        extent = (k - 1) * d + 1
        left = max((-(-size // s) - 1) * s + extent - size, 0) // 2 if same else pad
        shifts.append((extent - s) / 2 - left)
    return shifts[1], shifts[0]


def receptive_offsets(model: torch.nn.Module, strides: Sequence[int], channels: int = 3) -> list[tuple[float, float]]:
    """For each of these strides, how far (x, y), in its cells, receptive fields lie right of and below the cells.

    Runs the model once on a small empty picture to see in which order it strides; side branches are left out.
    """
    side = 2 * max(strides)
    levels: dict[int, list[tuple[float, float]]] = defaultdict(list)
    handles = []

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].dim() == 4:
            size = int(inputs[0].shape[2]), int(inputs[0].shape[3])
            shift = _shift(module, size) if min(size) > 1 else None
            if shift is not None:
                levels[side // size[0]].append(shift)

    for name, module in model.named_modules():
        if not set(name.split(".")) & set(_SIDE_BRANCHES):
            handles.append(module.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            model.forward_features(torch.zeros(1, channels, side, side, device=next(model.parameters()).device))  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    result = []
    for stride in strides:
        x = y = 0.0
        for at, shifts in levels.items():
            if at < stride:
                x += at * sum(shift[0] for shift in shifts) / len(shifts)
                y += at * sum(shift[1] for shift in shifts) / len(shifts)
        result.append((x / stride, y / stride))
    return result
