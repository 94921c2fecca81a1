"""All tasks in one table: a row for each method, and the columns of the paper's table (FeatUp, ICLR 2024, section 4).

Cells use the first protocol of each task. A figure is marked if the 95 % interval of its difference to bilinear excludes zero. A
cell without a figure has the reason.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featup_app.evaluation.report import Report, Row, write_table

BETTER, WORSE = "better", "worse"
MARKS = {BETTER: "+", WORSE: "-", None: " "}
"""The mark behind a figure, by its difference to bilinear."""
MARKS_NOTE = "+ better, - worse than bilinear: the 95 % interval of the difference excludes zero."


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: title of the column.
        task: name of the task.
        further: name of a further figure of the task; empty for its main figure.
        higher_is_better: which way figures improve; None to use that of the report.
        decimals: number of decimals to show.
    """

    title: str
    task: str
    further: str = ""
    higher_is_better: bool | None = None
    decimals: int = 4

    @property
    def head(self) -> str:
        """The title, with the direction in which figures improve if it is known."""
        if self.higher_is_better is None:
            return self.title
        return f"{self.title} ({'higher' if self.higher_is_better else 'lower'} is better)"


COLUMNS = (
    Column("CAM average drop (%)", "cam", decimals=2),
    Column("CAM average increase (%)", "cam", "average increase", True, decimals=1),
    Column("segmentation mIoU", "seg"),
    Column("segmentation accuracy", "seg", "pixel accuracy", True),
    Column("depth RMSE (m)", "depth"),
    Column("depth > 1.25 (%)", "depth", "above 1.25 (%)", False, decimals=2),
    Column("preservation", "preserve"),
    Column("held-out error", "quality"),
    Column("one-click IoU", "clicks"),
    Column("end-to-end mIoU", "end2end"),
)


@dataclass(frozen=True)
class Cell:
    """A figure of the table.

    Attributes:
        figure: the figure; None where there is none.
        difference: difference to bilinear; None where it is not computed.
        interval: ends of the 95 % interval of the difference.
        differs: ``better`` or ``worse`` than bilinear where the interval excludes zero, else None.
        reason: why there is no figure; empty where there is one.
    """

    figure: float | None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    differs: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Summary:
    """The whole table.

    Attributes:
        columns: the columns of the chosen tasks.
        rows: (label of the method, cells in the order of the columns).
        notes: (task, note on its pictures, protocol and backbone).
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        rows = [
            {
                "method": label,
                "cells": {
                    column.title: dataclasses.asdict(cell) for column, cell in zip(self.columns, cells, strict=True)
                },
            }
            for label, cells in self.rows
        ]
        return {
            "columns": [dataclasses.asdict(column) for column in self.columns],
            "rows": rows,
            "notes": dict(self.notes),
        }

    def as_csv(self) -> str:
        """One line a method: figures, and beside each whether it differs from bilinear."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        heads = [head for column in self.columns for head in (column.title, f"{column.title}: against bilinear")]
        writer.writerow(["method", *heads])
        for label, cells in self.rows:
            values = [value for cell in cells for value in (cell.figure, cell.differs)]
            writer.writerow([label, *("" if value is None else value for value in values)])
        return stream.getvalue()

    def reasons(self) -> list[tuple[str, str]]:
        """(methods, reason) of the cells without a figure, each reason once."""
        found: dict[str, list[str]] = {}
        for column, *cells in zip(self.columns, *(cells for _, cells in self.rows), strict=True):
            for (label, _), cell in zip(self.rows, cells, strict=True):
                if cell.figure is None and (entry := f"{label} ({column.task})") not in found.get(cell.reason, []):
                    found.setdefault(cell.reason, []).append(entry)
        return [(", ".join(entries), reason) for reason, entries in found.items()]

    def best(self) -> list[str | None]:
        """The method with the best figure in each column."""
        found: list[str | None] = []
        for index, column in enumerate(self.columns):
            known = [(cells[index].figure, label) for label, cells in self.rows]
            figures = [(figure, label) for figure, label in known if figure is not None]
            choose = max if column.higher_is_better else min
            found.append(choose(figures, key=lambda pair: pair[0])[1] if figures else None)
        return found


def summarise(
    methods: Sequence[str], tasks: Sequence[str], reports: Sequence[Report], passed_over: Mapping[str, str]
) -> Summary:
    """The table of several tasks.

    Args:
        methods: labels, one for each row.
        tasks: names of the tasks that were requested.
        reports: reports of the tasks that could be measured.
        passed_over: reasons why others could not, by task.
    """
    known = {report.task: report for report in reports}
    columns = tuple(
        dataclasses.replace(column, higher_is_better=known[column.task].higher_is_better)
        if column.higher_is_better is None and column.task in known
        else column
        for column in COLUMNS
        if column.task in tasks
    )
    rows = tuple(
        (label, tuple(_cell(label, column, known.get(column.task), passed_over) for column in columns))
        for label in methods
    )
    return Summary(columns, rows, tuple((report.task, _note(report)) for report in reports))


def _cell(label: str, column: Column, report: Report | None, passed_over: Mapping[str, str]) -> Cell:
    if report is None:
        return Cell(None, reason=passed_over.get(column.task, "This task was not done."))
    row = first_row(report, label)
    if row is None:
        reasons = dict(report.failures)
        return Cell(None, reason=reasons.get(label, "The method could not be measured by this task."))
    figure = row.further.get(column.further) if column.further else row.figure
    if figure is None or not math.isfinite(figure):
        return Cell(None, reason="The figure is not defined for these pictures.")
    if column.further or row.difference is None or row.interval is None:
        return Cell(figure)
    low, high = row.interval
    differs = None
    if low > 0 or high < 0:
        differs = BETTER if (low > 0) == report.higher_is_better else WORSE
    return Cell(figure, row.difference, row.interval, differs)


def first_row(report: Report, label: str) -> Row | None:
    """The row of a method under the first protocol of a table."""
    protocol = report.rows[0].protocol if report.rows else ""
    return next((row for row in report.rows if (row.method, row.protocol) == (label, protocol)), None)


def _note(report: Report) -> str:
    settings, first = report.settings, report.rows[0]
    layer = settings.get("layer")
    layers = layer if isinstance(layer, str) else ", ".join(str(name) for name in layer or ())
    return f"{first.pictures} pictures, {first.protocol}, {settings.get('backbone')} at {layers}"


def write_summary(summary: Summary, folder: Path) -> list[Path]:
    """Write the table as JSON and CSV, see :func:`~featup_app.evaluation.report.write_table`."""
    return write_table(summary.as_dict(), summary.as_csv(), folder)
