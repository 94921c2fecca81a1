"""Speed of the operators as ratios: the compiled library and plain torch, measured turn by turn in one process.

Milliseconds differ from machine to machine and hour to hour; a ratio of medians of interleaved runs hardly does. Beside the
figures stands what the machine could do at best, measured in the same minute.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.engine.memory import process_bytes
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import JBUStack, upsample
from featup_app.images import image_from_array
from featup_app.lenses import similarity
from featup_app.ops import adaptive_conv, window_sum
from featup_app.progress import Progress, silent

KERNEL_SIZE = 7
_CLEAR_PEAK = "/proc/self/clear_refs"


@dataclass(frozen=True)
class Machine:
    """What the processor reached now: copying 256 MB (read and written bytes counted), and a large float32 product."""

    threads: int
    bandwidth_gb_s: float
    matmul_gflops: float


@dataclass(frozen=True)
class Row:
    """One measurement. ``extra_mb`` is peak memory beyond inputs and result, where the system tells it (Linux).

    ``peak_gflops`` is that of a large matrix product of torch in the same process, as a yardstick for ``gflops``.
    """

    name: str
    shape: str
    native_ms: float
    torch_ms: float
    speedup: float
    gflops: float
    peak_gflops: float
    peak_fraction: float
    extra_mb: float | None


@contextmanager
def _operators(choice: str) -> Iterator[None]:
    """Compiled operators ("require") or plain torch ("off") while it lasts."""
    before = os.environ.get("FEATUP_NATIVE")
    os.environ["FEATUP_NATIVE"] = choice
    try:
        yield
    finally:
        if before is None:
            del os.environ["FEATUP_NATIVE"]
        else:
            os.environ["FEATUP_NATIVE"] = before


def interleaved(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each function; they take turns, after one run of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            begun = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(times) for name, times in seconds.items()}


def measure_machine() -> Machine:
    """Bandwidth and arithmetic of this machine, the best of a few runs."""
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    matrix = torch.ones(2048, 2048)

    def best(function: Callable[[], Any]) -> float:
        return min(interleaved({"run": function}, 1)["run"] for _ in range(5))

    copied = 2 * source.nbytes / best(lambda: target.copy_(source)) / 1e9
    product = 2 * 2048**3 / best(lambda: matrix @ matrix) / 1e9
    return Machine(torch.get_num_threads(), copied, product)


def _extra_megabytes(function: Callable[[], Tensor]) -> float | None:
    """Peak memory of a call beyond what was there before and its result."""
    try:
        with open(_CLEAR_PEAK, "w") as reset:
            reset.write("5")
        before = process_bytes()
        result = function()
        with open("/proc/self/status") as lines:
            peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        return None
    return None if before is None else max(0.0, (peak - before - result.nbytes) / 1e6)


def _compare(
    name: str, shape: str, function: Callable[[], Tensor], *, operations: float, machine: Machine, repeats: int
) -> Row:
    def run(choice: str) -> Tensor:
        with _operators(choice), torch.no_grad():
            return function()

    seconds = interleaved({"native": lambda: run("require"), "torch": lambda: run("off")}, repeats)
    gflops = operations / seconds["native"] / 1e9
    return Row(
        name=name,
        shape=shape,
        native_ms=1e3 * seconds["native"],
        torch_ms=1e3 * seconds["torch"],
        speedup=seconds["torch"] / seconds["native"],
        gflops=gflops,
        peak_gflops=machine.matmul_gflops,
        peak_fraction=gflops / machine.matmul_gflops,
        extra_mb=_extra_megabytes(lambda: run("require")),
    )


def _window_inputs(channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    edge = KERNEL_SIZE - 1
    padded = torch.randn(1, channels, height + edge, width + edge, generator=generator)
    weights = torch.rand(1, KERNEL_SIZE**2, height, width, generator=generator)
    return padded, weights


def bench_adaptive_conv(machine: Machine, repeats: int, progress: Progress = silent) -> Iterator[Row]:
    """The window sum: many channels in both layouts, its gradients, and the few channels that lenses use."""
    padded, weights = _window_inputs(384, 224, 224)
    filters = weights.view(1, KERNEL_SIZE, KERNEL_SIZE, 224, 224).permute(0, 3, 4, 1, 2).contiguous()
    operations = 2.0 * KERNEL_SIZE**2 * 384 * 224 * 224
    last = padded.contiguous(memory_format=torch.channels_last)
    cases: list[tuple[str, str, Callable[[], Tensor]]] = [
        ("adaptive_conv", "1x384x224x224", lambda: adaptive_conv(padded, filters)),
        ("window_sum", "1x384x224x224", lambda: window_sum(padded, weights)),
        ("window_sum, channels last", "1x384x224x224", lambda: window_sum(last, weights)),
    ]
    for index, (name, shape, function) in enumerate(cases):
        progress(f"measuring {name}", index, len(cases) + 3)
        yield _compare(name, shape, function, operations=operations, machine=machine, repeats=repeats)
    for index, (channels, height, width) in enumerate(((1, 1024, 1024), (3, 1024, 1024))):
        progress("measuring few channels", len(cases) + index, len(cases) + 3)
        small, planes = _window_inputs(channels, height, width)
        compact = planes.to(torch.bfloat16)
        operations = 2.0 * KERNEL_SIZE**2 * channels * height * width
        shape = f"1x{channels}x{height}x{width}"
        for title, chosen in (("few channels, float32 weights", planes), ("few channels, bfloat16 weights", compact)):
            yield _compare(
                title,
                shape,
                lambda small=small, chosen=chosen: window_sum(small, chosen),  # type: ignore[misc]
                operations=operations,
                machine=machine,
                repeats=repeats,
            )


def bench_jbu(machine: Machine, repeats: int, progress: Progress = silent) -> Iterator[Row]:
    """The whole learned stack, sixteen times, at 384 channels."""
    stack = JBUStack(384).eval()
    generator = torch.Generator().manual_seed(0)
    for side in (16, 28):
        progress(f"measuring the stack from {side}x{side}", 0, 0)
        source = torch.randn(1, 384, side, side, generator=generator)
        guidance = torch.randn(1, 3, 16 * side, 16 * side, generator=generator)
        operations = sum(2.0 * KERNEL_SIZE**2 * 384 * (side << level) ** 2 for level in range(1, 5))
        shape = f"1x384x{side}x{side} to {16 * side}x{16 * side}"
        yield _compare(
            "jbu stack",
            shape,
            lambda source=source, guidance=guidance: stack(source, guidance),  # type: ignore[misc]
            operations=operations,
            machine=machine,
            repeats=repeats,
        )


def bench_similarity(machine: Machine, repeats: int, progress: Progress = silent) -> Iterator[Row]:
    """What a click costs: the first time with the features' lengths, and every time after."""
    generator = torch.Generator().manual_seed(0)
    height, width, grid = 512, 768, (32, 48)
    picture = torch.randint(0, 256, (height // 8, width // 8, 3), generator=generator, dtype=torch.uint8)
    smooth = F.interpolate(picture.permute(2, 0, 1)[None].float(), (height, width), mode="bilinear")[0]
    image = image_from_array(smooth.permute(1, 2, 0).round().to(torch.uint8).numpy())
    features = FeatureMap(
        data=torch.randn(384, *grid, generator=generator),
        geometry=Geometry(image.size_hw, (grid[0] * 14, grid[1] * 14), grid),
        layer="block 10",
        image=image,
    )
    pixels = sum((grid[0] << level) * (grid[1] << level) for level in range(1, 5))
    shape = f"384 channels at {height}x{width}"

    def first() -> Tensor:
        return similarity(upsample(features, image), (100.0, 100.0), size=image.size_hw)

    progress("measuring the first click", 0, 2)
    operations = 2.0 * KERNEL_SIZE**2 * 384 * pixels
    yield _compare("first click", shape, first, operations=operations, machine=machine, repeats=repeats)
    progress("measuring the next clicks", 1, 2)
    field = upsample(features, image)
    field.norms(size=image.size_hw)
    yield _compare(
        "next click",
        shape,
        lambda: similarity(field, (300.0, 200.0), size=image.size_hw),
        operations=2.0 * KERNEL_SIZE**2 * pixels,
        machine=machine,
        repeats=repeats,
    )


SUBJECTS: Mapping[str, Callable[[Machine, int, Progress], Iterator[Row]]] = {
    "adaptive-conv": bench_adaptive_conv,
    "jbu": bench_jbu,
    "similarity": bench_similarity,
}
"""What can be measured, by name."""
