"""Tables of an evaluation on the terminal."""

from __future__ import annotations

from featup_app.cli.terminal import print_line, print_table
from featup_app.evaluation.report import Report
from featup_app.evaluation.summary import MARKS, MARKS_NOTE, Cell, Column, Summary


def print_report(report: Report) -> None:
    """The table of one task, with its notes."""
    from rich.table import Table

    better = "higher" if report.higher_is_better else "lower"
    extra = ("peak MB", "parameters") if any(row.parameters is not None for row in report.rows) else ()
    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(
        ("method", "protocol", f"{report.figure_name} ({better} is better)", f"± over {report.spread_name}",
         "to bilinear", "95 %", "s/picture", "pictures", *(name for name, _ in report.further), *extra)
    ):  # fmt: skip
        table.add_column(title, justify="left" if index < 2 else "right", no_wrap=index == 0)
    for row in report.rows:
        table.add_row(
            row.method,
            row.protocol,
            f"{row.figure:.4f}",
            f"{row.spread:.4f}",
            "-" if row.difference is None else f"{row.difference:+.4f}",
            "-" if row.interval is None else f"{row.interval[0]:+.4f} .. {row.interval[1]:+.4f}",
            f"{row.seconds:.2f}",
            str(row.pictures),
            *("-" if row.further[name] is None else f"{row.further[name]:.4f}" for name, _ in report.further),
            *("-" if value is None else f"{value:,.0f}" for value in (row.memory_mb, row.parameters)[: len(extra)]),
        )
    print_table(table)
    for note in report.notes:
        print_line(note)


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
