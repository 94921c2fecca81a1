"""Speed of the operators as ratios: the compiled library and plain torch, measured in alternation in one process.

Milliseconds differ between machines and from hour to hour; the ratio of medians of interleaved runs hardly does. The figures
are reported beside the limits of the machine, measured in the same minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.bench.attention import EMBEDDINGS, bench_attention
from featup_app.bench.measures import Case, Machine, Row, compare, measure_machine
from featup_app.bench.training import bench_train
from featup_app.features import FeatureMap, Geometry, Size
from featup_app.fields import JBUStack, upsample
from featup_app.fields.attention import WINDOW
from featup_app.images import Image, image_from_array
from featup_app.lenses import fit_pca, similarity
from featup_app.lenses.grouping import MAPS
from featup_app.ops import adaptive_conv, loading, window_sum
from featup_app.ops.doubling import guided_double

__all__ = ["SUBJECTS", "Machine", "Row", "measure_machine"]

KERNEL_SIZE = 7
TAPS = KERNEL_SIZE**2
CHANNELS = 384
STACK_NAME = "jbu stack"
PATCH = 14
"""Pixels of the backbone's input per cell of the measured grids, as in the bundled backbone."""


def _window_operations(channels: int, pixels: int) -> float:
    return 2.0 * TAPS * channels * pixels


def _window_inputs(channels: int, height: int, width: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """(1, C, H + 6, W + 6) and (1, 49, H, W)."""
    generator = torch.Generator().manual_seed(0)
    edge = KERNEL_SIZE - 1
    padded = torch.randn(1, channels, height + edge, width + edge, generator=generator)
    return padded.to(device), torch.rand(1, TAPS, height, width, generator=generator).to(device)


def bench_adaptive_conv(
    machine: Machine, repeats: int, progress: Progress = silent, *, side: int = 224, channels: int = CHANNELS
) -> Iterator[Row]:
    """Measure the window sum of many channels in its layouts, its gradients, the guided doubling, and few channels.

    Args:
        side: height and width of the maps with many channels, even.
        channels: number of channels of those maps.
    """
    yield from _bench_many_channels(machine, repeats, progress, side, channels)
    for coarse in (side // 2, side):
        case = Case(
            "guided doubling",
            f"{channels}x{coarse}x{coarse} to {2 * coarse}x{2 * coarse}",
            _window_operations(channels, 4 * coarse * coarse),
            partial(_prepare_doubling, channels, coarse, machine.device),
        )
        yield compare(case, machine, repeats, progress)
    for size in ((1024, 1024), (2160, 3840)):
        yield from _bench_few_channels(machine, repeats, progress, size)


def _bench_many_channels(machine: Machine, repeats: int, progress: Progress, side: int, channels: int) -> Iterator[Row]:
    padded, weights = _window_inputs(channels, side, side, machine.device)
    filters = weights.view(1, KERNEL_SIZE, KERNEL_SIZE, side, side).permute(0, 3, 4, 1, 2).contiguous()
    last = padded.contiguous(memory_format=torch.channels_last)
    shape, operations = f"1x{channels}x{side}x{side}", _window_operations(channels, side * side)

    def row(name: str, prepare: Callable[[], Callable[[], Tensor]], forward_ms: float | None = None) -> Row:
        return compare(Case(name, shape, operations, prepare), machine, repeats, progress, forward_ms=forward_ms)

    yield row("adaptive_conv", lambda: partial(adaptive_conv, padded, filters))
    forward = row("window_sum", lambda: partial(window_sum, padded, weights))
    yield forward
    yield row("window_sum channels-last", lambda: partial(window_sum, last, weights))
    gradient = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(1)).to(machine.device)
    for name, chosen in (("gradient to filters", 1), ("gradient to input", 0)):
        yield row(name, partial(_prepare_gradient, (padded, weights), chosen, gradient), forward.native_ms)


def _prepare_gradient(operands: tuple[Tensor, Tensor], chosen: int, gradient: Tensor) -> Callable[[], Tensor]:
    """The gradient of the window sum to one of its operands alone, through autograd as in training."""
    with torch.enable_grad():
        leaves = [operand.detach().requires_grad_(index == chosen) for index, operand in enumerate(operands)]
        result = window_sum(leaves[0], leaves[1])
    return lambda: torch.autograd.grad(result, leaves[chosen], gradient, retain_graph=True)[0]


def _prepare_doubling(channels: int, coarse: int, device: str) -> Callable[[], Tensor]:
    """The guided doubling, with the map in the layout that the current implementation is faster in."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(1, channels, coarse, coarse, generator=generator).to(device)
    if loading.mode() != "off" and not source.is_cuda:
        source = source.contiguous(memory_format=torch.channels_last)
    weights = torch.rand(1, TAPS, 2 * coarse, 2 * coarse, generator=generator).to(device)
    return partial(guided_double, source, weights)


def _bench_few_channels(machine: Machine, repeats: int, progress: Progress, size: Size) -> Iterator[Row]:
    """The cost of each further lens on a field: one pass over the cached weights, in float16 as fields cache them."""
    height, width = size
    weights = torch.empty(1, TAPS, height, width, dtype=torch.float16)
    weights = weights.uniform_(0, 1, generator=torch.Generator().manual_seed(0)).to(machine.device)
    for channels in (1, 3):
        edge = KERNEL_SIZE - 1
        shape = (1, channels, height + edge, width + edge)
        padded = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(machine.device)
        case = Case(
            "few channels",
            f"1x{channels}x{height}x{width} float16",
            _window_operations(channels, height * width),
            partial(partial, window_sum, padded, weights),
        )
        yield compare(case, machine, repeats, progress, weight_bytes=weights.nbytes)


def stack_inputs(side: int, channels: int, device: str = "cpu") -> tuple[JBUStack, Tensor, Tensor]:
    """A learned stack with seeded weights, (1, C, side, side) features and the (1, 3, 16 side, 16 side) guidance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stack = JBUStack(channels).eval().to(device)
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(1, channels, side, side, generator=generator)
    guidance = torch.randn(1, 3, 16 * side, 16 * side, generator=generator)
    return stack, source.to(device), guidance.to(device)


def bench_jbu(
    machine: Machine,
    repeats: int,
    progress: Progress = silent,
    *,
    sides: tuple[int, ...] = (16, 28),
    channels: int = CHANNELS,
) -> Iterator[Row]:
    """Measure the whole learned stack, which upsamples sixteen times."""
    for side in sides:
        stack, source, guidance = stack_inputs(side, channels, machine.device)
        pixels = sum((side << level) ** 2 for level in range(1, 5))
        case = Case(
            STACK_NAME,
            f"{channels}x{side}x{side} to {16 * side}x{16 * side}",
            _window_operations(channels, pixels),
            lambda stack=stack, source=source, guidance=guidance: partial(stack, source, guidance),  # type: ignore[misc]
        )
        yield compare(case, machine, repeats, progress)


def _picture_and_features(size: Size, device: str) -> tuple[Image, FeatureMap]:
    """A smooth random picture and random features for it, one cell per sixteen pixels."""
    generator = torch.Generator().manual_seed(0)
    (height, width), grid = size, (size[0] // 16, size[1] // 16)
    coarse = torch.randint(0, 256, (1, 3, height // 8, width // 8), generator=generator).float()
    smooth = F.interpolate(coarse, size, mode="bilinear")[0].permute(1, 2, 0)
    image = image_from_array(smooth.round().to(torch.uint8).numpy())
    geometry = Geometry(image.size_hw, (grid[0] * PATCH, grid[1] * PATCH), grid)
    data = torch.randn(CHANNELS, *grid, generator=generator).to(device)
    return image, FeatureMap(data=data, geometry=geometry, layer="block 10", image=image)


def _chain_pixels(size: Size) -> int:
    """Pixels of all doublings of :func:`_picture_and_features` up to its picture's size."""
    return sum((size[0] // 16 << level) * (size[1] // 16 << level) for level in range(1, 5))


def bench_similarity(
    machine: Machine,
    repeats: int,
    progress: Progress = silent,
    *,
    first_size: Size = (512, 768),
    next_sizes: tuple[Size, ...] = ((512, 768), (1024, 1024)),
    opening_size: Size = (1024, 1024),
) -> Iterator[Row]:
    """Measure how long a person waits with the default method: first click, later clicks, first colours of a picture."""

    def row(name: str, size: Size, operations: float, prepare: Callable[[], Callable[[], Tensor]]) -> Row:
        return compare(
            Case(name, f"{CHANNELS} at {size[0]}x{size[1]}", operations, prepare), machine, repeats, progress
        )

    def first_click() -> Callable[[], Tensor]:
        image, features = _picture_and_features(first_size, machine.device)
        return lambda: similarity(upsample(features, image), (100.0, 100.0), size=first_size)

    def next_click(size: Size) -> Callable[[], Tensor]:
        image, features = _picture_and_features(size, machine.device)
        known = upsample(features, image)
        similarity(known, (100.0, 100.0), size=size, progress=progress)
        return lambda: similarity(known, (size[1] / 3, size[0] / 3), size=size)

    def opening() -> Callable[[], Tensor]:
        image, features = _picture_and_features(opening_size, machine.device)
        return lambda: fit_pca(features).values(upsample(features, image), (1, 2, 3), size=opening_size)

    yield row("first click", first_size, _attention_operations(MAPS, first_size), first_click)
    for size in next_sizes:
        yield row("next click", size, 2.0 * MAPS * size[0] * size[1], partial(next_click, size))
    yield row("opening", opening_size, _attention_operations(3, opening_size), opening)


def _attention_operations(channels: int, size: Size) -> float:
    """Multiplications and additions of the attention's windows, over the doublings up to a size."""
    return 2.0 * WINDOW**2 * (EMBEDDINGS + channels) * _chain_pixels(size)


SUBJECTS: Mapping[str, Callable[[Machine, int, Progress], Iterator[Row]]] = {
    "adaptive-conv": bench_adaptive_conv,
    "attention": bench_attention,
    "jbu": bench_jbu,
    "similarity": bench_similarity,
    "train": bench_train,
}
"""The benches by name."""
