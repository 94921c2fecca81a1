"""From the named tensors of a file to those of a model: wrapping names, heads, grids of positions, and what does not fit.

Imports no timm: a model is given as the names and shapes of its tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from featup_app.base.errors import BackboneError
from featup_app.features import Size

State = dict[str, torch.Tensor]

HEADS = ("head", "fc", "classifier", "head.fc")
"""Names of heads where timm names none, and in files of other programs."""

_CHUNK = re.compile(r"(^|\.)blocks\.\d+\.(\d+)\.")
_COMPUTED = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask", "position_ids")
"""Tensors that a model computes itself, under the last part of their names."""


@dataclass(frozen=True)
class Matched:
    """The tensors of a file under the names of a model.

    Attributes:
        state: those that have names of the model; floating point ones in float32.
        missing: names that the file lacks.
        reshaped: names whose tensors have another shape in the file.
        unexpected: names inside the model's parts that the model does not have.
        left_out: parts of the file that belong to no part of the model, such as a decoder or a projection head.
    """

    state: State
    missing: tuple[str, ...]
    reshaped: tuple[str, ...]
    unexpected: tuple[str, ...]
    left_out: tuple[str, ...]


def own_tensors(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> State | None:
    """The tensors of a file from inside whatever holds a model there: ``teacher.backbone.``, ``net.``, chunks of blocks, ...

    Args:
        tensors: of the file.
        wanted: of the model, without its head.

    Returns:
        All tensors under the prefix below which most names of the model stand, without it; None if that is less than half
        of them, and so the file of another program or another model.
    """
    best: tuple[int, bool, int, str] | None = None
    chosen: State = {}
    unchunked = {_CHUNK.sub(r"\1blocks.\2.", name): values for name, values in tensors.items()}
    for given in [dict(tensors), unchunked] if len(unchunked) == len(tensors) else [dict(tensors)]:
        counts: dict[str, int] = {}
        for name in given:
            starts = [0, *(found.end() for found in re.finditer(r"\.", name))]
            for start in starts:
                if name[start:] in wanted:
                    counts[name[:start]] = counts.get(name[:start], 0) + 1
        for prefix, count in counts.items():
            # Of a teacher and a student the teacher is the one that is used afterwards.
            rank = count, bool(re.search(r"teacher|ema", prefix)), -len(prefix), prefix
            if best is None or rank[:3] > best[:3]:
                best = rank
                chosen = {name.removeprefix(prefix): v for name, v in given.items() if name.startswith(prefix)}
    return chosen if best is not None and 2 * best[0] >= len(wanted) else None


def classes_of(tensors: Mapping[str, torch.Tensor], heads: Sequence[str]) -> int:
    """The outputs of the head in a file; 0 if it holds none of these heads."""
    for head in heads:
        weight = tensors.get(f"{head}.weight")
        if weight is not None and weight.dim() >= 2 and math.prod(weight.shape[2:]) == 1:
            return int(weight.shape[0])
    return 0


def matched(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], heads: Sequence[str]) -> Matched:
    """Sorts the tensors of a file by what the model does with them; see :class:`Matched`."""
    parts = {name.split(".")[0] for name in wanted}
    outside, unexpected, state = set(), [], {}
    for name, values in tensors.items():
        head = any(name.startswith(f"{head}.") for head in heads)
        if name in wanted:
            state[name] = values.float() if values.is_floating_point() else values
        elif head or name.split(".")[0] not in parts:
            outside.add(name.split(".")[0])
        elif name.split(".")[-1] not in _COMPUTED:
            unexpected.append(name)
    return Matched(
        state=state,
        missing=tuple(
            k for k, v in wanted.items() if k not in state and k.split(".")[-1] not in _COMPUTED and needed(v)
        ),
        reshaped=tuple(name for name, values in state.items() if values.shape != wanted[name].shape),
        unexpected=tuple(unexpected),
        left_out=tuple(sorted(outside)),
    )


def needed(values: torch.Tensor) -> bool:
    """Whether a tensor of a model has to come from a file: whole numbers are counters and indices that it makes itself."""
    return values.is_floating_point()


def check_values(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], file: str) -> None:
    """Refuses tensors that are no weights.

    Args:
        state: tensors of a file, by the model's names where it has them.
        wanted: the model's own.
        file: its name, for the message.

    Raises:
        BackboneError: if weights are whole numbers, not finite, or complex.
    """
    for name, values in state.items():
        if name in wanted and needed(wanted[name]) and not values.is_floating_point():
            kind = str(values.dtype).removeprefix("torch.")
            raise BackboneError(
                f"{file} holds {kind} numbers in {name}, where a model has weights; weights that were quantised cannot be used. "
                "Give the file with the original ones."
            )
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            count = int((~torch.isfinite(values)).sum())
            raise BackboneError(
                f"{file} holds {count} of {values.numel()} numbers in {name} that are infinite or not a number; its training "
                "diverged, or the file is damaged. Give another checkpoint."
            )


def grid_of(tokens: int) -> Size:
    """(rows, columns) of a grid with so many cells: square where it can be, else the nearest one that is wider than high."""
    rows = next(rows for rows in range(math.isqrt(tokens), 0, -1) if tokens % rows == 0)
    return rows, tokens // rows


def misfit(found: Matched, state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """In words, what of a file does not fit a model; empty if everything fits."""
    shapes = [f"{name} ({_shape(state[name])} instead of {_shape(wanted[name])})" for name in found.reshaped]
    parts = []
    for title, names in (("missing", found.missing), ("of another shape", shapes), ("unexpected", found.unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{title}: {', '.join(names[:3])}{more}")
    return "; ".join(parts)


def _shape(values: torch.Tensor) -> str:
    return "x".join(str(side) for side in values.shape) or "one number"
