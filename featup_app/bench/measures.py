"""How the benches measure: two implementations in alternation, the limits of the machine, and the peak memory of a call."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featup_app.base.peak_memory import extra_megabytes
from featup_app.base.progress import Progress, silent
from featup_app.ops.cuda import wait_for
from featup_app.ops.peak import multiply_add

ROW_SECONDS = 90.0
"""A row takes no further turn after this long if it has :data:`FEWEST_TURNS`: plain torch can take half a minute for one."""

FEWEST_TURNS = 3
_STREAMED_BYTES = 512 * 2**20
_PEAK_SECONDS = 0.05


@dataclass(frozen=True)
class Machine:
    """Arithmetic and bandwidth that the processor (with all threads of torch) or a CUDA device reaches; the best of a few runs.

    Attributes:
        threads: number of torch's threads.
        fma_gflops: float32 multiplications and additions in registers, by the instructions that the operators use (1e9 / s);
            on a CUDA device equal to ``matmul_gflops``, since nothing measures its registers alone.
        matmul_gflops: the same unit, of a large matrix product in torch.
        read_gb_s: reading 512 MB once (1e9 bytes / s).
        copy_gb_s: copying 256 MB, read and written bytes counted.
    """

    threads: int
    fma_gflops: float
    matmul_gflops: float
    read_gb_s: float
    copy_gb_s: float
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """One measurement; milliseconds are medians.

    Attributes:
        gflops: operations of the window sums (or of their gradients) alone per second of native time (1e9 / s); a
            multiplication and an addition count as two.
        peak_gflops: ``Machine.fma_gflops``.
        extra_mb: peak memory of the native call beyond its inputs and its result (1e6 bytes); None where the system does not
            report it.
        to_forward: for a gradient, its native time divided by that of the forward operator.
        to_bandwidth: for few channels, the native time divided by the time to read the weights at ``Machine.read_gb_s``.
        to_doublings: for an attention, its native time divided by that of guided doublings to the same size.
        steps_per_second: for training, with the compiled operators.
        naive_ms, naive_mb: the published form, run once in a process of its own, and its peak memory as ``extra_mb``.
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
    to_forward: float | None = None
    to_bandwidth: float | None = None
    to_doublings: float | None = None
    steps_per_second: float | None = None
    naive_ms: float | None = None
    naive_mb: float | None = None


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Attributes:
        operations: number of multiplications and additions of its window sums; 2 * taps * channels * pixels for each of their
            gradients.
        prepare: makes the function that is timed. It is called once for each implementation, so that neither reuses what
            the other has cached.
    """

    name: str
    shape: str
    operations: float
    prepare: Callable[[], Callable[[], Tensor]]


@contextmanager
def operators(choice: str) -> Iterator[None]:
    """Use compiled operators ("require") or plain torch ("off") within the context."""
    before = os.environ.get("FEATUP_NATIVE")
    os.environ["FEATUP_NATIVE"] = choice
    try:
        yield
    finally:
        if before is None:
            del os.environ["FEATUP_NATIVE"]
        else:
            os.environ["FEATUP_NATIVE"] = before


def interleaved(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    enough_seconds: float = float("inf"),
    after_turn: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Median seconds of each function. The functions take turns, after a warm-up run of each.

    Args:
        functions: to measure, by name.
        repeats: turns that count.
        enough_seconds: no further turn is taken after this long, if at least :data:`FEWEST_TURNS` counted.
        after_turn: called after each turn; may raise to stop.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    started = time.perf_counter()
    for turn in range(repeats + 1):
        for name, function in functions.items():
            started_at = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - started_at)
        after_turn()
        if turn >= FEWEST_TURNS and time.perf_counter() - started > enough_seconds:
            break
    return {name: statistics.median(times) for name, times in seconds.items()}


def measure_machine(progress: Progress = silent, device: str = "cpu") -> Machine:
    """Arithmetic and bandwidth of this machine, or of its CUDA device; takes about three seconds.

    Raises:
        RuntimeError: if the compiled operators cannot be used.
    """
    where = torch.device(device)
    numbers = _STREAMED_BYTES // 4
    source = torch.ones(numbers, device=where)
    half, target = source[: numbers // 2], torch.empty(numbers // 2, device=where)
    side = 2048 if where.type == "cpu" else 8192
    matrix = torch.rand(side, side, device=where)
    progress("measuring this machine", 0, 4)
    product = 2 * side**3 / _best_seconds(lambda: matrix @ matrix) / 1e9
    progress("measuring this machine", 1, 4)
    peak = _peak_gflops() if where.type == "cpu" else product
    progress("measuring this machine", 2, 4)
    read = source.nbytes / _best_seconds(source.sum) / 1e9
    progress("measuring this machine", 3, 4)
    copied = 2 * half.nbytes / _best_seconds(lambda: target.copy_(half)) / 1e9
    return Machine(torch.get_num_threads(), peak, product, read, copied, device)


def _best_seconds(function: Callable[[], Tensor]) -> float:
    def run() -> None:
        wait_for(function())

    run()
    return min(interleaved({"run": run}, 1)["run"] for _ in range(5))


def _peak_gflops() -> float:
    with operators("require"):
        rounds, seconds = 100_000, 0.0
        while seconds < _PEAK_SECONDS:
            rounds = 2 * rounds if seconds == 0 else int(rounds * min(10.0, 1.2 * _PEAK_SECONDS / seconds)) + 1
            begun = time.perf_counter()
            multiply_add(rounds)
            seconds = time.perf_counter() - begun
        rates = []
        for _ in range(5):
            begun = time.perf_counter()
            operations = multiply_add(rounds)
            rates.append(operations / (time.perf_counter() - begun))
    return max(rates) / 1e9


def compare(
    case: Case,
    machine: Machine,
    repeats: int,
    progress: Progress = silent,
    *,
    weight_bytes: int | None = None,
    forward_ms: float | None = None,
) -> Row:
    """Measure one case with the compiled operators and with plain torch.

    Args:
        weight_bytes: size of the window weights, where reading them dominates the time.
        forward_ms: native time of the operator that the case is a gradient of.

    Raises:
        RuntimeError: if the compiled operators cannot be used.
    """
    progress(f"measuring {case.name}, {case.shape}", 0, repeats + 1)
    functions = {side: _prepared(case, choice) for side, choice in (("native", "require"), ("torch", "off"))}
    turns = iter(range(1, repeats + 2))
    seconds = interleaved(
        functions,
        repeats,
        enough_seconds=ROW_SECONDS,
        after_turn=lambda: progress(f"measuring {case.name}, {case.shape}", next(turns), repeats + 1),
    )
    gflops = case.operations / seconds["native"] / 1e9
    native_ms = 1e3 * seconds["native"]
    return Row(
        name=case.name,
        shape=case.shape,
        native_ms=native_ms,
        torch_ms=1e3 * seconds["torch"],
        speedup=seconds["torch"] / seconds["native"],
        gflops=gflops,
        peak_gflops=machine.fma_gflops,
        peak_fraction=gflops / machine.fma_gflops,
        extra_mb=extra_megabytes(functions["native"], machine.device),
        to_forward=None if forward_ms is None else native_ms / forward_ms,
        to_bandwidth=None if weight_bytes is None else seconds["native"] * machine.read_gb_s * 1e9 / weight_bytes,
    )


def _prepared(case: Case, choice: str) -> Callable[[], Tensor]:
    with operators(choice), torch.no_grad():
        function = case.prepare()

    def run() -> Tensor:
        with operators(choice), torch.no_grad():
            return wait_for(function())

    return run
