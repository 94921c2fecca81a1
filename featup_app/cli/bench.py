"""``featup-app bench``: speed of the compiled operators against plain torch, and cost of fitting a network to an image."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from featup_app.base.errors import FeatUpError
from featup_app.base.progress import Progress
from featup_app.cli import bench_ask, bench_implicit
from featup_app.cli import bench_options as options
from featup_app.cli.options import AsJSON
from featup_app.cli.terminal import print_json, print_line, print_message, progress_bar

if TYPE_CHECKING:
    from featup_app.bench.measures import Machine, Row

NAIVE_SUBJECT = "jbu"


def bench(
    subject: options.Subject,
    repeats: options.Repeats = 7,
    naive: options.Naive = False,
    photos: options.Photos = None,
    paper_steps: options.PaperSteps = 50,
    ablations: options.Ablations = False,
    quick: options.Quick = False,
    device: options.OperatorDevice = "cpu",
    as_json: AsJSON = False,
) -> None:
    """Measure the compiled operators against plain torch, in turn in one process, or the fit of implicit networks.

    `implicit` fits networks to three photos with both bundled backbones. It measures held-out error over time beside bilinear,
    JBU and the published recipe, peak memory in a separate process, and how much a field changes on a denser grid.

    `ask` measures the window without a screen: clicks, the map under the pointer, many marks, and four compared methods.
    """
    if naive and subject != NAIVE_SUBJECT:
        raise FeatUpError(f'The option --naive belongs to "{NAIVE_SUBJECT}"; leave it out with "{subject}".')
    if subject == bench_implicit.SUBJECT:
        if device != "cpu":
            raise FeatUpError(
                f'The option --device does not belong to "{subject}", which takes CUDA where there is one.'
            )
        with progress_bar() as progress:
            progress("starting", 0, 0)
            bench_implicit.bench_implicit(
                photos, quick=quick, ablate=ablations, paper_steps=paper_steps, as_json=as_json, progress=progress
            )
        return
    if subject == bench_ask.SUBJECT:
        with progress_bar() as progress:
            bench_ask.bench_ask(repeats, as_json=as_json, progress=progress)
        return
    if photos is not None or ablations or quick:
        option = "--photos" if photos is not None else "--ablations" if ablations else "--quick"
        raise FeatUpError(f'The option {option} belongs to "{bench_implicit.SUBJECT}"; leave it out with "{subject}".')
    _bench_operators(subject, repeats, naive=naive, device=device, as_json=as_json)


def _bench_operators(subject: str, repeats: int, *, naive: bool, device: str, as_json: bool) -> None:
    from featup_app.bench.operators import SUBJECTS, measure_machine
    from featup_app.ops import native_status

    if subject not in SUBJECTS:
        known = ", ".join([*SUBJECTS, bench_implicit.SUBJECT, bench_ask.SUBJECT])
        raise FeatUpError(f'There is no bench "{subject}"; choose one of: {known}.')
    status = native_status()
    backend, problem = status.backend, None if status.backend.startswith("native") else status.detail
    if device != "cpu":
        backend, problem = _cuda_backend(device)
    if problem is not None:
        raise FeatUpError(f"No compiled operators can be compared with plain torch here. {problem}")
    with progress_bar() as progress:
        machine = measure_machine(progress, device)
        rows = list(SUBJECTS[subject](machine, repeats, progress))
        note = None
        if naive:
            rows, note = _with_naive(rows, device, progress)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if as_json:
        facts = {"machine": dataclasses.asdict(machine), "backend": backend, "load": load, "note": note}
        print_json({**facts, "rows": [dataclasses.asdict(row) for row in rows]})
    else:
        _print_table(backend, machine, load, rows)
    if note is not None:
        print_message(note)


def _cuda_backend(device: str) -> tuple[str, str | None]:
    """Name of what is measured on a CUDA device, and the reason why it cannot be measured; None if it can."""
    import torch

    from featup_app.backbones.loading import find_device
    from featup_app.ops import cuda

    where = find_device(device)
    if where.type != "cuda":
        return device, f"The operators are measured on cpu or cuda, not on {device}."
    name = torch.cuda.get_device_name(where)
    return f"native CUDA, {name}", None if cuda.takes(where) else cuda.cuda_status()


def _with_naive(rows: list[Row], device: str, progress: Progress) -> tuple[list[Row], str | None]:
    """Add the figures of the published form to the row of the smallest stack; if that fails, return the reason too."""
    from featup_app.bench.naive import SIDE, run_naive
    from featup_app.bench.operators import CHANNELS

    try:
        found = run_naive(SIDE, CHANNELS, progress, device)
    except FeatUpError as problem:
        return rows, str(problem)
    first = dataclasses.replace(rows[0], naive_ms=found.milliseconds, naive_mb=found.extra_mb)
    return [first, *rows[1:]], None


def _print_table(backend: str, machine: Machine, load: float | None, rows: list[Row]) -> None:
    """Print the table, at most 100 characters wide."""
    print_line(
        f"{backend}, {machine.threads} threads; GFLOP/s: FMA {machine.fma_gflops:.0f}, product "
        f"{machine.matmul_gflops:.0f}; GB/s: read {machine.read_gb_s:.0f}, copy {machine.copy_gb_s:.0f}"
        + ("" if load is None else f"; load {load:.1f}")
    )
    print_line(f"{'':<25}{'':<24}{'native ms':>9}{'torch ms':>9}{'ratio':>7}{'GFLOP/s':>8}{'peak':>5}{'MB':>5}")
    digits = 1 if machine.device == "cpu" else 3  # microseconds count there
    for row in rows:
        extra = "-" if row.extra_mb is None else f"{row.extra_mb:.0f}"
        print_line(
            f"{row.name:<25}{row.shape:<24}{row.native_ms:>9.{digits}f}{row.torch_ms:>9.{digits}f}{row.speedup:>6.1f}x"
            f"{row.gflops:>8.1f}{row.peak_fraction:>5.0%}{extra:>5}"
        )
        if row.to_forward is not None:
            print_line(f"    {row.to_forward:.2f} times the forward operator")
        if row.to_bandwidth is not None:
            print_line(f"    {row.to_bandwidth:.2f} times the time that reading the weights takes")
        if row.to_doublings is not None:
            print_line(f"    {row.to_doublings:.2f} times the guided doublings to the same size")
        if row.steps_per_second is not None:
            print_line(f"    {row.steps_per_second:.1f} steps a second")
        if row.naive_ms is not None:
            memory = "" if row.naive_mb is None else f", {row.naive_mb:.0f} MB beyond inputs and result"
            print_line(f"    unfolded, as published: {row.naive_ms:.0f} ms{memory} (one run)")
    print_line("MB: peak memory of the native call beyond inputs and result. peak: share of the FMA rate.")
