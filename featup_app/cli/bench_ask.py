"""``featup-app bench ask``: how long a person waits for an answer in the window."""

from __future__ import annotations

from typing import Any

from featup_app.base.progress import Progress
from featup_app.cli.terminal import print_json, print_line, print_table
from featup_app.fields import DEFAULT_METHOD

SUBJECT = "ask"
METHODS = (DEFAULT_METHOD, "jbu")


def bench_ask(repeats: int, *, as_json: bool, progress: Progress) -> None:
    """Measure gestures in a window without a screen, and print them beside their bounds."""
    from rich.table import Table

    from featup_app.gui.asking_bench import BOUNDS_MS, measure_asking

    found = measure_asking(METHODS, repeats, progress=progress)
    if as_json:
        print_json({"subject": SUBJECT, "repeats": repeats, "bounds_ms": BOUNDS_MS, "methods": found})
        return
    for method, measured in found.items():
        print_line(f"{method}, 1024x1024, from the event to the painted picture:")
        table = Table(box=None, pad_edge=False)
        for title in ("what", "median", "95 %", "bounds"):
            table.add_column(title, justify="left" if title == "what" else "right")
        for row in _rows(measured):
            table.add_row(*row)
        print_table(table)


def _rows(measured: dict[str, Any]) -> list[list[str]]:
    from featup_app.gui.asking_bench import BOUNDS_MS

    rows = [
        [
            title,
            f"{measured[f'{key}_ms']['median']:.1f} ms",
            f"{measured[f'{key}_ms']['p95']:.1f} ms",
            "{:.0f}, {:.0f} ms".format(*BOUNDS_MS[key]),
        ]
        for key, title in (("exact", "click"), ("coarse", "map under the pointer"))
    ]
    marks = measured["many_marks"]
    rows += [
        [f"ten and ten marks, {way}, to one", f"{marks[f'{way}_to_one']:.2f}", "", bound]
        for way, bound in (("mean", "1.3"), ("maximum", "6"), ("difference", ""))
    ]
    compared = measured["compare_s"]
    rows.append(["four methods at 512x512, first", f"{compared['first']:.2f} s", "", "3 s"])
    rows.append(["the same again", f"{compared['again']:.2f} s", "", ""])
    rows.append(["longest gap of the window", f"{measured['worst_gap_ms']:.0f} ms", "", "50 ms"])
    return rows
