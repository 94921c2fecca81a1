"""Tables of an evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featup_app.cli.terminal import fits, print_line, print_table
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.summary import MARKS, MARKS_NOTE, Cell, Column, Summary

if TYPE_CHECKING:
    from rich.table import Table


def print_report(report: Report) -> None:
    """The table of one task, with its notes; further figures get a table of their own where one would be too wide."""
    further = [name for name, _ in report.further]
    costs = ["peak MB", "parameters"] if any(row.parameters is not None for row in report.rows) else []
    main = ["method", "protocol", *_main_titles(report)]
    whole = _table(
        [*main, *further, *costs],
        [[*_main_cells(row), *_further(row, further), *_costs(row, costs)] for row in report.rows],
    )
    if fits(whole) or not further:
        print_table(whole)
    else:
        print_table(_table([*main, *costs], [[*_main_cells(row), *_costs(row, costs)] for row in report.rows]))
        cells = [[row.method, row.protocol, *_further(row, further)] for row in report.rows]
        print_table(_table(["method", "protocol", *further], cells))
    for note in report.notes:
        print_line(note)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first two columns are words, all others numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index < 2 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    return table


def _main_titles(report: Report) -> list[str]:
    better = "higher" if report.higher_is_better else "lower"
    figure, spread = f"{report.figure_name} ({better} is better)", f"± over {report.spread_name}"
    return [figure, spread, "to bilinear", "95 %", "s/picture", "pictures"]


def _main_cells(row: Row) -> list[str]:
    return [
        row.method,
        row.protocol,
        f"{row.figure:.4f}",
        f"{row.spread:.4f}",
        "-" if row.difference is None else f"{row.difference:+.4f}",
        "-" if row.interval is None else f"{row.interval[0]:+.4f} .. {row.interval[1]:+.4f}",
        f"{row.seconds:.2f}",
        str(row.pictures),
    ]


def _further(row: Row, names: Sequence[str]) -> list[str]:
    values = [row.further[name] for name in names]
    return ["-" if value is None else f"{value:.4f}" for value in values]


def _costs(row: Row, names: Sequence[str]) -> list[str]:
    return ["-" if value is None else f"{value:,.0f}" for value in (row.memory_mb, row.parameters)[: len(names)]]


def print_summary(summary: Summary) -> None:
    """All tasks in one table, with the meaning of its marks and the reasons for missing figures."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for column in summary.columns:
        table.add_column(column.head, justify="right")
    for label, cells in summary.rows:
        shown = (_cell(column, cell) for column, cell in zip(summary.columns, cells, strict=True))
        table.add_row(label, *shown)
    print_table(table)
    print_line(MARKS_NOTE)
    for task, note in summary.notes:
        print_line(f"{task}: {note}")
    for names, reason in summary.reasons():
        print_line(f"No figure for {names}: {reason}")


def _cell(column: Column, cell: Cell) -> str:
    if cell.figure is None:
        return "-  "
    return f"{cell.figure:.{column.decimals}f} {MARKS[cell.differs]}"
