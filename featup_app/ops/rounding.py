"""Window weights in half the bytes: float16 whose sum over the window is that of the float32 weights.

After its first picture, the cost of a lens is reading the weights. The rounding error of each tap is carried to the next tap,
so that a constant map stays constant; with independent rounding it would get a grain.
"""

from __future__ import annotations

import torch
from torch import Tensor

from featup_app.ops.calls import call, handles, threads_for
from featup_app.ops.layout import with_adjacent_columns

ROUNDED = torch.float16
ROUNDED_BYTES = 2


def round_weights(weights: Tensor) -> Tensor:
    """(B, k * k, H, W) weights in float32 -> the same in float16, within one unit in the last place of each.

    Args:
        weights: smaller than 65504, on any device; not differentiable.

    Raises:
        RuntimeError: if the weights are not float32 of that shape.
    """
    if weights.dtype != torch.float32 or weights.dim() != 4:
        raise RuntimeError(
            f"weights has shape {tuple(weights.shape)} and dtype {weights.dtype}; expected four dimensions in float32"
        )
    if weights.device.type == "cpu" and handles(weights):
        rounded: Tensor = round_weights_compiled(weights)
        return rounded
    result = torch.empty(weights.shape, dtype=ROUNDED, device=weights.device)
    carried = torch.zeros_like(weights[:, 0])
    for tap in range(weights.shape[1]):
        wanted = weights[:, tap] + carried
        result[:, tap] = wanted
        carried = wanted - result[:, tap]
    return result


@torch.library.custom_op("featup::round_weights", mutates_args=(), device_types="cpu")
def round_weights_compiled(weights: Tensor) -> Tensor:
    """See :func:`round_weights`."""
    result = torch.empty(weights.shape, dtype=ROUNDED)
    call("featup_round_weights", with_adjacent_columns(weights), result, threads_for(weights.numel()))
    return result


@round_weights_compiled.register_fake
def _(weights: Tensor) -> Tensor:
    return torch.empty(weights.shape, dtype=ROUNDED, device=weights.device)
