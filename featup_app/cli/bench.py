"""``featup-app bench``: how fast the operators are here, beside plain torch."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated

import typer

from featup_app.cli.terminal import progress_bar, say, say_json
from featup_app.errors import FeatUpError


def bench(
    subject: Annotated[str, typer.Argument(help="What to measure: adaptive-conv, jbu or similarity.")],
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of each, taking turns; the median counts.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Measure the compiled operators against plain torch, turn by turn in one process."""
    from featup_app.engine.bench import SUBJECTS, measure_machine
    from featup_app.ops import native_status

    if subject not in SUBJECTS:
        raise FeatUpError(f'There is nothing to measure called "{subject}"; choose one of: {", ".join(SUBJECTS)}.')
    status = native_status()
    if not status.backend.startswith("native"):
        raise FeatUpError(f"There is nothing to compare with plain torch here. {status.detail}")
    machine = measure_machine()
    with progress_bar() as progress:
        rows = list(SUBJECTS[subject](machine, repeats, progress))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if as_json:
        facts = {"machine": dataclasses.asdict(machine), "backend": status.backend, "load": load}
        say_json({**facts, "rows": [dataclasses.asdict(row) for row in rows]})
        return
    say(
        f"{status.backend}, {machine.threads} threads; copying {machine.bandwidth_gb_s:.0f} GB/s, matrix product "
        f"{machine.matmul_gflops:.0f} GFLOP/s" + ("" if load is None else f"; load {load:.1f}")
    )
    say(f"{'':<32}{'':<28}{'native ms':>10}{'torch ms':>10}{'ratio':>8}{'GFLOP/s':>9}{'extra MB':>10}")
    for row in rows:
        extra = "-" if row.extra_mb is None else f"{row.extra_mb:.0f}"
        figures = f"{row.native_ms:>10.1f}{row.torch_ms:>10.1f}{row.speedup:>7.1f}x{row.gflops:>9.0f}{extra:>10}"
        say(f"{row.name:<32}{row.shape:<28}{figures}")
