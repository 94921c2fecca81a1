"""``featup-app bench implicit``: cost and quality of a network fitted to an image, as tables or JSON."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.base.errors import FeatUpError
from featup_app.base.progress import Progress, part_of
from featup_app.cli.terminal import print_json, print_line
from featup_app.images import sample_images, visible_pictures

if TYPE_CHECKING:
    from featup_app.bench.implicit import ImplicitRow
    from featup_app.bench.implicit_ablations import AblationRow
    from featup_app.bench.implicit_memory import MemoryRow

SUBJECT = "implicit"
_PHOTOS = 3
_QUICK_INPUT = "64"
_QUICK_VIEWS = 16
_QUICK_STEPS = 4


def bench_implicit(
    photos: Path | None,
    *,
    quick: bool,
    ablate: bool,
    paper_steps: int,
    as_json: bool,
    progress: Progress,
) -> None:
    """Measure and print.

    Args:
        photos: folder whose first photos are used; None for the bundled ones.
        quick: one small photo and backbone, few views and steps: a trial run whose figures mean nothing.
        ablate: change one setting of the recipe at a time, instead of the comparison with the published recipe.
        paper_steps: gradient steps of the published recipe.
        as_json: one JSON document instead of tables.
        progress: may cancel.

    Raises:
        FeatUpError: if there are no photos.
    """
    chosen = _find_photos(photos)[: 1 if quick else _PHOTOS]
    rows: list[ImplicitRow] = []
    memory: list[MemoryRow] = []
    changes: list[AblationRow] = []
    if ablate:
        changes = _ablations(chosen, quick, progress)
    else:
        rows = _compared(chosen, quick, paper_steps, progress)
        memory = _memory(chosen[0], quick, progress)
    import torch

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if as_json:
        facts: dict[str, Any] = {"threads": torch.get_num_threads(), "load": load, "quick": quick}
        tables: dict[str, list[Any]] = {"rows": rows, "memory": memory, "ablations": changes}
        print_json({**facts, **{name: [dataclasses.asdict(row) for row in table] for name, table in tables.items()}})
        return
    print_line(f"{torch.get_num_threads()} threads" + ("" if load is None else f"; load {load:.1f}"))
    if ablate:
        _print_ablations(changes)
    else:
        _print_rows(rows)
        _print_memory(memory)


def _find_photos(folder: Path | None) -> list[Path]:
    if folder is None:
        return sample_images()
    if not folder.is_dir():
        raise FeatUpError(f'There is no folder "{folder}" with photos; check its name, or leave out --photos.')
    found = visible_pictures(folder)
    if not found:
        raise FeatUpError(f'The folder "{folder}" holds no photos; choose another, or leave out --photos.')
    return found


def _compared(photos: list[Path], quick: bool, paper_steps: int, progress: Progress) -> list[ImplicitRow]:
    from featup_app.bench import implicit as measures
    from featup_app.fields.implicit.recipe import DEFAULT

    ours = dataclasses.replace(DEFAULT, views=_QUICK_VIEWS) if quick else DEFAULT
    factors = measures.FACTORS[:1] if quick else measures.FACTORS
    size = _QUICK_INPUT if quick else measures.INPUT
    return [
        measures.compare_recipes(
            features,
            ours=ours,
            paper_steps=min(paper_steps, _QUICK_STEPS) if quick else paper_steps,
            factors=factors,
            progress=_of_photo(progress, f"{features.image.name}, {backbone}"),
        )
        for backbone in measures.BACKBONES[-1 if quick else 0 :]
        for features in measures.photo_features(photos, backbone, size, progress)
    ]


def _memory(photo: Path, quick: bool, progress: Progress) -> list[MemoryRow]:
    from featup_app.bench import implicit as measures
    from featup_app.bench.implicit_memory import LARGE_INPUT, peak_memory

    sizes = (_QUICK_INPUT,) if quick else (measures.INPUT, LARGE_INPUT)
    return [
        peak_memory(photo, backbone, size, progress=progress)
        for backbone in measures.BACKBONES[-1 if quick else 0 :]
        for size in sizes
    ]


def _ablations(photos: list[Path], quick: bool, progress: Progress) -> list[AblationRow]:
    from featup_app.bench import implicit as measures
    from featup_app.bench.implicit_ablations import DESCENT_STEPS, ablations, run_ablations
    from featup_app.fields.implicit.recipe import DEFAULT

    base, steps, size = DEFAULT, DESCENT_STEPS, measures.INPUT
    if quick:
        base, steps, size = dataclasses.replace(base, views=_QUICK_VIEWS), _QUICK_STEPS, _QUICK_INPUT
    backbones = measures.BACKBONES[-1 if quick else 0 :]
    maps = [
        features for backbone in backbones for features in measures.photo_features(photos, backbone, size, progress)
    ]
    return list(run_ablations(maps, ablations(base, descent_steps=steps), progress))


def _print_rows(rows: list[ImplicitRow]) -> None:
    """Print the comparison, at most 100 characters wide."""
    print_line(
        f"{'':<34}{'held-out':>9}{'seconds':>9}{'views':>6}{'steps':>6}{'s/step':>8}{'2x grid':>9}{'4x grid':>9}"
    )
    for row in rows:
        print_line(f"{row.photo[:24]}, {row.backbone}, {row.input_hw[0]}x{row.input_hw[1]}")
        for name, baseline in (("bilinear", row.bilinear), ("JBU", row.jbu)):
            print_line(f"    {name:<30}{baseline.error:>9.4f}{baseline.seconds:>9.2f}")
        for name, fit in (("ours", row.ours), (f"published recipe, {row.paper.steps} steps", row.paper)):
            grids = "".join(f"{100 * fit.off_grid[n]:>8.1f}%" if n in fit.off_grid else f"{'-':>9}" for n in (2, 4))
            print_line(
                f"    {name:<30}{fit.error:>9.4f}{fit.seconds:>9.2f}{fit.views:>6}{fit.steps:>6}"
                f"{fit.seconds_per_step:>8.2f}{grids}"
            )
        source = "extrapolated from its steps" if row.paper_extrapolated else "measured"
        print_line(
            f"    all of the published recipe: {row.paper_seconds:.0f} s ({source}), {row.speedup:.1f} times ours"
        )
        if row.seconds_to_paper is not None:
            print_line(f"    ours reached its error after {row.seconds_to_paper:.1f} s")
        elif not row.paper_extrapolated:
            print_line("    ours did not reach its error")
        print_line("    ours, error after seconds: " + _curve(row))
    print_line("Errors: held-out reprojection. Grids: change on a denser grid, by the field's deviation.")


def _curve(row: ImplicitRow) -> str:
    points = row.ours.points
    shown = points if len(points) <= 5 else (*points[:3], points[len(points) // 2], points[-1])
    return ", ".join(f"{point.error:.4f} ({point.seconds:.1f})" for point in shown)


def _print_memory(rows: list[MemoryRow]) -> None:
    print_line("")
    print_line(f"{'peak memory of our fit':<34}{'MB':>9}{'predicted':>10}{'seconds':>9}{'held-out':>9}")
    for row in rows:
        megabytes = "-" if row.extra_mb is None else f"{row.extra_mb:.0f}"
        title = f"{row.backbone[:21]}, {row.input_hw[0]}x{row.input_hw[1]}"
        print_line(f"    {title:<30}{megabytes:>9}{row.predicted_mb:>10.0f}{row.seconds:>9.1f}{row.error:>9.4f}")


def _print_ablations(rows: list[AblationRow]) -> None:
    print_line(f"{'switch':<18}{'setting':<36}{'held-out':>9}{'to first':>10}{'seconds':>9}")
    for row in rows:
        print_line(f"{row.switch:<18}{row.setting:<36}{row.error:>9.4f}{row.difference:>+10.4f}{row.seconds:>9.1f}")
    print_line("To first: to the first row, or the first with a descent for those with one. Means over photos.")


def _of_photo(progress: Progress, photo: str) -> Progress:
    return part_of(progress, words=lambda words: f"{photo}: {words}")
