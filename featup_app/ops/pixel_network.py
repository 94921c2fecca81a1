"""A network of two layers that is applied to every pixel; the learned range kernel has two of them.

Where nothing is differentiated, the compiled library computes both layers for a block of pixels before the next block, so that
the hidden values are never written to memory. A pixel's result depends, to the last bit, only on its own input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.ops.calls import call, handles, threads_for
from featup_app.ops.layout import with_adjacent_columns


def pixel_network(
    first: Tensor, second: Tensor | None, layers: tuple[nn.Conv2d, nn.Conv2d], *, skip: bool = False, scale: float = 1.0
) -> Tensor:
    """Apply 1x1 convolution, GELU and 1x1 convolution to a map, without dropout.

    Args:
        first: (B, I, H, W).
        second: (B, J, H, W), further input channels; None for none.
        layers: two 1x1 convolutions with bias, (I + J) -> hidden and hidden -> O.
        skip: whether ``first`` (then I = O) is added to the result.
        scale: factor of the network's output.

    Returns:
        (B, O, H, W): ``scale * network([first, second])``, plus ``first`` with ``skip``. Differentiable.
    """
    inputs = (first,) if second is None else (first, second)
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias) if parameter is not None]
    differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*inputs, *parameters))
    plain = all(tensor.device.type == "cpu" and tensor.dtype == first.dtype for tensor in (*inputs, *parameters))
    compiled = not differentiated and plain and len(parameters) == 4 and first.dtype in (torch.float32, torch.float64)
    if compiled and handles(*inputs):
        extra = first[:, :0] if second is None else second
        flat = [parameter.detach().flatten() for parameter in parameters]
        result: Tensor = pixel_network_planes(first, extra, *flat, 1.0 if skip else 0.0, scale)
        return result
    hidden = F.gelu(layers[0](torch.cat(inputs, dim=1)))
    output: Tensor = scale * layers[1](hidden)
    return first + output if skip else output


@torch.library.custom_op("featup::pixel_network", mutates_args=(), device_types="cpu")
def pixel_network_planes(
    first: Tensor,
    second: Tensor,
    weights1: Tensor,
    bias1: Tensor,
    weights2: Tensor,
    bias2: Tensor,
    skip: float,
    scale: float,
) -> Tensor:
    """See :func:`pixel_network`; weights row by row as flat tensors, ``skip`` the factor of ``first``."""
    hidden, outputs = len(bias1), len(bias2)
    batch, _, height, width = first.shape
    result = first.new_empty((batch, outputs, height, width))
    maps = [with_adjacent_columns(tensor) for tensor in (first, second)]
    shapes = ((hidden, -1), (1, hidden), (outputs, hidden), (1, outputs))
    tables = [
        tensor.contiguous().view(1, 1, *shape)
        for tensor, shape in zip((weights1, bias1, weights2, bias2), shapes, strict=True)
    ]
    threads = threads_for(weights1.numel() * batch * height * width)
    call("featup_pixel_network", *maps, *tables, result, skip, scale, threads)
    return result


@pixel_network_planes.register_fake
def _(
    first: Tensor,
    second: Tensor,
    weights1: Tensor,
    bias1: Tensor,
    weights2: Tensor,
    bias2: Tensor,
    skip: float,
    scale: float,
) -> Tensor:
    return first.new_empty((first.shape[0], len(bias2), *first.shape[2:]))
