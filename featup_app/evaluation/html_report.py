"""The tables of an evaluation as one self-contained HTML page, light and dark, without scripts and other files.

All texts from outside (names of files, methods, reasons) are escaped.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.base.files import plain_facts
from featup_app.evaluation.report import Report, Row
from featup_app.evaluation.summary import MARKS, MARKS_NOTE, Summary
from featup_app.evaluation.tasks import find_task
from featup_app.export.staging import Staging

if TYPE_CHECKING:
    from featup_app.evaluation.samples import Sample

HTML_FILE = "report.html"

_BAR_HEIGHT, _BAR_GAP, _LABEL_WIDTH, _PLOT_WIDTH, _NUMBER_WIDTH = 18, 8, 170, 420, 130

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #5c6672; --line: #d5dbe2; --page: #ffffff; --bar: #3b7dd8;
  --best: #157f4a; --soft: #f3f5f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --muted: #a3abb8; --line: #3d434f; --page: #1e2126;
  --bar: #4ea1ff; --best: #5fd38d; --soft: #272b32; } }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1.2rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; } h3 { font-size: 1rem; }
p.note, figcaption, .muted { color: var(--muted); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--muted); font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
.whole td:nth-child(2), .whole th:nth-child(2) { text-align: right; }
td.best { color: var(--best); font-weight: 700; }
svg { display: block; margin: .8rem 0; max-width: 100%; } svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
svg .bar { fill: var(--bar); } svg .spread { stroke: var(--ink); stroke-width: 1.5; } svg .axis { stroke: var(--line); }
.pictures { display: flex; flex-wrap: wrap; gap: .8rem; } figure { margin: 0; } figure img { display: block; border-radius: 4px;
  max-width: 100%; }
pre { background: var(--soft); padding: .8rem; border-radius: 6px; overflow-x: auto; font-size: 12.5px; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--muted); }
"""


def html_page(
    reports: Sequence[Report],
    *,
    summary: Summary | None = None,
    samples: Sequence[Sample] = (),
    passed_over: Sequence[tuple[str, str]] = (),
) -> str:
    """The page.

    Args:
        reports: the tables.
        summary: the table of all tasks, shown first.
        samples: pictures to show.
        passed_over: (task, reason) of tasks that could not be measured.
    """
    names = ", ".join(report.task for report in reports) or "nothing measured"
    settings = reports[0].settings if reports else {}
    notes = [f"Backbone {settings['backbone']}, layer {settings.get('layer')}." if "backbone" in settings else ""]
    notes.append("± is one standard deviation, over what the table names. Differences are to bilinear interpolation, with the "
                "middle 95 % of 2000 resampled sets of pictures.")  # fmt: skip
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(f'Upsampling methods compared: {names}')}</title><style>{_STYLE}</style></head><body>",
        f'<h1>Upsampling methods compared</h1><p class="note">{escape(" ".join(notes).strip())}</p>',
        "" if summary is None else _whole(summary),
        *(_section(report) for report in reports),
        _pictures(samples),
        _list("Tasks that were passed over", passed_over),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def write_html(
    reports: Sequence[Report],
    folder: Path,
    *,
    summary: Summary | None = None,
    samples: Sequence[Sample] = (),
    passed_over: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write :func:`html_page` into a folder; an older page there is replaced.

    Raises:
        ExportError: if the folder cannot be written.
    """
    with Staging(overwrite=True) as files:
        page = html_page(reports, summary=summary, samples=samples, passed_over=passed_over)
        files.add(folder / HTML_FILE).write_text(page, encoding="utf-8", errors="backslashreplace")
    return folder / HTML_FILE


def _whole(summary: Summary) -> str:
    """The table of all tasks."""
    lines = ["<table><thead><tr><th>method</th>"]
    for column in summary.columns:
        lines.append(f"<th>{escape(column.head)}</th>")
    lines.append("</tr></thead><tbody>")
    best = summary.best()
    for label, cells in summary.rows:
        lines.append(f"<tr><td>{escape(label)}</td>")
        for column, cell, leader in zip(summary.columns, cells, best, strict=True):
            mark = ' class="best"' if leader == label else ""
            tooltip = cell.reason or ("" if cell.difference is None else f"{cell.difference:+.4f} to bilinear")
            text = f"{_number(cell.figure, column.decimals)} {MARKS[cell.differs]}".rstrip()
            lines.append(f'<td{mark} title="{escape(tooltip)}">{text}</td>')
        lines.append("</tr>")
    lines.append("</tbody></table>")
    return (
        f'<section><h2>All tasks</h2><p class="note">{escape(MARKS_NOTE)} The best figure of a column is green.</p>'
        f'<div class="wide whole">{"".join(lines)}</div>'
        f"{_list('Measured on', summary.notes)}{_list('No figure', summary.reasons())}</section>"
    )


def _section(report: Report) -> str:
    title = find_task(report.task).title
    better = "higher" if report.higher_is_better else "lower"
    parts = [
        f'<section><h2>{escape(title[:1].upper() + title[1:])}</h2><p class="note">{escape(report.figure_name)}, {better} '
        f"is better; ± over {escape(report.spread_name)}.{escape(''.join(f' {note}' for note in report.notes))}</p>",
        f'<div class="wide">{_table(report)}</div>',
        *(_bars(report, protocol) for protocol in dict.fromkeys(row.protocol for row in report.rows)),
        _list("Passed over", report.failures),
        "<details><summary>Exact configuration and versions</summary><pre>"
        f"{escape(json.dumps(plain_facts(_shortened(report.settings)), indent=2, sort_keys=True))}</pre></details></section>",
    ]
    return "\n".join(part for part in parts if part)


def _table(report: Report) -> str:
    heads = [
        "method", "protocol", report.figure_name, f"± over {report.spread_name}", "to bilinear", "95 %",
        *(f"{name} ({'higher' if higher else 'lower'} is better)" for name, higher in report.further),
        "seconds a picture", "peak memory (MB)", "parameters", "pictures",
    ]  # fmt: skip
    lines = ["<table><thead><tr>", *(f"<th>{escape(head)}</th>" for head in heads), "</tr></thead><tbody>"]
    for row in report.rows:
        interval = "–" if row.interval is None else f"{row.interval[0]:+.4f} … {row.interval[1]:+.4f}"
        cells = [escape(row.method), escape(row.protocol), _number(row.figure), _number(row.spread)]
        cells += ["–" if row.difference is None else f"{row.difference:+.4f}", interval]
        cells += [_number(row.further.get(name)) for name, _ in report.further]
        cells += [_number(row.seconds, 2), _number(row.memory_mb, 0), _number(row.parameters, 0), str(row.pictures)]
        best = row in _best(report)
        marked = ['<td class="best">' if best and column == 2 else "<td>" for column in range(len(cells))]
        lines.append(f"<tr>{''.join(f'{mark}{cell}</td>' for mark, cell in zip(marked, cells, strict=True))}</tr>")
    return "".join([*lines, "</tbody></table>"])


def _best(report: Report) -> list[Row]:
    """The best row of each protocol."""
    best: dict[str, Row] = {}
    for row in report.rows:
        known = best.get(row.protocol)
        if math.isfinite(row.figure) and (
            known is None or ((row.figure > known.figure) == report.higher_is_better and row.figure != known.figure)
        ):
            best[row.protocol] = row
    return list(best.values())


def _bars(report: Report, protocol: str) -> str:
    """One bar for each method, with its spread as a line; the axis starts at zero or at the lowest negative figure."""
    rows = [row for row in report.rows if row.protocol == protocol and math.isfinite(row.figure)]
    if not rows:
        return ""
    high = max(0.0, *(row.figure + row.spread for row in rows))
    low = min(0.0, *(row.figure - row.spread for row in rows if row.figure < 0), 0.0)
    scale = _PLOT_WIDTH / (high - low) if high > low else 0.0
    height = len(rows) * (_BAR_HEIGHT + _BAR_GAP) + _BAR_GAP
    width = _LABEL_WIDTH + _PLOT_WIDTH + _NUMBER_WIDTH
    zero = _LABEL_WIDTH - low * scale
    label = f"{report.figure_name} of each method, {protocol}"
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{escape(label)}">',
        f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="{height}"/>',
    ]
    for index, row in enumerate(rows):
        top = _BAR_GAP + index * (_BAR_HEIGHT + _BAR_GAP)
        middle, end = top + _BAR_HEIGHT / 2, zero + row.figure * scale
        first, last = max(end - row.spread * scale, _LABEL_WIDTH), end + row.spread * scale
        parts += [
            f'<text x="{_LABEL_WIDTH - 10}" y="{middle + 4.5:.1f}" text-anchor="end">{escape(_cut(row.method))}</text>',
            f'<rect class="bar" x="{min(zero, end):.1f}" y="{top}" width="{abs(end - zero):.1f}" height="{_BAR_HEIGHT}" '
            f'rx="2"><title>{escape(row.method)}</title></rect>',
            f'<line class="spread" x1="{first:.1f}" x2="{last:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>',
            f'<text x="{last + 8:.1f}" y="{middle + 4.5:.1f}">{row.figure:.4f} ± {row.spread:.4f}</text>',
        ]
    return "".join([*parts, "</svg>"])


def _pictures(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    parts = [
        '<section><h2>Pictures</h2><p class="note">The first three principal components of the low-resolution features as '
        "red, green and blue; colours mean the same for every method.</p>"
    ]
    for sample in samples:
        parts.append(f'<h3>{escape(sample.name)}</h3><div class="pictures">')
        for caption, jpeg in sample.pictures:
            source = base64.b64encode(jpeg).decode()
            parts.append(
                f'<figure><img alt="{escape(caption)} of {escape(sample.name)}" src="data:image/jpeg;base64,{source}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        parts.append("</div>")
    return "".join([*parts, "</section>"])


def _list(title: str, entries: Sequence[tuple[str, str]]) -> str:
    if not entries:
        return ""
    lines = "".join(f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in entries)
    return f"<h3>{escape(title)}</h3><ul>{lines}</ul>"


def _shortened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with long lists, such as the fingerprints of training pictures, shortened; report.json has them in full."""
    return {
        name: [value[0], f"... {len(value) - 2} more ...", value[-1]]
        if isinstance(value, list | tuple) and len(value) > 40
        else value
        for name, value in settings.items()
    }


def _number(value: float | None, decimals: int = 4) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{decimals}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _cut(name: str, longest: int = 24) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
