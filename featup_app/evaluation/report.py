"""A table of methods: its rows, and the files made of it."""

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
        method: its label.
        protocol: what was measured, such as ``transfer``.
        figure: the headline number.
        spread: standard deviation of the figure over folds, or over pictures.
        difference: to bilinear under the same protocol; None for bilinear itself and where it was not asked for.
        interval: ends of the 95 % bootstrap interval of that difference over pictures.
        seconds: per picture, for making the field and measuring it.
        pictures: how many there are behind the figure.
        details: more numbers, JSON-able.
        further: more figures with columns of their own, by the names in ``Report.further``; None where there is none.
        memory_mb: peak memory of the method on one picture beyond the state before (1e6 bytes); None where not measured.
        parameters: numbers that the method has learned; None where not measured.
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
    """The outcome of an evaluation.

    Attributes:
        task: name of the task.
        figure_name: what the figures are.
        spread_name: what the spreads are over.
        higher_is_better: which way figures improve.
        rows: one for each method and protocol.
        failures: pictures that could not be measured, with the reason.
        settings: everything that the figures depend on, JSON-able.
        further: names of the further figures of the rows, and whether higher is better.
    """

    task: str
    figure_name: str
    spread_name: str
    higher_is_better: bool
    rows: tuple[Row, ...]
    failures: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any]
    further: tuple[tuple[str, bool], ...] = ()

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
    """Write the table as JSON and CSV into a folder, both or none; an older report there is replaced.

    Raises:
        ExportError: if the folder cannot be written.
    """
    texts = json.dumps(report.as_dict(), indent=2, sort_keys=True) + "\n", report.as_csv()
    with Staging(overwrite=True) as files:
        for name, text in zip(REPORT_FILES, texts, strict=True):
            files.add(folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in REPORT_FILES]
