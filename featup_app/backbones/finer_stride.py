"""A backbone run with a smaller stride than it was made for, so that its map has more cells.

Transformers: the patches overlap (Amir et al., "Deep ViT Features as Dense Visual Descriptors", 2021); timm interpolates the
positions to the finer grid. Convolutional networks: the last strides are left out and later kernels are spread by as much
(the *à trous* form; Chen et al., "DeepLab", 2015), so that every cell of the ordinary map reappears among the finer ones.
In both, cell ``(i, j)`` of the ordinary grid is the finer cell ``(scale * i, scale * j)``. While the
model runs, attributes of its modules are overridden; afterwards they are restored, also after an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from featup_app.backbones import heads
from featup_app.backbones.adapter import Backbone
from featup_app.backbones.layers import ATTENTION_INPUT, Layer
from featup_app.base.errors import BackboneError
from featup_app.base.progress import Progress, silent
from featup_app.features import Size
from featup_app.sizes import MAX_INPUT_POSITIONS


@dataclass(frozen=True)
class FinerMap:
    """Features on a finer grid than the backbone's.

    Attributes:
        data: (C, rows, columns) float32.
        scale: finer cells per ordinary cell; cell ``i`` of the ordinary grid is the finer cell ``scale * i``.
        stride: pixels of the resized input from one finer cell to the next.
    """

    data: Tensor
    scale: float
    stride: int


def finer_features(backbone: Backbone, batch: Tensor, layer: str, factor: int, progress: Progress = silent) -> FinerMap:
    """The features of one picture with the backbone's stride divided by a factor.

    Args:
        backbone: some attributes of its modules are overridden during the run and restored afterwards.
        batch: (1, 3, H, W) RGB in 0..1, sides multiples of the backbone's stride.
        layer: name of the layer.
        factor: how many times as fine the grid becomes; where it does not divide the patch, the nearest whole stride is used.
        progress: called between blocks; may cancel.

    Raises:
        BackboneError: if this model's stride cannot be lowered so far, or the finer grid would have too many cells.
    """
    found = backbone.layer(layer)
    stride = round(found.stride / factor)
    if not 0 < stride < found.stride:
        raise BackboneError(
            f'The stride of "{found.name}" of {backbone.name} is {found.stride} pixels and cannot be divided by {factor}; '
            "choose a smaller factor or a later layer."
        )
    cells = (batch.shape[2] // stride) * (batch.shape[3] // stride)
    if cells > MAX_INPUT_POSITIONS:
        raise BackboneError(
            f"A stride of {stride} pixels at an input of {batch.shape[2]}x{batch.shape[3]} gives {cells:,} cells, more than "
            f"the {MAX_INPUT_POSITIONS:,} that fit into memory; choose a smaller factor or a smaller input size."
        )
    run = _overlapping_patches if backbone.is_transformer else _without_last_strides
    try:
        data = run(backbone, batch, found, stride, progress)
    except (AssertionError, RuntimeError, AttributeError, TypeError) as error:
        raise _impossible(backbone, str(error)) from error
    return FinerMap(data.float().contiguous(), found.stride / stride, stride)


def _impossible(backbone: Backbone, reason: str) -> BackboneError:
    reason = reason.strip().splitlines()[0] if reason.strip() else "no reason given"
    return BackboneError(
        f"The stride of {backbone.name} cannot be lowered ({reason}); choose another backbone, or another upsampling method."
    )


def _overlapping_patches(backbone: Backbone, batch: Tensor, layer: Layer, stride: int, progress: Progress) -> Tensor:
    """(C, rows, columns) of a transformer whose patches begin every ``stride`` pixels."""
    embedding = backbone.model.patch_embed
    projection = embedding.proj
    if not isinstance(projection, nn.Conv2d) or projection.kernel_size != projection.stride:
        raise _impossible(backbone, "its patches are not cut out by one convolution")
    patch, ordinary = projection.kernel_size, projection.stride

    def grid_of(size: Size) -> Size:
        return (size[0] - patch[0]) // stride + 1, (size[1] - patch[1]) // stride + 1

    rows, columns = grid_of((batch.shape[2], batch.shape[3]))
    inputs = backbone.normalised(batch)
    projection.stride = (stride, stride)
    embedding.dynamic_feat_size = grid_of  # hides the method of the class, by which timm cuts the tokens into rows
    try:
        with torch.no_grad(), backbone.reporting(progress, layer):
            if layer.name == ATTENTION_INPUT:
                tokens = heads.attention_input(backbone.model, inputs)[:, -rows * columns :]
                return tokens[0].T.reshape(-1, rows, columns)
            options = {"norm": True, "stop_early": True, "output_fmt": "NCHW", "intermediates_only": True}
            (data,) = backbone.model.forward_intermediates(inputs, indices=[layer.index], **options)
    finally:
        projection.stride = ordinary
        del embedding.dynamic_feat_size
    if tuple(data.shape[2:]) != (rows, columns):
        raise _impossible(backbone, f"its map has {data.shape[2]}x{data.shape[3]} cells instead of {rows}x{columns}")
    return data[0]  # type: ignore[no-any-return]


# -- convolutional networks ------------------------------------------------------------------------------------------


def _without_last_strides(backbone: Backbone, batch: Tensor, layer: Layer, stride: int, progress: Progress) -> Tensor:
    """(C, rows, columns) of a convolutional network whose map keeps one cell for every ``stride`` pixels."""
    steps = {
        conv: step
        for conv, step in _input_steps(backbone, batch, layer, progress).items()
        if step * max(conv.stride) > stride
    }
    if layer.stride % stride or any(stride % step and step % stride for step in steps.values()):
        raise _impossible(backbone, f"a stride of {stride} does not divide the {layer.stride} of {layer.name}")
    with contextlib.ExitStack() as overrides:
        for conv, step in steps.items():
            # Exact types: a subclass may change its weights before it uses them.
            if type(conv) not in (nn.Conv2d, Conv2dSame) or isinstance(conv.padding, str):
                raise _impossible(backbone, f"it has convolutions of the kind {type(conv).__name__}")
            overrides.enter_context(_overridden(conv, _spread(conv, step, stride)))
        data = backbone.features(batch, layer.name, progress)[0]
    expected = batch.shape[2] // stride, batch.shape[3] // stride
    if tuple(data.shape[1:]) != expected:
        raise _impossible(
            backbone, f"its map has {data.shape[1]}x{data.shape[2]} cells instead of {expected[0]}x{expected[1]}"
        )
    return data


def _input_steps(backbone: Backbone, batch: Tensor, layer: Layer, progress: Progress) -> dict[nn.Conv2d, int]:
    """For each convolution on the way to a layer: how many input pixels lie between neighbours of the map that it reads."""
    steps: dict[nn.Conv2d, int] = {}
    handles = [
        module.register_forward_pre_hook(lambda conv, args: steps.__setitem__(conv, batch.shape[2] // args[0].shape[2]))
        for module in backbone.model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        backbone.features(batch, layer.name, progress)
    finally:
        for handle in handles:
            handle.remove()
    return {conv: step for conv, step in steps.items() if max(conv.kernel_size) > 1 or max(conv.stride) > 1}


def _spread(conv: nn.Conv2d, step: int, stride: int) -> Callable[[Tensor], Tensor]:
    """The forward function of a convolution that reads a finer map, in which every ``spread``-th cell is an ordinary one.

    The padding before the first cell is ``spread`` times the ordinary one, so that the finer cell ``scale * i`` is the
    ordinary cell ``i``.
    """
    spread = max(1, step // stride)
    own = max(1, stride // step)
    pads: list[int] = []
    for axis in (1, 0):  # the last axis first, as torch pads
        kernel, dilation = conv.kernel_size[axis], conv.dilation[axis]
        reach = (kernel - 1) * dilation
        before = max(0, reach + 1 - conv.stride[axis]) // 2 if isinstance(conv, Conv2dSame) else int(conv.padding[axis])
        pads += [spread * before, max(0, spread * reach + 1 - own - spread * before)]
    # A convolution without padding never reads zeros, so the finer one repeats the border instead.
    mode = "constant" if isinstance(conv, Conv2dSame) or tuple(conv.padding) != (0, 0) else "replicate"
    dilations = conv.dilation[0] * spread, conv.dilation[1] * spread

    def forward(source: Tensor) -> Tensor:
        padded = F.pad(source, pads, mode=mode)
        return F.conv2d(padded, conv.weight, conv.bias, own, 0, dilations, conv.groups)

    return forward


@contextlib.contextmanager
def _overridden(conv: nn.Conv2d, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    conv.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del conv.forward
