"""What a method costs: time, peak memory and parameters, measured once on one picture in a process of its own.

The measured call computes the method's field (with any fit that this needs) and sixteen functionals of it at sixteen times the
grid. Backbone and features are computed before. Peak memory is the memory of the process beyond that before the call and beyond
the result. ``python -m featup_app.evaluation.costs`` reads a request from its standard input and prints the figures, both as
JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_app.base.child_process import child_facts
from featup_app.base.errors import FeatUpError
from featup_app.base.progress import Progress, silent
from featup_app.evaluation.methods import MethodChoice
from featup_app.evaluation.plan import Plan
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.report import Report
from featup_app.images.selection import named

if TYPE_CHECKING:
    from featup_app.evaluation.datasets import Item
    from featup_app.fields import FeatureField

FUNCTIONALS = 16
FACTOR = 16
WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Cost:
    """What one method costs on one picture.

    Attributes:
        seconds: duration of the call, after a call that is not counted.
        memory_mb: peak memory beyond the state before (1e6 bytes); None where the system does not report it.
        parameters: number of learned numbers, from training pictures or from this one.
    """

    seconds: float
    memory_mb: float | None
    parameters: int


def measure_costs(plan: Plan, records: Records, *, progress: Progress = silent) -> dict[str, Cost]:
    """The cost of each method of a plan, on its first picture that can be opened.

    Args:
        plan: methods, pictures and backbone.
        records: the store of costs, those of earlier runs included.
        progress: called while the other process measures; may cancel.

    Returns:
        Costs by label. Methods that cannot be measured are missing; the tables give the reasons.
    """
    from featup_app.evaluation.tasks.common import fingerprint

    item = _first_usable(plan)
    if item is None:
        return {}
    picture = fingerprint(item)
    costs: dict[str, Cost] = {}
    for choice in plan.methods:
        try:
            key = configuration_key({"task": "costs", **plan.facts(), **_identity(plan, choice)})
        except FeatUpError:
            continue
        known = records.find(key, picture)
        if known is None:
            with records.exclusive(f"cost {key}", progress):
                known = records.find(key, picture)
                if known is None:
                    known = _measured_elsewhere(plan, choice, named(item.image_path, item.selection), progress)
                    if known is not None:
                        records.keep(key, picture, known)
        if known is not None:
            costs[choice.label] = Cost(known["seconds"], known["memory_mb"], known["parameters"])
    return costs


def with_costs(report: Report, costs: Mapping[str, Cost]) -> Report:
    """The report with memory and parameters in each row whose method was measured."""
    rows = []
    for row in report.rows:
        cost = costs.get(row.method)
        if cost is not None:
            details = {**row.details, "cost": dataclasses.asdict(cost)}
            row = dataclasses.replace(row, memory_mb=cost.memory_mb, parameters=cost.parameters, details=details)
        rows.append(row)
    return dataclasses.replace(report, rows=tuple(rows))


def _first_usable(plan: Plan) -> Item | None:
    for item in plan.data.items:
        try:
            item.image()
            return item
        except FeatUpError:
            continue
    return None


def _identity(plan: Plan, choice: MethodChoice) -> dict[str, Any]:
    layer = plan.backbone.layer(plan.layer)
    return choice.prepare(plan.backbone.name, layer.name, layer.channels).identity


def _measured_elsewhere(plan: Plan, choice: MethodChoice, image: Path, progress: Progress) -> dict[str, Any] | None:
    """The cost, measured by another process; None where the method cannot be measured."""
    import torch

    request = {
        "backbone": plan.backbone.loaded_as,
        "device": str(plan.backbone.device),
        "layer": plan.layer,
        "size": plan.size,
        "image": str(image),
        "choice": dataclasses.asdict(choice),
        "threads": torch.get_num_threads(),
    }
    title = f"the cost of {choice.label}"
    try:
        return child_facts("featup_app.evaluation.costs", (), title, progress, request=request)
    except FeatUpError:
        return None


def learned_numbers(field: FeatureField, options: Mapping[str, Any]) -> int:
    """Number of learned parameters: of the weights that a method uses, or of the networks in its field."""
    from torch import nn

    weights = options.get("upsampler")
    if weights is not None:
        stack = weights.stack
        left_out = getattr(stack, "fixup_proj", None) if weights.universal else None
        restoring = 0 if weights.restoration is None else weights.restoration.numel()
        return restoring + _count([stack]) - (_count([left_out]) if isinstance(left_out, nn.Module) else 0)
    restoration = getattr(field, "restoration", None)
    if restoration is not None:
        return int(restoration.numel())
    modules: list[Any] = []
    for value in vars(field).values():
        modules += value if isinstance(value, list | tuple) else [value]
    return _count([module for module in modules if isinstance(module, nn.Module)])


def _count(modules: Sequence[Any]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _measure_here(request: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from featup_app.backbones import load_backbone
    from featup_app.base.peak_memory import extra_megabytes
    from featup_app.fields import find_method
    from featup_app.images import load_image
    from featup_app.ops.cuda import wait_for

    torch.set_num_threads(request["threads"])
    name, path = request["backbone"]
    backbone = load_backbone(name, device=request["device"], path=path)
    features = backbone.extract(load_image(request["image"]), size=request["size"], layer=request["layer"])
    choice = MethodChoice(**request["choice"])
    method = choice.prepare(backbone.name, features.layer, features.channels)
    rows, columns = features.geometry.grid_hw
    size = rows * FACTOR, columns * FACTOR
    functionals = torch.randn(FUNCTIONALS, features.channels, generator=torch.Generator().manual_seed(0))
    seconds: list[float] = []
    fields: list[FeatureField] = []

    def run() -> torch.Tensor:
        fields.clear()
        begun = time.perf_counter()
        fields.append(method.field(features))
        result = wait_for(fields[0].project(functionals.to(features.data), size=size))
        seconds.append(time.perf_counter() - begun)
        return result

    if "steps" in find_method(choice.method).options and choice.upsampler is None:
        # Two steps are enough to warm up.
        hurried = dataclasses.replace(method, options={**method.options, "steps": WARM_UP_STEPS})
        hurried.field(features).project(functionals.to(features.data), size=size)
    else:
        run()
    fields.clear()
    memory = extra_megabytes(run, str(features.data.device))
    if not fields:
        run()
    parameters = learned_numbers(fields[0], method.options)
    return dataclasses.asdict(Cost(seconds[-1], memory, parameters))


def _main() -> None:
    sys.stdout.write(json.dumps(_measure_here(json.loads(sys.stdin.read()))))


if __name__ == "__main__":
    _main()
