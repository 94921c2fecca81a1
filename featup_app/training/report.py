"""The files of a training: the weights, a report for programs (.json) and a curve for people (.png)."""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from featup_app.base.errors import UpsamplerError
from featup_app.base.files import replace_or_raise
from featup_app.fields.registry import find_method
from featup_app.fields.upsampler_files import save_upsampler

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

    from featup_app.training.state import TrainingResult

SCHEMA = "featup-app/training-report"
VERSION = 1

_SIZE = (960, 540)
_LEFT, _TOP, _RIGHT, _BOTTOM = 90, 64, 30, 64
_INK, _PALE, _STACK, _BILINEAR, _CLASSICAL = "#222222", "#dddddd", "#1f6fb4", "#c44e52", "#7a7a7a"
_FONT = 17


def save_training(result: TrainingResult, path: Path, *, data: str | None = None) -> tuple[Path, Path, Path]:
    """Write the weights, the report (.json) and the curve (.png) beside them.

    Args:
        result: of the training.
        path: of the weights, ending in .safetensors.
        data: what it was trained on, in words, for people who use the weights; the number of pictures if not given.

    Returns:
        The three files. Each appears whole or not at all, the weights last.

    Raises:
        UpsamplerError: if one cannot be written.
    """
    report = training_report(result, data=data)
    curve = path.with_suffix(".png")
    facts = path.with_suffix(".json")
    replace_or_raise(curve, draw_curve(result), UpsamplerError)
    replace_or_raise(facts, json.dumps(report, indent=2, sort_keys=True, allow_nan=False).encode(), UpsamplerError)
    provenance = {key: value for key, value in report.items() if key not in ("curve", "schema", "version")}
    weights = save_upsampler(
        path, result.stack, norm=result.norm, restoration=result.restoration, provenance=provenance
    )
    return weights, facts, curve


def training_report(result: TrainingResult, *, data: str | None = None) -> dict[str, Any]:
    """Everything about a training, JSON-able."""
    sets = result.facts["sets"]
    first = sets[0]
    method = find_method(result.method).title.removeprefix("FeatUp ")
    if result.universal:
        title = f"universal {method}, trained on {' and '.join(each['backbone'] for each in sets)}"
    else:
        title = f"{method} for {first['backbone']}, {first['layer']}"
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "title": title,
        "method": result.method,
        "backbone": [each["backbone"] for each in sets] if result.universal else first["backbone"],
        "layer": [each["layer"] for each in sets] if result.universal else first["layer"],
        "channels": None if result.universal else first["channels"],
        "data": data or f"{first['pictures']} pictures",
        "created": _now(),
        "software": _versions(),
        "recipe": result.facts["recipe"],
        "seed": result.facts["seed"],
        "sets": sets,
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 3),
        "processes": result.facts["processes"],
        "threads": torch.get_num_threads(),
        "stopped": result.stopped,
        "held_out_reprojection_error": result.figures,
        "curve": [vars(point) for point in result.curve],
    }


def _now() -> str:
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(fixed), timezone.utc) if fixed.isdigit() else datetime.now(timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("featup-app", "torch", "timm"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def draw_curve(result: TrainingResult) -> bytes:
    """The held-out error over the steps as a PNG, with bilinear and classical upsampling as lines to beat."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", _SIZE, "white")
    pen = ImageDraw.Draw(picture)
    pen.font = ImageFont.load_default(_FONT)
    points = [(point.step, point.held_out) for point in result.curve]
    lines = [
        ("bilinear", _BILINEAR, result.baselines.get("bilinear")),
        ("classical", _CLASSICAL, result.baselines.get("classical")),
    ]
    levels = [value for _, value in points] + [value for _, _, value in lines if value is not None]
    ticks = _round_ticks(min(levels, default=0.0), max(levels, default=1.0))
    last = max(1, max((step for step, _ in points), default=1))

    def place(step: float, value: float) -> tuple[float, float]:
        wide, high = _SIZE[0] - _LEFT - _RIGHT, _SIZE[1] - _TOP - _BOTTOM
        return _LEFT + wide * step / last, _TOP + high * (ticks[-1] - value) / (ticks[-1] - ticks[0])

    _draw_axes(pen, ticks, last, place)
    for _, colour, value in lines:
        if value is not None:
            pen.line([place(0, value), place(last, value)], fill=colour, width=2)
    if len(points) > 1:
        pen.line([place(*point) for point in points], fill=_STACK, width=3, joint="curve")
    for x, y in (place(*point) for point in points):
        pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=_STACK)
    _draw_legend(pen, [("best", _STACK, min((error for _, error in points), default=None)), *lines])
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return content.getvalue()


def _round_ticks(low: float, high: float) -> list[float]:
    """Four to eleven round numbers around a range."""
    span = max(high - low, 1e-3 * max(abs(high), 1e-9))
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 8)
    first, final = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, max(final, first + 1) + 1)]


def _draw_axes(pen: ImageDraw, ticks: Sequence[float], last: int, place: Any) -> None:
    digits = max(0, 1 - math.floor(math.log10(ticks[1] - ticks[0])))
    for tick in ticks:
        pen.line([place(0, tick), place(last, tick)], fill=_PALE, width=1)
        x, y = place(0, tick)
        pen.text((x - 10, y), f"{tick:.{digits}f}", fill=_INK, anchor="rm")
    for quarter in range(5):
        step = round(last * quarter / 4)
        x, y = place(step, ticks[0])
        pen.line([(x, y), (x, y + 6)], fill=_INK, width=1)
        pen.text((x, y + 10), str(step), fill=_INK, anchor="ma")
    pen.line([place(0, ticks[-1]), place(0, ticks[0]), place(last, ticks[0])], fill=_INK, width=1)
    pen.text((_LEFT + (_SIZE[0] - _LEFT - _RIGHT) / 2, _SIZE[1] - 12), "step", fill=_INK, anchor="ms")
    pen.text((12, 12), "reprojection error on held-out views", fill=_INK, anchor="la")


def _draw_legend(pen: ImageDraw, entries: Sequence[tuple[str, str, float | None]]) -> None:
    x = float(_SIZE[0] - _RIGHT)
    for name, colour, value in reversed(entries):
        text = name if value is None else f"{name} {value:.3f}"
        pen.text((x, 12), text, fill=_INK, anchor="ra")
        x -= pen.textlength(text) + 8
        pen.line([(x - 24, 22), (x, 22)], fill=colour, width=4)
        x -= 44
