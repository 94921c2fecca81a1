"""What one small run of a model shows: the sizes that it accepts, its maps, and the map that its head reads.

timm's models agree on three functions: ``forward_intermediates`` returns maps as (B, C, h, w), ``forward_features`` returns what
the head reads, and ``forward_head`` turns that into scores. What lies between them differs: a last norm or convolution, channels
in the last axis, tokens in a row with others before them. Instead of a table of families, a run on random numbers compares the
values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.layers import LayerNorm, LayerNormFp32, RmsNorm, RmsNormFp32
from torch import Tensor

from featup_app.base.errors import BackboneError
from featup_app.features import Size

MAX_PREFIX_TOKENS = 16
"""More tokens than this before the patches have not been seen: a longer row belongs to another grid."""

SAME_MAP = 1e-4
"""Maps of two runs are the same if they differ by less than this share of their deviation: more than rounding makes of them."""


@dataclass(frozen=True)
class Layout:
    """How a tensor of a model holds a map of C channels on h x w cells.

    Attributes:
        kind: the order of its axes: "NCHW", "NHWC", or "NLC" for a row of tokens.
        prefix: tokens before the first cell; 0 for the other kinds.
    """

    kind: Literal["NCHW", "NHWC", "NLC"]
    prefix: int = 0

    def grid(self, values: Tensor, grid_hw: Size) -> Tensor:
        """The map as (B, C, h, w), without the prefix. ``grid_hw`` cuts a row of tokens; maps have their own grid."""
        if self.kind == "NCHW":
            return values
        if self.kind == "NHWC":
            return values.permute(0, 3, 1, 2)
        cells = values[:, self.prefix :].transpose(1, 2)
        return cells.reshape(*cells.shape[:2], *grid_hw)


def layout_of(values: Any, grid_hw: Size) -> Layout | None:
    """The layout of a tensor that may hold a map on this grid; None if it does not."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        return None
    if values.dim() == 4 and tuple(values.shape[2:]) == grid_hw:
        return Layout("NCHW")
    if values.dim() == 4 and tuple(values.shape[1:3]) == grid_hw:
        return Layout("NHWC")
    prefix = values.shape[1] - grid_hw[0] * grid_hw[1] if values.dim() == 3 else -1
    return Layout("NLC", prefix) if 0 <= prefix <= MAX_PREFIX_TOKENS else None


@dataclass(frozen=True)
class Probe:
    """What the first run of a model showed.

    Attributes:
        inputs: (1, 3, H, W) random numbers at a size that the model accepts.
        fixed_hw: the one size that it accepts, or None.
        channels: of each numbered layer's map.
        grids: (h, w) of each numbered layer's map.
        head_layout: how the output of ``forward_features`` holds a map; None if it is no map of the last grid, or the
            scores are no function of it.
        head_channels: channels of that output.
        head_is_last: whether it is the map of the last numbered layer.
    """

    inputs: Tensor
    fixed_hw: Size | None
    channels: tuple[int, ...]
    grids: tuple[Size, ...]
    head_layout: Layout | None
    head_channels: int
    head_is_last: bool

    @property
    def size_hw(self) -> Size:
        """(H, W) of the inputs."""
        return int(self.inputs.shape[2]), int(self.inputs.shape[3])


def intermediates(
    model: Any, accepted: frozenset[str], inputs: Tensor, indices: Sequence[int], *, norm: bool
) -> list[Tensor]:
    """The maps (B, C, h, w) of numbered layers, with as many of timm's options as this model knows.

    Args:
        model: timm's.
        accepted: names of the arguments of its ``forward_intermediates``.
        inputs: (B, 3, H, W), normalised.
        indices: of the layers, in order.
        norm: whether the last norm is applied to each map, where the model can.
    """
    wanted = {"norm": norm, "stop_early": True, "output_fmt": "NCHW", "intermediates_only": True}
    options = {key: value for key, value in wanted.items() if key in accepted}
    return list(model.forward_intermediates(inputs, indices=list(indices), **options))


def probe(model: Any, accepted: frozenset[str], *, layers: int, stride: int, norm: bool, name: str) -> Probe:
    """Runs a model at a small size, or where it refuses that, at the size for which it was made.

    Args:
        model: timm's, in evaluation mode.
        accepted: names of the arguments of its ``forward_intermediates``.
        layers: how many numbered layers it has.
        stride: the largest one, in pixels.
        norm: whether maps of layers are shown after the last norm.
        name: for the message.

    Raises:
        BackboneError: if it runs at none of these sizes.
    """
    height, width = model.pretrained_cfg.get("input_size", (3, 224, 224))[1:]
    trained = int(height), int(width)
    other = trained[0] + stride, trained[1] + 2 * stride
    failure: Exception | None = None
    for size in ((2 * stride, 3 * stride), (4 * stride, 5 * stride), other, trained):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(1, 3, *size, generator=generator).to(next(model.parameters()).device)
        try:
            with torch.no_grad():
                maps = intermediates(model, accepted, inputs, range(layers), norm=norm)
                read = model.forward_features(inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - models refuse a size in any way: assertions, shapes, indices
            failure = error
            continue
        grid_hw = int(maps[-1].shape[2]), int(maps[-1].shape[3])
        if min(grid_hw) < 1 or (size != trained and grid_hw == _grid_of(size, trained, stride)):
            continue
        return _seen(model, accepted, inputs, trained if size == trained else None, maps, read, norm)
    reason = str(failure).strip().splitlines()[0] if str(failure).strip() else type(failure).__name__
    raise BackboneError(f"The backbone {name} does not run ({reason}); choose another backbone.") from failure


def _grid_of(size: Size, trained: Size, stride: int) -> Size | None:
    """The grid of the trained size, if that of another size has to differ from it: such a model resizes its input."""
    usual = trained[0] // stride, trained[1] // stride
    return usual if usual != (size[0] // stride, size[1] // stride) else None


def _seen(
    model: Any,
    accepted: frozenset[str],
    inputs: Tensor,
    fixed_hw: Size | None,
    maps: Sequence[Tensor],
    read: Any,
    norm: bool,
) -> Probe:
    last = maps[-1]
    grid_hw = int(last.shape[2]), int(last.shape[3])
    layout = layout_of(read, grid_hw)
    is_last = False
    if layout is not None:
        grid = layout.grid(read, grid_hw)
        is_last = same(grid, last)
        if layout.kind == "NLC" and not is_last:
            # The order of a row of tokens is the model's own business; it is trusted where the normalised map has it.
            with torch.no_grad():
                (normed,) = intermediates(model, accepted, inputs, [len(maps) - 1], norm=not norm)
            layout = layout if same(grid, normed) else None
        if layout is not None and int(getattr(model, "num_classes", 0) or 0):
            with torch.no_grad():
                whole, parts = model(inputs), model.forward_head(read.clone())
            layout = layout if isinstance(parts, Tensor) and same(parts, whole) else None
            is_last = is_last and layout is not None
    return Probe(
        inputs=inputs,
        fixed_hw=fixed_hw,
        channels=tuple(int(values.shape[1]) for values in maps),
        grids=tuple((int(values.shape[2]), int(values.shape[3])) for values in maps),
        head_layout=layout,
        head_channels=0 if layout is None else int(layout.grid(read, grid_hw).shape[1]),
        head_is_last=is_last,
    )


def distance(first: Tensor, second: Tensor) -> float:
    """The largest difference between two tensors as a share of the second one's deviation; infinite for other shapes."""
    if first.shape != second.shape:
        return math.inf
    difference = (first.float() - second.float()).abs().max()
    found = float(difference / second.float().std(correction=0).clamp_min(1e-12))
    return math.inf if math.isnan(found) else found


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two runs gave the same map."""
    return distance(first, second) <= SAME_MAP


# -- where the map of a layer arises ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """The place in a model where the map of a layer arises.

    Attributes:
        module: whose output it is.
        item: which one of its outputs; 0 if there is one.
        call: which of its calls in one run, counted from 0.
        layout: of that output.
        normed: whether the layer's map is that output after the model's last norm.
    """

    module: torch.nn.Module
    item: int
    call: int
    layout: Layout
    normed: bool


def find_source(model: Any, inputs: Tensor, shown: Tensor) -> Source | None:
    """The module of a run whose output is the map of a layer, or becomes it by the last norm; None if there is none.

    Where a block changes its map by little, the output of the block before is like it, so the most similar one is used; of equal
    ones the first.

    Args:
        model: timm's, in evaluation mode.
        inputs: (1, 3, H, W), normalised.
        shown: (1, C, h, w): the layer's map for these inputs.
    """
    grid_hw = int(shown.shape[2]), int(shown.shape[3])
    norm = token_norm(model, int(shown.shape[1]))
    calls: dict[torch.nn.Module, int] = {}
    best = SAME_MAP
    found: Source | None = None

    def compare(module: torch.nn.Module, args: Any, output: Any) -> None:
        nonlocal best, found
        call = calls[module] = calls.get(module, -1) + 1
        for item, values in enumerate(output if isinstance(output, tuple | list) else (output,)):
            layout = layout_of(values, grid_hw)
            if layout is None or best == 0:
                continue
            ways = [(values, False)]
            if norm is not None and layout.kind == "NLC" and values.shape[-1] == shown.shape[1]:
                ways.append((norm.forward(values), True))  # not called, which would compare its output as well
            for given, normed in ways:
                difference = distance(layout.grid(given, grid_hw), shown)
                if difference < best:
                    best, found = difference, Source(module, item, call, layout, normed)

    handles = [module.register_forward_hook(compare) for module in model.modules() if module is not model]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def token_norm(model: Any, channels: int) -> torch.nn.Module | None:
    """The last norm of a model of tokens with this many channels, if its statistics can be held fixed (``norm_scale``)."""
    norm: Any = getattr(model, "norm", None)
    return norm if type(norm) in _TOKEN_NORMS and tuple(norm.normalized_shape) == (channels,) else None


def norm_scale(norm: Any, tokens: Tensor) -> Tensor:
    """How much a token changes when its features after the norm change by 1, statistics held fixed: (B, N, C) or (B, N, 1)."""
    with torch.no_grad():
        if type(norm) in _RMS_NORMS:
            variance = tokens.square().mean(dim=-1, keepdim=True)
        else:
            variance = tokens.var(dim=-1, unbiased=False, keepdim=True)
        deviation: Tensor = (variance + norm.eps).sqrt()
        return deviation if norm.weight is None else deviation / norm.weight.detach()


_RMS_NORMS = (RmsNorm, RmsNormFp32)
_TOKEN_NORMS = (torch.nn.LayerNorm, LayerNorm, LayerNormFp32, *_RMS_NORMS)
