"""The published form of the learned stack, which unfolds keys and features, measured in a process of its own.

Source: FeatUp (Fu, Hamilton et al., ICLR 2024) without its CUDA operator: k * k copies of the keys and of the doubled features
are gathered, so that the last stage of 16x16 to 256x256 at 384 channels holds 5 GB at once. It is slow and only serves as a
comparison, so it is run once. ``python -m featup_app.bench.naive SIDE CHANNELS THREADS DEVICE``
prints its figures as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.base.child_process import child_facts
from featup_app.base.errors import FeatUpError
from featup_app.base.peak_memory import extra_megabytes
from featup_app.base.progress import Progress, silent
from featup_app.base.words import human_bytes
from featup_app.bench.operators import KERNEL_SIZE, TAPS, stack_inputs
from featup_app.engine.memory import available_bytes
from featup_app.fields import JBUStack
from featup_app.fields.jbu_stack import FIXUP_WEIGHT
from featup_app.fields.window_kernels import CORRECTION_WEIGHT, KEY_CHANNELS, LearnedKernel
from featup_app.ops.cuda import wait_for

SIDE = 16
_RADIUS = KERNEL_SIZE // 2
_PROCESS_BYTES = 500e6


@dataclass(frozen=True)
class NaiveRun:
    """One run of the published form: milliseconds, and peak memory beyond inputs and result where the system reports it."""

    milliseconds: float
    extra_mb: float | None


def needed_bytes(side: int, channels: int) -> float:
    """Estimated peak of the published form: unfolded features, one rearranged copy of them, and the result."""
    pixels = (16.0 * side) ** 2
    return 4 * pixels * (2 * TAPS * channels + 2 * TAPS * KEY_CHANNELS + 3 * channels) + _PROCESS_BYTES


def run_naive(side: int, channels: int, progress: Progress = silent, device: str = "cpu") -> NaiveRun:
    """Run the published form once in a process of its own, with as many threads as torch has here.

    On a CUDA device it runs twice and the second run counts, because the first one loads the device's libraries.

    Raises:
        FeatUpError: if it would not fit into the free memory, or its process fails.
    """
    shape, needed, free = f"{side}x{side} to {16 * side}x{16 * side}", needed_bytes(side, channels), _free_bytes(device)
    if needed > 0.9 * free:
        raise FeatUpError(
            f"The unfolded form of {shape} at {channels} channels was left out: it needs about {human_bytes(needed)} of "
            f"memory, and {human_bytes(free)} are free; close other programs to measure it."
        )
    numbers = [str(number) for number in (side, channels, torch.get_num_threads(), device)]
    title = f"the unfolded form of {shape} at {channels} channels"
    facts = child_facts("featup_app.bench.naive", numbers, title, progress)
    return NaiveRun(facts["milliseconds"], facts["extra_mb"])


def _free_bytes(device: str) -> int:
    where = torch.device(device)
    return torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else available_bytes()


def unfolded_window_weights(kernel: LearnedKernel, guidance: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 49, H, W), from unfolded keys (paper section 3.2)."""
    batch, _, height, width = guidance.shape
    keys = kernel.range_proj(guidance)
    unfolded = F.unfold(F.pad(keys, (_RADIUS,) * 4, mode="reflect"), KERNEL_SIZE)
    queries = unfolded.view(batch, KEY_CHANNELS, TAPS, height, width).permute(0, 1, 3, 4, 2)
    temperature = kernel.range_temp.exp().clamp(1e-4, 1e4)
    alike = F.softmax(temperature * torch.einsum("bchwp,bchw->bphw", queries, keys), dim=1)
    line = torch.linspace(-1, 1, KERNEL_SIZE, device=guidance.device)
    distances = (line[:, None] ** 2 + line[None, :] ** 2).reshape(1, TAPS, 1, 1)
    combined = alike * torch.exp(-distances / (2 * kernel.sigma_spatial**2))
    combined = combined / combined.sum(dim=1, keepdim=True).clamp(1e-7)
    correction: Tensor = kernel.fixup_proj(torch.cat([combined, guidance], dim=1))
    return combined + CORRECTION_WEIGHT * correction


def unfolded_stack(stack: JBUStack, source: Tensor, guidance: Tensor) -> Tensor:
    """The result of :class:`JBUStack`, computed as published: (B, C, h, w), (B, 3, H, W) -> (B, C, 16 h, 16 w)."""
    for kernel in stack.kernels:
        size = (2 * source.shape[2], 2 * source.shape[3])
        weights = unfolded_window_weights(kernel, F.adaptive_avg_pool2d(guidance, size))
        doubled = F.interpolate(source, size, mode="bicubic", align_corners=False)
        unfolded = F.unfold(F.pad(doubled, (_RADIUS,) * 4, mode="reflect"), KERNEL_SIZE)
        unfolded = unfolded.view(*source.shape[:2], TAPS, *size)
        source = torch.einsum("bcphw,bphw->bchw", unfolded, weights)
    corrected: Tensor = source + FIXUP_WEIGHT * stack.fixup_proj(source)
    return corrected


def _measure_here(side: int, channels: int, device: str) -> NaiveRun:
    stack, source, guidance = stack_inputs(side, channels, device)
    seconds: list[float] = []

    def run() -> Tensor:
        started = time.perf_counter()
        with torch.no_grad():
            result = wait_for(unfolded_stack(stack, source, guidance))
        seconds.append(time.perf_counter() - started)
        return result

    extra = extra_megabytes(run, device)
    if not seconds or source.is_cuda:
        run()
    return NaiveRun(1e3 * seconds[-1], extra)


def _main() -> None:
    side, channels, threads = (int(text) for text in sys.argv[1:4])
    torch.set_num_threads(threads)
    found = _measure_here(side, channels, sys.argv[4])
    sys.stdout.write(json.dumps({"milliseconds": found.milliseconds, "extra_mb": found.extra_mb}))


if __name__ == "__main__":
    _main()
