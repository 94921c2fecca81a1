"""Comparisons as sheets: columns of settings, rows of lenses, written as PNG and SVG. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.base.errors import FeatUpError
from featup_app.base.progress import Progress, part_of, silent
from featup_app.engine.comparison import ColumnView, Comparison, DifferenceMap, in_one_scale
from featup_app.engine.comparison_titles import shared_words
from featup_app.engine.exporting import proposed_stem, targets_of, unique_stems
from featup_app.engine.settings import ViewSettings
from featup_app.export import Staging, build_provenance
from featup_app.export.sheet_files import SHEET_SUFFIXES, check_sheet_name, stage_sheet
from featup_app.export.sheets import WIDTH, Figure, Sheet, SheetCell, SheetColumn, SheetRow, laid_out
from featup_app.images import Image
from featup_app.images.selection import named
from featup_app.lenses import SCORES, Request, ScoreName, find_lens
from featup_app.lenses.lens import Components

if TYPE_CHECKING:
    from featup_app.engine.scoring import MethodScores
    from featup_app.engine.session import Session

NAME = "compare"
"""Part of the name of a sheet in a folder: ``cat.compare.png``."""


@dataclass(frozen=True)
class SheetOptions:
    """What is written of a comparison.

    Attributes:
        requests: of lenses, one row each.
        difference: whether a last row shows the distance of each other column to the first one.
        width: of the sheet in pixels.
        overwrite: whether files that are there already may be replaced.
        inputs: files that are never replaced, beside that of the image.
    """

    requests: tuple[Request, ...]
    difference: bool = False
    width: int = WIDTH
    overwrite: bool = False
    inputs: tuple[Path, ...] = ()

    def check(self, image: Image) -> None:
        """Raises FeatUpError if these options cannot be met, whatever the columns."""
        if not self.requests:
            raise FeatUpError("There is nothing to compare: no views are asked for; name some, such as pca.")
        for request in self.requests:
            request.check_image(image)


@dataclass(frozen=True)
class ColumnReport:
    """What came of one column.

    Attributes:
        title: names what differs.
        settings: of the column.
        cost: as :class:`~featup_app.engine.comparison.Cost` by name; None if it failed before.
        scores: by the keys of ``lenses.SCORES``.
        errors: sentences of what failed; none if all went well.
    """

    title: str
    settings: ViewSettings
    cost: dict[str, float | None] | None
    scores: dict[str, float]
    errors: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The attributes in the types that JSON knows; files by their names, and numbers that are not defined as null."""
        settings = dataclasses.asdict(self.settings)
        for name in ("weights_file", "upsampler"):
            settings[name] = settings[name] and Path(settings[name]).name
        scores = {name: value if math.isfinite(value) else None for name, value in self.scores.items()}
        return {
            "title": self.title,
            "settings": settings,
            "cost": self.cost,
            "scores": scores,
            "errors": list(self.errors),
        }


@dataclass(frozen=True)
class SheetReport:
    """The files of a sheet, and what came of its columns."""

    files: tuple[Path, ...]
    columns: tuple[ColumnReport, ...]

    @property
    def failed(self) -> bool:
        """Whether something of a column could not be shown."""
        return any(column.errors for column in self.columns)


def sheet_targets(place: Path, image: Image) -> list[Path]:
    """The files that an argument means: itself if it ends like a file, else a PNG and an SVG in that folder.

    Raises:
        ExportError: if it ends like a file of another kind.
    """
    stem = proposed_stem(image) if image.path is None else unique_stems([named(image.path, image.selection)])[0]
    return targets_of(place, f"{stem}.{NAME}", SHEET_SUFFIXES, check_sheet_name)


def write_comparison(
    session: Session,
    comparison: Comparison,
    options: SheetOptions,
    targets: Sequence[Path],
    progress: Progress = silent,
) -> SheetReport:
    """Compute a comparison and write its sheet. A column that fails says why on the sheet, and leaves the others.

    Args:
        session: computes.
        comparison: image and columns.
        options: what is shown.
        targets: files, .png or .svg, which appear together.
        progress: may cancel; then, as after any failure, nothing is left behind.

    Raises:
        FeatUpError: if no column could show anything, or a file cannot be written.
    """
    options.check(comparison.image)
    path = comparison.image.path
    inputs = options.inputs if path is None else (*options.inputs, path)
    with Staging(overwrite=options.overwrite, inputs=inputs) as files:
        for target in targets:  # computing can take minutes, so look first whether its result may be written
            files.check(target)
        made = _Made(session, comparison, options, progress)
        layout = laid_out(made.sheet())
        progress("writing the sheet", 0, 0)
        for target in targets:
            stage_sheet(files, target, layout, provenance=made.provenance(), width=options.width)
    return SheetReport(tuple(targets), made.reports())


class _Made:
    """The views, scores and differences of a comparison. Columns are computed one after the other, each with all its rows."""

    def __init__(self, session: Session, comparison: Comparison, options: SheetOptions, progress: Progress) -> None:
        self.comparison, self.options = comparison, options
        columns: list[list[ColumnView]] = []
        self.scores: list[MethodScores | None] = []
        self._unscored: dict[int, str] = {}
        for index, title in enumerate(comparison.titles):
            own = part_of(progress, words=_named(title))
            columns.append([comparison.view(session, index, request, own) for request in options.requests])
            self.scores.append(self._score(session, index, own))
        rows = (tuple(column[row] for column in columns) for row in range(len(options.requests)))
        self.rows = [in_one_scale(row) for row in rows]
        self.differences = self._differences(session, progress) if options.difference else []
        self._check_something()

    def _score(self, session: Session, index: int, progress: Progress) -> MethodScores | None:
        try:
            return self.comparison.scores(session, index, progress)
        except FeatUpError as error:
            self._unscored[index] = str(error)
            return None

    def _differences(self, session: Session, progress: Progress) -> list[DifferenceMap | str]:
        """Those of all columns but the first to the first, in one scale; or the sentence why there is none."""
        found: list[DifferenceMap | str] = []
        for other in range(1, len(self.comparison.columns)):
            try:
                found.append(self.comparison.difference(session, 0, other, progress))
            except FeatUpError as error:
                found.append(str(error))
        high = max((each.limits[1] for each in found if isinstance(each, DifferenceMap)), default=1.0)
        return [
            dataclasses.replace(each, limits=(0.0, high)) if isinstance(each, DifferenceMap) else each for each in found
        ]

    def _check_something(self) -> None:
        if not any(each.view is not None for row in self.rows for each in row):
            raise FeatUpError(f"None of the columns can be shown. The first one: {self._errors(0)[0]}")

    def _errors(self, index: int) -> tuple[str, ...]:
        found = [error for row in self.rows if (error := row[index].error) is not None]
        found += [self._unscored[index]] if index in self._unscored else []
        return tuple(dict.fromkeys(found))

    def reports(self) -> tuple[ColumnReport, ...]:
        reports = []
        for index, title in enumerate(self.comparison.titles):
            cost = next((row[index].cost for row in self.rows if row[index].cost is not None), None)
            known = self.scores[index]
            costs = None if cost is None else dataclasses.asdict(cost)
            scores = {} if known is None else known.scores
            reports.append(ColumnReport(title, self.comparison.columns[index], costs, scores, self._errors(index)))
        return tuple(reports)

    # -- the sheet -------------------------------------------------------------------------------------------------------

    def sheet(self) -> Sheet:
        image = self.comparison.image
        rows = [self._row(request, row) for request, row in zip(self.options.requests, self.rows, strict=True)]
        if self.differences:
            rows.append(self._difference_row())
        columns = tuple(self._column(index) for index in range(len(self.comparison.columns)))
        lines = [shared_words(self.comparison.columns)]
        if any(figure.best for column in columns for figure in column.figures):
            higher = " and ".join(name.title for name in self._shown_scores() if name.higher_is_better)
            lines.append(f"Of the scores, the best are green: of {higher} the highest, of the others the lowest.")
        return Sheet(image.name, tuple(line for line in lines if line), image.pixels, columns, tuple(rows))

    def _shown_scores(self) -> list[ScoreName]:
        count = len(self.comparison.columns)
        return [score for score in SCORES if any(self._value(score, index) is not None for index in range(count))]

    def _column(self, index: int) -> SheetColumn:
        views = [row[index] for row in self.rows]
        cost = next((view.cost for view in views if view.cost is not None), None)
        lines = [] if cost is None else [*cost.in_words()]
        lines += dict.fromkeys(view.note for view in views if view.note is not None)
        errors, shown = self._errors(index), any(view.view is not None for view in views)
        figures = tuple(self._figure(score, index) for score in self._shown_scores() if self.scores[index] is not None)
        error = errors[0] if errors and not shown else None
        return SheetColumn(self.comparison.titles[index], tuple(lines), error, figures)

    def _value(self, score: ScoreName, index: int) -> float | None:
        known = self.scores[index]
        return None if known is None else known.scores.get(score.key)

    def _figure(self, score: ScoreName, index: int) -> Figure:
        """A score; marked if it is better than those of all other columns, where they measure the same features."""
        values = [self._value(score, each) for each in range(len(self.comparison.columns))]
        own = values[index]
        if own is None or not math.isfinite(own):
            return Figure(score.title, "-")
        same = len({(each.backbone, each.layer, each.weights_file) for each in self.comparison.columns}) == 1
        sign = 1 if score.higher_is_better else -1
        others = [value for each, value in enumerate(values) if each != index and value is not None]
        better = [sign * (round(own, score.decimals) - round(value, score.decimals)) > 0 for value in others]
        return Figure(score.title, f"{own:.{score.decimals}f}", same and bool(better) and all(better))

    def _row(self, request: Request, row: Sequence[ColumnView]) -> SheetRow:
        first = next((each.view for each in row if each.view is not None), None)
        title = find_lens(request.lens).label(request, first)
        subtitles = {each.view.subtitle() for each in row if each.view is not None}
        cells = []
        for each in row:
            if each.view is None:
                whole = all(other[each.column].view is None for other in self.rows)
                cells.append(SheetCell(None, "" if whole else each.error or "", error=True))
            else:
                cells.append(SheetCell(each.view.picture(), each.view.subtitle() if len(subtitles) > 1 else ""))
        legend = None if first is None else first.legend()
        if isinstance(legend, Components) and any(each.note for each in row):
            legend = dataclasses.replace(legend, explained=())  # each basis has its own shares
        return SheetRow(title, tuple(cells), legend, self._marks(request))

    def _marks(self, request: Request) -> tuple[tuple[float, float], ...]:
        """The point that a request asks about, if it has one."""
        point, (height, width) = getattr(request, "point", None), self.comparison.image.size_hw
        return () if point is None else ((point[0] / width, point[1] / height),)

    def _difference_row(self) -> SheetRow:
        shown = [each for each in self.differences if isinstance(each, DifferenceMap)]
        cells = [
            SheetCell(each.picture()) if isinstance(each, DifferenceMap) else SheetCell(None, each)
            for each in self.differences
        ]
        first = SheetCell(None, empty="reference")
        title = f"Difference to {self.comparison.titles[0]}"
        return SheetRow(title, (first, *cells), shown[0].legend() if shown else None)

    def provenance(self) -> dict[str, Any]:
        """The record of the first view, with the columns and rows of the sheet."""
        look = next(each.look for row in self.rows for each in row if each.look is not None)
        facts = build_provenance(features=look.features, field=look.field, size=look.size)
        rows = [
            {"request": request.as_json(), "limits": getattr(_legend(row), "limits", None)}
            for request, row in zip(self.options.requests, self.rows, strict=True)
        ]
        columns = [report.as_json() for report in self.reports()]
        return {**facts, "comparison": {"columns": columns, "rows": rows, "difference": self.options.difference}}


def _legend(row: Sequence[ColumnView]) -> object:
    return next((each.view.legend() for each in row if each.view is not None), None)


def _named(title: str) -> Any:
    return lambda words: f"{title}: {words}"
