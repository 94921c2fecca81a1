"""A table of methods: its rows, and its files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featup_app.export.staging import Staging

REPORT_FILES = ("report.json", "report.csv")


@dataclass(frozen=True)
class Row:
    """One method under one protocol.

    Attributes:
        method: label of the method.
        protocol: way of measuring, such as ``transfer``.
        figure: the main result.
        spread: standard deviation of the figure over folds, or over pictures.
        difference: difference of the figure to bilinear under the same protocol; None for bilinear itself and without bilinear.
        interval: ends of the 95 % bootstrap interval of that difference over pictures.
        seconds: seconds per picture, to compute the field and to measure it.
        pictures: number of pictures.
        details: further numbers for the file, JSON-able.
        further: further figures with columns of their own, by the names in ``Report.further``; None where there is none.
        memory_mb: peak memory of the method on one picture beyond the state before (1e6 bytes); None where not measured.
        parameters: number of learned parameters of the method; None where not measured.
    """

    method: str
    protocol: str
    figure: float
    spread: float
    difference: float | None
    interval: tuple[float, float] | None
    seconds: float
    pictures: int
    details: Mapping[str, Any] = field(default_factory=dict)
    further: Mapping[str, float | None] = field(default_factory=dict)
    memory_mb: float | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Report:
    """The result of one task.

    Attributes:
        task: name of the task.
        figure_name: name of the figures, with their unit.
        spread_name: what the spreads are computed over.
        higher_is_better: which way figures improve.
        rows: one for each method and protocol.
        failures: (picture or method, reason) of those that could not be measured.
        settings: everything that the figures depend on, JSON-able.
        further: names of the further figures of the rows, and whether higher is better.
        notes: sentences about what was measured.
    """

    task: str
    figure_name: str
    spread_name: str
    higher_is_better: bool
    rows: tuple[Row, ...]
    failures: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any]
    further: tuple[tuple[str, bool], ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        facts = dataclasses.asdict(self)
        facts["failures"] = [{"picture": picture, "reason": reason} for picture, reason in self.failures]
        return facts

    def as_csv(self) -> str:
        """One line a row."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            ["method", "protocol", self.figure_name, f"spread over {self.spread_name}", "difference to bilinear",
             "interval low", "interval high", "seconds per picture", "pictures", *(name for name, _ in self.further),
             "peak memory (MB)", "parameters"]
        )  # fmt: skip
        for row in self.rows:
            low, high = row.interval or ("", "")
            difference = "" if row.difference is None else row.difference
            writer.writerow(
                [row.method, row.protocol, row.figure, row.spread, difference, low, high, row.seconds, row.pictures]
                + [row.further[name] for name, _ in self.further]
                + ["" if value is None else value for value in (row.memory_mb, row.parameters)]
            )
        return stream.getvalue()


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write the report as JSON and CSV, see :func:`write_table`."""
    return write_table(report.as_dict(), report.as_csv(), folder)


def write_table(values: Mapping[str, Any], as_csv: str, folder: Path) -> list[Path]:
    """Write a table as JSON and CSV into a folder, both or none; older files there are replaced.

    Raises:
        ExportError: if the folder cannot be written.
    """
    texts = json.dumps(values, indent=2, sort_keys=True) + "\n", as_csv
    with Staging(overwrite=True) as files:
        for name, text in zip(REPORT_FILES, texts, strict=True):
            files.add(folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    return [folder / name for name in REPORT_FILES]
